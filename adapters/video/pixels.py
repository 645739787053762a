"""What the processors of all families do to frames: a check, and pixels to normalised floats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def require_frames(frames: np.ndarray) -> None:
    """Frames are [T, H, W, 3] uint8, one at least, of one pixel at least.

    Raises:
        TypeError: they are no array.
        ValueError: an array of another form.
    """
    if not isinstance(frames, np.ndarray):
        raise TypeError(f"frames must be [T, H, W, 3] uint8, got {type(frames).__name__}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(
            f"frames must be [T, H, W, 3] uint8, got {list(frames.shape)} {frames.dtype}"
        )


def normalised_pixels(
    frames: Sequence[np.ndarray], mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """T frames [side, side, 3] uint8 -> [1, T, 3, side, side] float32.

    Args:
        mean, std: of each channel, on values in [0, 1].
    """
    pixels = np.stack(frames).astype(np.float32) / 255.0
    shift, scale = np.array((mean, std), dtype=np.float32)
    return torch.from_numpy((pixels - shift) / scale).permute(0, 3, 1, 2)[None].contiguous()


def central_square(frame: np.ndarray, side: int) -> np.ndarray:
    """[H, W, 3] uint8 -> [side, side, 3]: the middle of the frame, its short edge at ``side``."""
    image = Image.fromarray(frame)
    short = min(image.size)
    width, height = (side * length // short for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (round((edge - side) / 2) for edge in image.size)
    return np.asarray(image.crop((left, top, left + side, top + side)))
