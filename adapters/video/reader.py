"""Frames of a video file or of a folder of images, as one uint8 array.

A video model looks at a few frames spread over the whole video. The contract of :func:`read_video`
is: the frames that a player shows, upright and in order, at the indices that the rule promised, or
one clear error. Two libraries read files. PyAV gives frames by their times or in order, which is
right wherever ffmpeg is; decord seeks by the number of packets, which is wrong in many files. So
what a file holds is looked at first (:mod:`.probe`), and decord reads only those that it reads
rightly (:mod:`.decord_reader`). There its frames are PyAV's bit for bit, so which of the two it was
makes no difference to a result but its time.

Frames are given as they are stored: pixels that are not square are not stretched, and interlaced
fields stay woven.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from .containers import check_container
from .contract import (
    Choice,
    IndexRule,
    Reader,
    Video,
    VideoError,
    path_text,
    require_source,
    video_error,
)
from .decord_reader import is_installed, read_decord, why_not_decord
from .image_folder import read_folder
from .orientation import OrientationError
from .probe import probe
from .pyav_reader import read_pyav
from .sampling import sample_indices

__all__ = [
    "IndexRule",
    "Reader",
    "Video",
    "VideoError",
    "path_text",
    "read_video",
    "require_source",
    "sample_indices",
    "video_error",
]


def read_video(
    source: str | Path,
    num_frames: int | None = None,
    *,
    indices: IndexRule | None = None,
    folder_fps: float | None = None,
    reader: Reader = "auto",
) -> Video:
    """Read frames of a video file or of a folder of images.

    Args:
        source: a video file (mp4, mov, mkv, webm, avi, ts, gif and whatever else ffmpeg decodes),
            or a folder whose png and jpg files are the frames, in natural order of their names
            (2.jpg before 10.jpg).
        num_frames: frames wanted, >= 1, spread evenly. A shorter source gives all of its frames.
        indices: chooses the frames instead; with ``num_frames`` as well, so many have to come.
        folder_fps: frames a second of a folder of images, if it has a clock.
        reader: ``"decord"`` or ``"pyav"`` reads files with that library, or not at all;
            ``"auto"`` takes decord where it is installed and right, PyAV otherwise, and
            ``Video.reader`` says which. All need PyAV.

    Raises:
        ValueError: ``num_frames`` below 1, or neither it nor ``indices``; an unknown ``reader``;
            what ``indices`` raises, or returns and is not as it should be.
        VideoError: no such file, not a video, no video stream, a truncated or damaged file, no
            frames, a file that decord would read wrongly if it was asked for by name, a folder
            without images or with images of different sizes.
        ImportError: a library is not installed.
    """
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames must be an integer >= 1, got {num_frames}")
    if num_frames is None and indices is None:
        raise ValueError("num_frames or indices must say which frames to read")
    if reader not in get_args(Reader):
        raise ValueError(f"reader must be one of {', '.join(get_args(Reader))}, got {reader!r}")
    choose = Choice(num_frames, indices)
    path = require_source(source)
    if path.is_dir():
        return read_folder(path, choose, folder_fps)
    try:
        container = check_container(path)
    except OSError as error:
        raise video_error(path, f"cannot be read: {error.strerror or error}") from error
    found = probe(path, container)
    if reader == "pyav":
        return read_pyav(path, choose, found, None)
    try:
        reason = why_not_decord(path, found)
    except OrientationError as error:
        raise video_error(path, f"cannot be shown: {error}") from error
    if reader == "decord":
        if reason is not None:
            raise video_error(path, f"decord cannot be trusted with it: {reason}; PyAV reads it")
        return read_decord(path, choose, found)
    if reason is None and not is_installed():
        reason = "decord is not installed"
    if reason is None:
        try:
            return read_decord(path, choose, found)
        except VideoError as error:
            reason = str(error)
    return read_pyav(path, choose, found, reason)
