"""Frames of a video file with decord, which seeks, and when that gives the right ones.

decord counts packets and skips from keyframes by that count, so it is right where every packet is a
shown frame and every keyframe a fresh start. It also carries a ffmpeg of 2020: it begins transport
streams at their second keyframe, finds no frame after the hidden ones of VP9 on more than two
threads, ignores mirror images, has no decoder for AV1, and interpolates the chroma of 10-bit video
in its own way. Within the limits below, its frames are those of PyAV bit for bit.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from .contract import Choice, Video, one_line, video_error
from .orientation import is_upright
from .probe import Probe

_CONTAINERS = ("mp4", "matroska")
_CODECS = ("h264", "hevc", "mpeg4", "vp8")
_PIXEL_FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuv444p")
# Below, the frames of some widths (24, 48, 72) cannot be copied out of decord.
_LEAST_WIDTH = 96


def why_not_decord(path: Path, probe: Probe) -> str | None:
    """The reason for which decord would not give the frames that a player shows; None: it would.

    Raises:
        OrientationError: a display matrix that nothing can show.
    """
    checks = (
        (probe.container in _CONTAINERS, f"it does not seek rightly in {probe.container}"),
        (probe.codec in _CODECS, f"it does not read {probe.codec} rightly"),
        (probe.pixel_format in _PIXEL_FORMATS, f"it converts {probe.pixel_format} otherwise"),
        (probe.width >= _LEAST_WIDTH, f"it cannot copy frames {probe.width} pixels wide"),
        (_is_whole_chroma(probe), "it interpolates the chroma of odd sizes otherwise"),
        (is_upright(probe.matrix), "the video is stored turned or mirrored"),
        (_is_consistent(probe), "its index and its frames are at odds"),
        (probe.video_streams == 1, f"there are {probe.video_streams} video streams"),
        (probe.begins_at_key, "no frame is marked as a keyframe"),
        (not probe.hidden, f"{probe.hidden} frames of the file are not shown"),
        (probe.pts is not None, "frames have no times"),
        (probe.keyframes_begin_anew, "frames after a keyframe are shown before it"),
        (_is_text(path), "its file name is not UTF-8"),
        ("%" not in str(path.absolute()), "its file name may be taken for a pattern of names"),
    )
    return next((reason for is_right, reason in checks if not is_right), None)


def is_installed() -> bool:
    return importlib.util.find_spec("decord") is not None


def read_decord(path: Path, choose: Choice, probe: Probe) -> Video:
    """Read frames with decord; :func:`why_not_decord` has said that it is right.

    Raises:
        ImportError: decord is not installed.
        ValueError: what ``choose`` raises.
        VideoError: decord cannot open the file, counts other frames than there are, or cannot
            decode one.
    """
    import decord

    # Complaints reach the caller as exceptions; ffmpeg's own lines on stderr would only double
    # them.
    decord.logging.set_level(decord.logging.QUIET)
    try:
        video = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0))
        counted = len(video)
    except (RuntimeError, decord.DECORDError) as error:
        raise video_error(path, f"no frame can be decoded (decord: {one_line(error)})") from error
    if counted != probe.total:
        raise video_error(path, f"decord counts {counted} frames, but it has {probe.total}")
    indices = choose(probe.total, probe.fps)
    try:
        frames = video.get_batch(indices).asnumpy()
    except (RuntimeError, decord.DECORDError) as error:
        raise video_error(
            path, f"truncated or damaged: decoding failed (decord: {one_line(error)})"
        ) from error
    assert probe.times_s is not None  # a reason against decord
    times_s = probe.times_s[indices]
    return Video(frames, indices, times_s, probe.fps, probe.total, path, reader="decord")


def _is_consistent(probe: Probe) -> bool:
    """Whether the number of frames, and their duration, is about what the file declares. decord
    makes room for that before it counts, and ends the process where there is too little memory."""
    frames = probe.total + probe.hidden
    declared = probe.declared_s * (probe.fps or 0)
    return probe.index_frames in (0, frames) and declared < 100 * frames + 10_000


def _is_whole_chroma(probe: Probe) -> bool:
    """Whether the edge pixels have a full share of the chroma, of which there may be less."""
    return probe.pixel_format == "yuv444p" or probe.width % 2 == probe.height % 2 == 0


def _is_text(path: Path) -> bool:
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True
