"""Video files whose frames carry their number, in every container and codec that PyAV can write.

A frame's number is in twelve black or white blocks along its top, coarse enough for any codec.
Marks tell left from right and top from bottom.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS = 12
FPS = 24
HEIGHT, WIDTH = 96, 192
# Encoders in their fastest form, with a keyframe every eight frames and pictures shown in another
# order than they are stored where the codec has that; x265 opens its groups of pictures by default.
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"preset": "veryfast", "g": "8", "bf": "2"}),
    "h264-open": ("libx264", {"g": "8", "x264-params": "open-gop=1:bframes=3:scenecut=0"}),
    "hevc": ("libx265", {"preset": "superfast", "x265-params": "keyint=8:pools=1:log-level=none"}),
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "g": "8"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "8"}),
    "av1": ("libsvtav1", {"preset": "13", "g": "8"}),
    "mpeg2": ("mpeg2video", {"g": "8", "bf": "2", "q": "2"}),
    "mpeg4": ("mpeg4", {"g": "8", "bf": "2"}),
    "gif": ("gif", {}),
    "png": ("png", {}),
    "mjpeg": ("mjpeg", {}),
}
# Rows a, b, u; c, d, v; x, y, w of a display matrix, with 1 for 16.16 and 2.30 fixed point.
MATRICES = {
    "rotated-90": (0, 1, -1, 0),
    "rotated-180": (-1, 0, 0, -1),
    "rotated-270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside-down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transversed": (0, -1, -1, 0),
}


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """[height, width, 3] uint8."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([60 + x // 2, 180 - y, 90 + y // 2 + x // 4], axis=-1).astype(np.uint8)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        image[: height // 4, left:right] = 235 if number >> bit & 1 else 16
    image[height // 2 : height // 2 + 16, : width // 4] = (200, 30, 30)
    at = 3 * number % (width - 16)
    image[-24:-8, at : at + 16] = (30, 200, 30)
    return image


def number_in(frame: np.ndarray) -> int:
    """The number that :func:`picture` drew."""
    height, width = frame.shape[:2]
    grey = frame[height // 16 : height // 4 - height // 16].mean(axis=(0, 2))
    middles = [int((bit + 0.5) * width / BITS) for bit in range(BITS)]
    return sum(1 << bit for bit, at in enumerate(middles) if grey[at - 2 : at + 3].mean() > 128)


def numbers_in(frames: np.ndarray) -> list[int]:
    return [number_in(frame) for frame in frames]


def encode(
    path: Path,
    codec: str,
    *,
    count: int = 28,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    pixel_format: str = "yuv420p",
    times: Sequence[int] | None = None,
    muxer: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames 0 to ``count - 1``.

    Args:
        codec: a name of :data:`ENCODERS`, or of an encoder of ffmpeg.
        times: when each frame is shown, in 1/24 s; by default one after another.
        muxer, options: of the container and of the encoder.
    """
    encoder, defaults = ENCODERS.get(codec, (codec, {}))
    with av.open(str(path), "w", options=muxer or {}) as output:
        stream = output.add_stream(encoder, rate=FPS, options=defaults | (options or {}))
        stream.height, stream.width = size
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def cut(source: Path, target: Path, start: int, *, muxer: dict[str, str] | None = None) -> Path:
    """What ``ffmpeg -ss START -c copy`` makes: the file from the last keyframe before frame
    ``start``. In MP4 and MOV an edit list hides what is before that frame; elsewhere it is shown.
    """
    hides = target.suffix in (".mp4", ".mov")
    options = {"avoid_negative_ts": "disabled"} if hides else {}
    with (
        av.open(str(source)) as read,
        av.open(str(target), "w", options=options | (muxer or {})) as written,
    ):
        stream = read.streams.video[0]
        packets = [packet for packet in read.demux(stream) if packet.size]
        shown = sorted(packet.pts for packet in packets)
        keys = [i for i, p in enumerate(packets) if p.is_keyframe and p.pts <= shown[start]]
        output = written.add_stream_from_template(stream)
        for packet in packets[keys[-1] :]:
            packet.pts -= shown[start]
            packet.dts -= shown[start]
            packet.stream = output
            written.mux(packet)
    return target


def set_matrix(path: Path, name: str, entries: tuple[float, ...] | None = None) -> Path:
    """Write a display matrix into an MP4 or MOV file, by its name in :data:`MATRICES`."""
    a, b, c, d = (int(65536 * value) for value in entries or MATRICES[name])
    content = bytearray(path.read_bytes())
    at = content.find(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def shown_with(name: str, frames: np.ndarray) -> np.ndarray:
    """[T, H, W, 3] frames as a display matrix of that name shows them, in numpy's own words."""
    shown = {
        "rotated-90": lambda x: np.rot90(x, -1, axes=(1, 2)),
        "rotated-180": lambda x: np.rot90(x, 2, axes=(1, 2)),
        "rotated-270": lambda x: np.rot90(x, 1, axes=(1, 2)),
        "mirrored": lambda x: np.flip(x, 2),
        "upside-down": lambda x: np.flip(x, 1),
        "transposed": lambda x: np.swapaxes(x, 1, 2),
        "transversed": lambda x: np.rot90(np.swapaxes(x, 1, 2), 2, axes=(1, 2)),
    }
    result: Any = shown[name](frames)
    return np.asarray(result)
