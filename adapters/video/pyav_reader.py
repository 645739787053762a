"""Frames of a video file with PyAV, which are those that a player shows.

Two ways lead there. In order: every frame up to the last wanted one is decoded, and a frame's index
is its place among them. How many there are is known beforehand from the packets; where the decoder
gives another number (leading pictures of a stream that was cut open cannot be decoded), frames are
chosen anew from the true one. By time, which is faster in long videos: a frame's index is its place
among the times of all packets, so decoding starts at the last keyframe before each wanted frame,
and goes on until a frame of that very time comes. Where one does not come, or anything is wrong,
the first way decides.
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
    indices = choose(probe.total, probe.fps)
    found = _by_time(path, probe, indices)
    if found is not None:
        assert probe.times_s is not None
        times_s = probe.times_s[indices]
        return Video(found, indices, times_s, probe.fps, probe.total, path, "pyav", reason)
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


def _by_time(path: Path, probe: Probe, indices: np.ndarray) -> np.ndarray | None:
    """[T, H, W, 3] uint8, the frames at ``indices`` by their times; None where that fails.

    Frames may be shown before the keyframe that they are stored behind, and lean on the one before
    as well. They come while decoding goes on from there.
    """
    import av

    if probe.pts is None or not probe.begins_with_first or not probe.begins_at_key:
        return None
    wanted = [int(pts) for pts in probe.pts[np.unique(indices)]]
    starts = np.searchsorted(probe.key_pts, wanted, side="right") - 1
    if starts.min() < 0:
        return None
    behind: dict[int, set[int]] = {}  # keyframe -> frames to be found from there on
    for pts, start in zip(wanted, starts, strict=True):
        behind.setdefault(int(probe.key_pts[start]), set()).add(pts)
    found: dict[int, np.ndarray] = {}
    awaited: set[int] = set()
    try:
        with open_stream(path, probe.container) as (file, stream):
            stream.thread_type = "AUTO"
            for packet, _ in shown_packets(file, stream, begin_at_key=True):
                if packet.is_keyframe and packet.pts is not None:
                    awaited |= behind.pop(packet.pts, set())
                if not awaited:
                    continue
                for frame in packet.decode():
                    if frame.pts in awaited:
                        if frame.is_corrupt:
                            return None
                        found[frame.pts] = _picture(frame, probe)
                        awaited.remove(frame.pts)
                if not awaited:
                    if not behind:
                        break
                    stream.codec_context.flush_buffers()
    except (av.FFmpegError, OrientationError):
        return None
    if len(found) < len(wanted):
        return None
    return np.stack([found[int(pts)] for pts in probe.pts[indices]])


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
                times_s += [_seconds(frame, position, first_s, probe)] * wanted[position]
                frames += [_picture(frame, probe)] * wanted[position]
            if position == last and not to_the_end:
                return frames, np.array(times_s), None
    except (av.FFmpegError, OrientationError) as error:
        what = "cannot be shown" if isinstance(error, OrientationError) else "truncated or damaged"
        raise video_error(
            path, f"{what}: frame {position + 1} of {probe.total} (PyAV: {one_line(error)})"
        ) from error
    return frames, np.array(times_s), position + 1


def _seconds(frame: VideoFrame, position: int, first_s: float | None, probe: Probe) -> float:
    """When a frame is shown, by its own time or else by its place; NaN where neither tells."""
    if probe.container != "avi" and first_s is not None and frame.time is not None:
        return frame.time - first_s
    return position / (probe.fps or math.nan)


def _frames(path: Path, probe: Probe) -> Iterator[VideoFrame]:
    with open_stream(path, probe.container) as (file, stream):
        stream.thread_type = "AUTO"
        for packet, _ in shown_packets(file, stream, begin_at_key=probe.begins_at_key):
            yield from packet.decode()


def _picture(frame: VideoFrame, probe: Probe) -> np.ndarray:
    """[H, W, 3] uint8, upright, in the size of the stream's first frame."""
    pixels = frame.to_ndarray(format="rgb24", width=probe.width, height=probe.height)
    return shown_upright(pixels, display_matrix(frame))
