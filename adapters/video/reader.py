"""Frames of a video file or of a folder of images, as one uint8 array.

A video model looks at a few frames spread over the whole video, so the reader gets the number of
frames, picks the indices, and decodes those. Files go through decord, which seeks; PyAV takes
over on platforms for which no decord wheel exists. Both convert with ffmpeg's swscale and both
turn frames upright, so 8-bit video comes out bit for bit the same. (10-bit 4:2:0 does not: decord
carries an older swscale, which interpolates chroma differently.) Two weaknesses of decord are
covered here. It reads a truncated Matroska or AVI file to the point of the break and calls that
the video; so the container's own sizes are checked against the file first. And where packets have
no presentation times, as in AVI, it seeks to wrong frames; so everything but MP4 and Matroska is
decoded from the start. What decord cannot read at all (MPEG-TS with its last frame, Matroska of a
live recording) is an error that says so; ``reader="av"`` reads those.
"""

from __future__ import annotations

import importlib.util
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from .sampling import sample_indices

Reader = Literal["auto", "decord", "av"]
Container = Literal["mp4", "matroska", "avi", "other"]

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")


class VideoError(ValueError):
    """A video that cannot be read; the message is one line and names the file."""


@dataclass(frozen=True)
class Video:
    """Sampled frames of one video.

    Attributes:
        frames: [T, H, W, 3] uint8, RGB.
        indices: [T] int64, the frame of the source that each one is.
        timestamps_s: [T] float64, seconds since the first frame of the source; None where the
            source has no clock (a folder of images of which no fps was given).
        fps: average frames a second of the source; None where it has no clock.
        total_frames: frames of the source. Below the number asked for, all of them were taken.
        source: the file or folder.
    """

    frames: np.ndarray
    indices: np.ndarray
    timestamps_s: np.ndarray | None
    fps: float | None
    total_frames: int
    source: Path


class IndexRule(Protocol):
    """Chooses frames: :func:`~.sampling.frame_indices` with ``n`` and ``rule`` given by
    ``functools.partial``, for example."""

    def __call__(self, total: int, *, fps: float | None) -> np.ndarray:
        """[T] int64 in [0, total), ascending; repeats are fine. ``fps`` is None without a clock."""


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
        source: a video file (mp4, mov, mkv, webm, avi and whatever else ffmpeg decodes), or a
            folder whose png and jpg files are the frames, in natural order of their names (2.jpg
            before 10.jpg).
        num_frames: frames wanted, >= 1, spread evenly. A shorter source gives all of its frames.
        indices: chooses the frames instead; with ``num_frames`` as well, so many have to come.
        folder_fps: frames a second of a folder of images, if it has a clock.
        reader: ``"decord"`` or ``"av"`` (PyAV) reads files with that library; ``"auto"`` takes
            decord where it is installed.

    Raises:
        ValueError: ``num_frames`` below 1, or neither it nor ``indices``; what ``indices`` raises,
            or returns and is not as it should be.
        VideoError: no such file, not a video, no video stream, a truncated or damaged file, no
            frames, a folder without images or with images of different sizes.
        ImportError: the chosen library is not installed.
    """
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames must be an integer >= 1, got {num_frames}")
    if num_frames is None and indices is None:
        raise ValueError("num_frames or indices must say which frames to read")
    choose = _Choice(num_frames, indices)
    path = require_source(source)
    if path.is_dir():
        return _read_folder(path, choose, folder_fps)
    try:
        container = check_container(path)
    except OSError as error:
        raise VideoError(f"{path}: cannot be read: {error.strerror or error}") from error
    if reader == "auto":
        reader = "decord" if importlib.util.find_spec("decord") else "av"
    if reader == "decord":
        return _read_decord(path, choose, seekable=container in ("mp4", "matroska"))
    return _read_av(path, choose)


def require_source(source: str | Path) -> Path:
    """The path of a file or folder that :func:`read_video` can try.

    Raises:
        VideoError: there is none.
    """
    path = Path(source)
    if not path.exists():
        raise VideoError(f"{path}: no such file")
    if not (path.is_file() or path.is_dir()):
        raise VideoError(f"{path}: neither a file nor a folder")
    return path


@dataclass(frozen=True)
class _Choice:
    """Which frames of a source are wanted."""

    num_frames: int | None
    rule: IndexRule | None

    def __call__(self, total: int, fps: float | None) -> np.ndarray:
        if self.rule is None:
            assert self.num_frames is not None
            return sample_indices(total, self.num_frames)
        chosen = np.asarray(self.rule(total, fps=fps))
        count = self.num_frames or len(chosen)
        is_valid = chosen.shape == (count,) and count > 0 and chosen.dtype.kind == "i"
        if not is_valid or chosen[0] < 0 or chosen[-1] >= total or (np.diff(chosen) < 0).any():
            raise ValueError(
                f"indices must be {count} ascending integers in [0, {total}), got {chosen}"
            )
        return chosen.astype(np.int64)


# ---- readers


def _read_decord(path: Path, choose: _Choice, *, seekable: bool) -> Video:
    import decord

    # Complaints reach the caller as exceptions; ffmpeg's own lines on stderr would only double
    # them.
    decord.logging.set_level(decord.logging.QUIET)
    try:
        video = decord.VideoReader(str(path), ctx=decord.cpu(0))
        total = len(video)
    except (RuntimeError, decord.DECORDError) as error:
        raise VideoError(_open_failure(path, "decord", error)) from error
    if total == 0:
        raise VideoError(f"{path}: the video stream has no frames")
    fps = float(video.get_avg_fps())
    indices = choose(total, fps)
    try:
        if seekable:
            frames = video.get_batch(indices).asnumpy()
            starts_s = video.get_frame_timestamp(range(total))[:, 0].astype(np.float64)
            timestamps_s = starts_s[indices] - starts_s[0]
        else:
            frames = np.stack(list(_decord_in_order(video, indices)))
            timestamps_s = indices / fps
    except (RuntimeError, StopIteration, decord.DECORDError) as error:
        raise VideoError(_decode_failure(path, "decord", error)) from error
    return Video(frames, indices, timestamps_s, fps, total, path)


def _decord_in_order(video: Any, indices: np.ndarray) -> Iterator[np.ndarray]:
    """The wanted frames by decoding every frame up to the last of them: right where neither
    decord's seeking nor its skipping is."""
    counts = Counter(indices.tolist())
    for position in range(int(indices[-1]) + 1):
        frame = video.next()
        yield from [frame.asnumpy()] * counts[position]


def _read_av(path: Path, choose: _Choice) -> Video:
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path}: no video stream")
            fps = float(container.streams.video[0].average_rate or 0)
            total = sum(1 for packet in container.demux(video=0) if packet.size)
    except av.FFmpegError as error:
        raise VideoError(_open_failure(path, "PyAV", error)) from error
    if total == 0:
        raise VideoError(f"{path}: the video stream has no frames")
    indices = choose(total, fps or None)
    counts = Counter(indices.tolist())
    frames: list[np.ndarray] = []
    times_s: list[float] = []
    first_s = 0.0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for position, frame in enumerate(container.decode(stream)):
                time_s = float(frame.time or 0.0)
                if position == 0:
                    first_s = time_s
                if position in counts:
                    upright = np.rot90(frame.to_ndarray(format="rgb24"), (frame.rotation // 90) % 4)
                    frames += [np.ascontiguousarray(upright)] * counts[position]
                    times_s += [time_s - first_s] * counts[position]
                if len(frames) == len(indices):
                    break
    except av.FFmpegError as error:
        raise VideoError(_decode_failure(path, "PyAV", error)) from error
    if len(frames) < len(indices):
        raise VideoError(
            f"{path}: truncated or damaged: frame {indices[len(frames)]} of {total}"
            " cannot be decoded"
        )
    return Video(np.stack(frames), indices, np.array(times_s), fps, total, path)


def _read_folder(path: Path, choose: _Choice, fps: float | None) -> Video:
    images = (file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    files = sorted(images, key=_natural_key)
    if not files:
        raise VideoError(f"{path}: the folder has no images ({', '.join(IMAGE_SUFFIXES)})")
    indices = choose(len(files), fps)
    frames: list[np.ndarray] = []
    for index in indices:
        try:
            with Image.open(files[index]) as image:
                frame = np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise VideoError(f"{files[index]}: not a readable image: {_one_line(error)}") from error
        if frames and frame.shape != frames[0].shape:
            raise VideoError(
                f"{files[index]}: {frame.shape[1]}x{frame.shape[0]} pixels, but the first frame of"
                f" the folder has {frames[0].shape[1]}x{frames[0].shape[0]}"
            )
        frames.append(frame)
    times_s = None if fps is None else indices / fps
    return Video(np.stack(frames), indices, times_s, fps, len(files), path)


def _natural_key(file: Path) -> tuple[list[tuple[bool, int, str]], str]:
    """Digit runs compare as numbers; the name itself decides between 1.png and 01.png."""
    parts = re.findall(r"\d+|\D+", file.name)
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts], file.name


def _open_failure(path: Path, library: str, error: BaseException) -> str:
    text = _one_line(error)
    if "cannot find video stream" in text:  # decord's words
        return f"{path}: no video stream"
    return f"{path}: no frame can be decoded ({library}: {text})"


def _decode_failure(path: Path, library: str, error: BaseException) -> str:
    return f"{path}: truncated or damaged: decoding failed ({library}: {_one_line(error)})"


def _one_line(error: BaseException) -> str:
    """The first line of a decoder's message, without the source location in decord's."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", lines[0])


# ---- is the file whole?

_MP4_BOXES = frozenset(b"ftyp moov mdat free skip wide pnot moof mfra sidx styp uuid".split())
_MATROSKA_SEGMENT_ID = 0x18538067


def check_container(path: Path) -> Container:
    """Which container a file is, by its first bytes, and whether it is as long as it says.

    Returns:
        ``"mp4"`` (also mov), ``"matroska"`` (also webm), ``"avi"``, or ``"other"`` for formats of
        which only the signature is looked at.

    Raises:
        VideoError: an empty file, no known signature, or a container that ends before its
            declared end.
    """
    file_bytes = path.stat().st_size
    if file_bytes == 0:
        raise VideoError(f"{path}: the file is empty")
    with path.open("rb") as file:
        head = file.read(189)
        file.seek(0)
        if head[4:8] in _MP4_BOXES:
            _check_mp4(path, file, file_bytes)
            return "mp4"
        if head[:4] == b"\x1aE\xdf\xa3":
            _check_matroska(path, file, file_bytes)
            return "matroska"
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            _check_avi(path, file, file_bytes)
            return "avi"
    mpeg_ts = head[0] == 0x47 and len(head) == 189 and head[188] == 0x47
    if mpeg_ts or head.startswith((b"\0\0\1", b"\0\0\0\1", b"FLV", b"OggS", b"0&\xb2u", b"GIF8")):
        return "other"
    raise VideoError(
        f"{path}: not a video file (no signature of mp4, mov, mkv, webm, avi, mpeg, flv, ogg, wmv"
        " or gif)"
    )


def _truncated(path: Path, file_bytes: int, declared_bytes: int) -> VideoError:
    return VideoError(
        f"{path}: truncated: {file_bytes} bytes, but its container declares {declared_bytes}"
    )


def _check_mp4(path: Path, file: BinaryIO, file_bytes: int) -> None:
    """Walk the top-level boxes: each must end inside the file, and one must be the index (moov)."""
    position, has_index = 0, False
    while position + 8 <= file_bytes:
        file.seek(position)
        size, kind = struct.unpack(">I4s", file.read(8))
        if kind not in _MP4_BOXES:
            break  # trailing data of another tool: players ignore it too
        if size == 1:
            wide = file.read(8)
            size = struct.unpack(">Q", wide)[0] if len(wide) == 8 else file_bytes + 1
        elif size == 0:
            size = file_bytes - position  # "up to the end of the file"
        has_index |= kind == b"moov"
        if size < 8 or position + size > file_bytes:
            raise _truncated(path, file_bytes, position + size)
        position += size
    if not has_index:
        raise VideoError(f"{path}: truncated or never finished: no index (moov box)")


def _check_matroska(path: Path, file: BinaryIO, file_bytes: int) -> None:
    """Walk from the EBML header to the segment, whose declared end must lie inside the file."""
    position = 0
    while position < file_bytes:
        file.seek(position)
        header = file.read(12)
        id_bytes = _vint_bytes(header, 0)
        size_bytes = _vint_bytes(header, id_bytes)
        if not id_bytes or not size_bytes or id_bytes + size_bytes > len(header):
            raise VideoError(f"{path}: damaged: no valid Matroska element at byte {position}")
        element = int.from_bytes(header[:id_bytes], "big")
        mask = (1 << (7 * size_bytes)) - 1
        size = int.from_bytes(header[id_bytes : id_bytes + size_bytes], "big") & mask
        end = position + id_bytes + size_bytes + size
        if size == mask:
            return  # unknown size: a live recording says nothing about its length
        if end > file_bytes:
            raise _truncated(path, file_bytes, end)
        if element == _MATROSKA_SEGMENT_ID:
            return
        position = end
    raise VideoError(f"{path}: truncated: the Matroska file ends before its segment")


def _vint_bytes(data: bytes, offset: int) -> int:
    """Length of the EBML variable-size integer that starts at ``offset``; 0 where there is none."""
    if offset >= len(data) or data[offset] == 0:
        return 0
    return 9 - data[offset].bit_length()


def _check_avi(path: Path, file: BinaryIO, file_bytes: int) -> None:
    """Walk the RIFF chunks (large files have several): each must end inside the file."""
    position = 0
    while position + 8 <= file_bytes:
        file.seek(position)
        kind, size = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF":
            break
        if position + 8 + size > file_bytes:
            raise _truncated(path, file_bytes, position + 8 + size)
        position += 8 + size + size % 2
