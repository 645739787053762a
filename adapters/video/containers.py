"""Which container a file is, by its first bytes, and whether it is as long as it says.

Decoders read a truncated Matroska or AVI file to the point of the break and call that the video, so
the container's own sizes are compared with the file first. The format is told to ffmpeg, so neither
a file's suffix nor its name decides how it is read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from .contract import VideoError, video_error

Container = Literal["mp4", "matroska", "avi", "mpegts", "flv", "ogg", "asf", "gif", "mpeg", "raw"]

# Boxes that files begin with (ISO/IEC 14496-12, and `wide` and `pnot` of QuickTime).
_FIRST_BOXES = frozenset(
    b"ftyp moov mdat free skip wide pnot moof mfra sidx ssix styp uuid emsg prft meta pdin".split()
)
_MATROSKA_SEGMENT_ID = 0x18538067
_SIGNATURES: tuple[tuple[bytes, Container], ...] = (
    (b"FLV", "flv"),
    (b"OggS", "ogg"),
    (b"0&\xb2u", "asf"),
    (b"GIF8", "gif"),
    (b"\0\0\1\xba", "mpeg"),
    (b"\0\0\1", "raw"),
    (b"\0\0\0\1", "raw"),
)
# Packets of a transport stream begin with a sync byte: after 4 bytes of time in an .m2ts file,
# and followed by 16 bytes of error correction in broadcasts.
_TS_PACKETS = ((0, 188), (4, 192), (0, 204))


def check_container(path: Path) -> Container:
    """Which container a file is.

    Returns:
        ``"mp4"`` stands for mov too, ``"matroska"`` for webm, ``"raw"`` for coded pictures without
        a container. Of mp4, matroska and avi the length is checked, of the others the signature.

    Raises:
        OSError: it cannot be read.
        VideoError: an empty file, no known signature, or a container that ends before its
            declared end.
    """
    file_bytes = path.stat().st_size
    if file_bytes == 0:
        raise video_error(path, "the file is empty")
    with path.open("rb") as file:
        head = file.read(2 * max(size for _, size in _TS_PACKETS))
        file.seek(0)
        check: Callable[[Path, BinaryIO, int], None]
        container: Container
        if head[4:8] in _FIRST_BOXES:
            container, check = "mp4", _check_mp4
        elif head[:4] == b"\x1aE\xdf\xa3":
            container, check = "matroska", _check_matroska
        elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            container, check = "avi", _check_avi
        else:
            return _without_length(path, head)
        check(path, file, file_bytes)
        return container


def _without_length(path: Path, head: bytes) -> Container:
    for start, size in _TS_PACKETS:
        if len(head) > start + size and head[start] == head[start + size] == 0x47:
            return "mpegts"
    for signature, container in _SIGNATURES:
        if head.startswith(signature):
            return container
    raise video_error(
        path,
        "not a video file (no signature of mp4, mov, mkv, webm, avi, mpeg, flv, ogg, wmv or gif)",
    )


def _truncated(path: Path, file_bytes: int, declared_bytes: int) -> VideoError:
    return video_error(
        path, f"truncated: {file_bytes} bytes, but its container declares {declared_bytes}"
    )


def _check_mp4(path: Path, file: BinaryIO, file_bytes: int) -> None:
    """Walk the top-level boxes: each must end inside the file, and one must be the index (moov).

    Boxes of other kinds are legal, and readers have to pass over them; after the index, bytes that
    are no known box may as well be another tool's, which players ignore.
    """
    position, has_index = 0, False
    while position + 8 <= file_bytes:
        file.seek(position)
        size, kind = struct.unpack(">I4s", file.read(8))
        if kind not in _FIRST_BOXES and (has_index or not kind.isalnum()):
            break
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
        raise video_error(path, "truncated or never finished: no index (moov box)")


def _check_matroska(path: Path, file: BinaryIO, file_bytes: int) -> None:
    """Walk from the EBML header to the segment, whose declared end must lie inside the file."""
    position = 0
    while position < file_bytes:
        file.seek(position)
        header = file.read(12)
        id_bytes = _vint_bytes(header, 0)
        size_bytes = _vint_bytes(header, id_bytes)
        if not id_bytes or not size_bytes or id_bytes + size_bytes > len(header):
            raise video_error(path, f"damaged: no valid Matroska element at byte {position}")
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
    raise video_error(path, "truncated: the Matroska file ends before its segment")


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
