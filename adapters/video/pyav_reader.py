"""Frames of a video file with PyAV: every frame up to the last wanted one is decoded.

Nothing is sought, so a frame's index is its place among the frames that the decoder gives, which
are those that a player shows. How many there are is known beforehand from the packets. Where the
decoder gives another number (leading pictures of a stream that was cut open cannot be decoded),
frames are chosen anew from the true one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .contract import Choice, Video, one_line, video_error
from .orientation import OrientationError, shown_upright
from .probe import Probe, display_matrix, open_stream, shown_packets

if TYPE_CHECKING:
    from av import VideoFrame


def read_pyav(path: Path, choose: Choice, probe: Probe, reason: str | None) -> Video:
    """Read frames with PyAV.

    A stream whose picture size changes gives all frames in the size of its first one.

    Args:
        reason: why it was not decord.

    Raises:
        ValueError: what ``choose`` raises.
        VideoError: a frame that cannot be decoded, is damaged, or is to be shown at an angle.
    """
    total = probe.total
    for _ in range(2):
        indices = choose(total, probe.fps)
        to_the_end = bool(indices[-1] + 1 == total)
        frames, times_s, decoded = _decode(path, probe, indices, to_the_end=to_the_end)
        is_complete = len(frames) == len(indices)
        if is_complete and (decoded is None or decoded == total):
            clock = None if np.isnan(times_s).any() else times_s
            return Video(np.stack(frames), indices, clock, probe.fps, total, path, "pyav", reason)
        if not decoded:
            break
        total = decoded
    raise video_error(path, f"truncated or damaged: no frame of {probe.total} can be decoded")


def _decode(
    path: Path, probe: Probe, indices: np.ndarray, *, to_the_end: bool
) -> tuple[list[np.ndarray], np.ndarray, int | None]:
    """The frames at ``indices``, their seconds, and how many frames there are in all.

    The last is None where decoding stopped before the end, which it does at the last wanted frame
    unless ``to_the_end``.
    """
    import av

    wanted = Counter(indices.tolist())
    last = int(indices[-1])
    frames: list[np.ndarray] = []
    times_s: list[float] = []
    first_s: float | None = None
    position = -1
    try:
        for position, frame in enumerate(_frames(path, probe)):
            if position == 0:
                first_s = frame.time
            if position in wanted:
                if frame.is_corrupt:
                    raise video_error(path, f"damaged: frame {position} of {probe.total}")
                if probe.has_clock and first_s is not None and frame.time is not None:
                    time_s = frame.time - first_s
                else:
                    time_s = position / (probe.fps or math.nan)
                frames += [_picture(frame, probe)] * wanted[position]
                times_s += [time_s] * wanted[position]
            if position == last and not to_the_end:
                return frames, np.array(times_s), None
    except (av.FFmpegError, OrientationError) as error:
        what = "cannot be shown" if isinstance(error, OrientationError) else "truncated or damaged"
        raise video_error(
            path, f"{what}: frame {position + 1} of {probe.total} (PyAV: {one_line(error)})"
        ) from error
    return frames, np.array(times_s), position + 1


def _frames(path: Path, probe: Probe) -> Iterator[VideoFrame]:
    with open_stream(path, probe.container) as (file, stream):
        stream.thread_type = "AUTO"
        for packet, _ in shown_packets(file, stream, begin_at_key=probe.begins_at_key):
            yield from packet.decode()


def _picture(frame: VideoFrame, probe: Probe) -> np.ndarray:
    """[H, W, 3] uint8, upright, in the size of the stream's first frame."""
    pixels = frame.to_ndarray(format="rgb24", width=probe.width, height=probe.height)
    return shown_upright(pixels, display_matrix(frame))
