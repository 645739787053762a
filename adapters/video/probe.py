"""What a video file holds, from its packets and its first frame, before any frame is chosen.

One pass over the packets, without decoding, costs little more than reading the file, and says what
decides over right and wrong frames: how many of them are shown, when, and whether a decoder may
begin at every keyframe. Everything goes by what ffmpeg's demuxers say through PyAV, so containers
need no parser here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from .containers import Container
from .contract import MAX_PIXELS, one_line, video_error

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.buffer import Buffer
    from av.container import InputContainer
    from av.video.stream import VideoStream

_FFMPEG_FORMAT = {"mp4": "mov"}  # where ffmpeg's name is another
_RAW_FORMATS = "h264,hevc,m4v,mpegvideo,mpeg,vc1,h261,h263,cavsvideo"


@dataclass(frozen=True)
class Probe:
    """A video file's frames, without their pixels.

    Attributes:
        container: as :func:`~.containers.check_container` has it.
        codec: ffmpeg's name of the format.
        pixel_format: ffmpeg's name, of the first frame.
        width, height: of the first frame as it is stored, in pixels.
        matrix: the first frame's display matrix; None: there is none.
        video_streams: how many there are, cover pictures left out.
        total: packets whose frame is shown.
        hidden: decodable packets whose frame is not: cut off by an edit list, or a reference that
            other frames are made of.
        begins_at_key: False: no packet is marked as a keyframe.
        index_frames: as many the container says there are; 0: it does not.
        declared_s: seconds that it says they take; 0: it does not.
        pts: [total] int64, ascending, when frames are shown, in ticks; None where the container
            does not say that of each (AVI says when they are decoded).
        key_pts: [K] int64, ascending, those of packets that are marked as keyframes.
        time_base: seconds of a tick.
        begins_with_first: the decoder's first frame is the one that is to be shown first.
        keyframes_begin_anew: nothing after a keyframe is shown before it. Where it is (an open
            group of pictures), a decoder that begins there lacks those frames.
        fps: average frames a second; None where that cannot be known.
    """

    container: Container
    codec: str
    pixel_format: str
    width: int
    height: int
    matrix: bytes | None
    video_streams: int
    total: int
    hidden: int
    begins_at_key: bool
    index_frames: int
    declared_s: float
    pts: np.ndarray | None
    key_pts: np.ndarray
    time_base: float
    begins_with_first: bool
    keyframes_begin_anew: bool
    fps: float | None

    @property
    def times_s(self) -> np.ndarray | None:
        """[total] float64, when frames are shown, in seconds since the first; None as ``pts``."""
        return None if self.pts is None else (self.pts - self.pts[0]) * self.time_base


@contextmanager
def open_stream(path: Path, container: Container) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and the video stream that a player shows, open for reading.

    Raises:
        VideoError: there is none, or none that can be decoded.
    """
    import av
    from av.stream import Disposition

    limits = {} if container != "raw" else {"format_whitelist": _RAW_FORMATS}
    name = None if container == "raw" else _FFMPEG_FORMAT.get(container, container)
    try:
        # An absolute path, since the part before a colon would be taken for a protocol.
        file = av.open(
            os.path.abspath(path), format=name, container_options=limits, metadata_errors="replace"
        )
    except av.FFmpegError as error:
        raise video_error(path, f"no frame can be decoded (PyAV: {one_line(error)})") from error
    with file:
        stream = cast("VideoStream | None", file.streams.best("video"))
        if stream is None or stream.disposition & Disposition.attached_pic:
            raise video_error(path, "no video stream")
        if stream.codec_context is None:
            raise video_error(path, "no decoder for its video stream")
        pixels = stream.codec_context.width * stream.codec_context.height
        if pixels > MAX_PIXELS:
            raise video_error(path, f"frames of {pixels} pixels, above the limit of {MAX_PIXELS}")
        yield file, stream


def shown_packets(
    file: InputContainer, stream: VideoStream, *, begin_at_key: bool
) -> Iterator[tuple[Packet, bool]]:
    """Packets to give to the decoder, each with whether its frame is shown, and an empty one at the
    end, which asks for what the decoder still holds. With ``begin_at_key`` those before the first
    keyframe are left out: nothing can be made of them."""
    from av import Packet

    has_begun = not begin_at_key
    try:
        for packet in file.demux(stream):
            has_begun |= packet.is_keyframe
            if has_begun and packet.size:
                yield packet, not packet.is_discard and not _is_reference(packet)
    except IndexError:
        # PyAV raises it after the last packet where streams have appeared on the way, as they do
        # in broadcasts.
        pass
    end = Packet()
    end.stream = stream
    end.time_base = stream.time_base or Fraction(1)
    yield end, False


def probe(path: Path, container: Container) -> Probe:
    """Look at a video file.

    Raises:
        VideoError: no video stream, no frame, a first frame that cannot be decoded, or less of
            them than the file's index lists.
    """
    # Some demuxers mark no packet as a keyframe; then the beginning has to do.
    found = _probe(path, container, begin_at_key=True)
    found = found or _probe(path, container, begin_at_key=False)
    if found is None:
        raise video_error(path, "the video stream has no frames")
    return found


def _probe(path: Path, container: Container, *, begin_at_key: bool) -> Probe | None:
    """None where no packet is left."""
    import av
    from av.stream import Disposition

    first: VideoFrame | None = None
    shown_pts: list[int | None] = []
    decode_times: list[int] = []
    key_pts: list[int] = []
    decodable, begins_anew = 0, True
    file_bytes = path.stat().st_size
    with open_stream(path, container) as (file, stream):
        videos = file.streams.video
        covers = sum(bool(other.disposition & Disposition.attached_pic) for other in videos)
        rate, time_base = float(stream.average_rate or 0), float(stream.time_base or 0)
        codec = stream.codec_context.codec.canonical_name
        try:
            for packet, is_shown in shown_packets(file, stream, begin_at_key=begin_at_key):
                if first is None:
                    first = next(iter(packet.decode()), None)
                if not packet.size:
                    continue
                decodable += 1
                if is_shown:
                    shown_pts.append(packet.pts)
                if packet.dts is not None:
                    decode_times.append(packet.dts)
                if packet.pts is not None:
                    if packet.is_keyframe:
                        key_pts.append(packet.pts)
                    elif key_pts and packet.pts < key_pts[-1]:
                        begins_anew = False
                if decodable > file_bytes:
                    raise video_error(path, "damaged: more frames than bytes")
        except av.FFmpegError as error:
            raise video_error(path, f"no frame can be decoded (PyAV: {one_line(error)})") from error
        declared = _declared(stream, container)
        declared_s = float(stream.duration or 0) * time_base
        index_frames = stream.frames
    if not shown_pts:
        return None
    if begin_at_key and decodable < declared:
        raise video_error(path, f"damaged: its index lists {declared} frames, it has {decodable}")
    if first is None:
        raise video_error(path, "no frame can be decoded (PyAV: the decoder gave none)")
    measured = _measured_fps(decode_times, time_base)
    pts = None if container == "avi" or not time_base else _in_order(shown_pts)
    return Probe(
        container=container,
        codec=codec,
        pixel_format=first.format.name,
        width=first.width,
        height=first.height,
        matrix=display_matrix(first),
        video_streams=len(videos) - covers,
        total=len(shown_pts),
        hidden=decodable - len(shown_pts),
        begins_at_key=begin_at_key,
        index_frames=index_frames,
        declared_s=declared_s,
        pts=pts,
        key_pts=np.array(sorted(key_pts), dtype=np.int64),
        time_base=time_base,
        begins_with_first=pts is not None and first.pts == pts[0],
        keyframes_begin_anew=begins_anew,
        fps=measured if container != "mp4" and _is_nonsense(rate, measured) else rate or None,
    )


def _declared(stream: VideoStream, container: Container) -> int:
    """How many packets a complete index lists, after edit lists; 0 where there is no such index, or
    PyAV is too old to show it."""
    if container not in ("mp4", "avi"):
        return 0
    return sum(entry.size > 0 for entry in getattr(stream, "index_entries", ()))


def display_matrix(frame: VideoFrame) -> bytes | None:
    """How a frame is to be turned, see :func:`~.orientation.shown_upright`; None: not at all."""
    data = cast("Buffer | None", frame.side_data.get("DISPLAYMATRIX"))
    return None if data is None else bytes(data)


def _is_reference(packet: Packet) -> bool:
    """Whether a packet of VP8 is an alternate reference, which is never shown: the fifth bit of its
    first byte is unset (RFC 6386, 9.1). Of other codecs containers store it with a shown frame."""
    codec = packet.stream.codec_context.codec.canonical_name
    return codec == "vp8" and not memoryview(packet)[0] & 0x10


def _in_order(pts: list[int | None]) -> np.ndarray | None:
    """The times in the order in which frames are shown; None where two have the same, or one has
    none."""
    known = sorted({value for value in pts if value is not None})
    return np.array(known, dtype=np.int64) if len(known) == len(pts) else None


def _measured_fps(decode_times: list[int], time_base: float) -> float | None:
    """Frames a second from when packets are to be decoded; None where that is not known."""
    ticks = max(decode_times) - min(decode_times) if decode_times else 0
    return (len(decode_times) - 1) / (ticks * time_base) if ticks and time_base else None


def _is_nonsense(rate: float, measured: float | None) -> bool:
    """Whether a container's rate is missing, or is its clock's instead: 1000 in AVI or Ogg files
    that were made from Matroska."""
    return measured is not None and not measured / 2 < rate < measured * 2
