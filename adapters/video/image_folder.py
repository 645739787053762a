"""Frames of a folder of images, one file each, in natural order of their names."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .contract import Choice, Video, one_line, video_error

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
# By content, whatever the suffix says: decoders inside Pillow. Others start programs (EPS).
_FORMATS = ("PNG", "JPEG", "WEBP")


def read_folder(path: Path, choose: Choice, fps: float | None) -> Video:
    """Read frames of a folder.

    Files whose names begin with a dot are not frames: editors and macOS leave such beside them.

    Args:
        fps: frames a second; None: the folder has no clock.

    Raises:
        ValueError: what ``choose`` raises.
        VideoError: no images, one that cannot be read, or images of different sizes.
    """
    try:
        images = [
            file
            for file in path.iterdir()
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        ]
    except OSError as error:
        raise video_error(path, f"cannot be read: {error.strerror}") from error
    files = sorted(images, key=_natural_key)
    if not files:
        raise video_error(path, f"the folder has no images ({', '.join(IMAGE_SUFFIXES)})")
    indices = choose(len(files), fps)
    frames: list[np.ndarray] = []
    for index in indices:
        frame = read_image(files[index])
        if frames and frame.shape != frames[0].shape:
            raise video_error(
                files[index],
                f"{frame.shape[1]}x{frame.shape[0]} pixels, but the first frame of the folder has"
                f" {frames[0].shape[1]}x{frames[0].shape[0]}",
            )
        frames.append(frame)
    times_s = None if fps is None else indices / fps
    return Video(np.stack(frames), indices, times_s, fps, len(files), path, reader="images")


def read_image(file: Path) -> np.ndarray:
    """An image as it is shown, [H, W, 3] uint8: upright, 16-bit grey scaled to 8, alpha dropped.

    Raises:
        VideoError: not an image, a damaged one, or one too large for memory.
    """
    try:
        is_file = stat.S_ISREG(file.stat().st_mode)
    except OSError as error:
        raise video_error(file, f"not a readable image: {one_line(error)}") from error
    if not is_file:  # opening a pipe would wait for whoever writes to it
        raise video_error(file, "not a file")
    try:
        with Image.open(file, formats=_FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # one channel of 16 bits; convert() would clip it
                grey = np.asarray(upright).astype(np.int64).clip(0, 0xFFFF)
                bytes_ = ((grey * 0xFF + 0x7FFF) // 0xFFFF).astype(np.uint8)
                return np.repeat(bytes_[..., None], 3, axis=2)
            return np.asarray(upright.convert("RGB"))
    except UnidentifiedImageError as error:
        raise video_error(file, "not a readable image: no PNG, JPEG or WebP") from error
    # On damaged content Pillow raises what its parsers happen to meet (OSError, ValueError,
    # SyntaxError, struct.error), and DecompressionBombError for sizes beyond its limit.
    except Exception as error:
        raise video_error(file, f"not a readable image: {one_line(error)}") from error


def _natural_key(file: Path) -> tuple[list[tuple[bool, int, str]], str]:
    """Digit runs compare as numbers; the name itself decides between 1.png and 01.png."""
    parts = re.findall(r"\d+|\D+", file.name)
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts], file.name
