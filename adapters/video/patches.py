"""Frames of any size become patches: the flattening of vision towers that take videos as they are.

A frame is resized to whole blocks of merged patches, within bounds on its pixels (Wang et al.,
https://arxiv.org/abs/2409.12191) or on those of the whole video. Then frames are grouped in time,
cut into patches, and listed block by block, so that the patches that the model merges into one
token stand together. Sizes round as the published preprocessing does: half to even.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_MAX_ASPECT = 200
# Of a video: nine tenths of a context of 128,000, as published with these models.
_MOST_TOKENS = 115_200
# Of a frame, where bounds are of a whole video.
_MOST_TOKENS_A_FRAME = 768


def frame_size(
    height: int, width: int, *, block_px: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Height and width of a frame: multiples of ``block_px``, about the same aspect.

    Args:
        height, width: of the frame.
        block_px: side of the patches that become one token.
        min_pixels, max_pixels: of a frame.

    Raises:
        ValueError: a side more than 200 times the other.
    """
    _require_aspect(height, width)
    new_height, new_width = (round(side / block_px) * block_px for side in (height, width))
    if new_height * new_width > max_pixels:
        return _shrunk(height, width, block_px, math.sqrt(height * width / max_pixels))
    if new_height * new_width < min_pixels:
        return _grown(height, width, block_px, math.sqrt(min_pixels / (height * width)))
    return new_height, new_width


def capped_frame_size(
    frames: int,
    height: int,
    width: int,
    *,
    group: int,
    block_px: int,
    min_pixels: int,
    max_pixels: int,
) -> tuple[int, int]:
    """:func:`frame_size` with a bound on a whole video as well: long videos get smaller frames.

    Args:
        frames: of the video.
        height, width: of a frame.
        group: frames that go into one patch.
        block_px: side of the patches that become one token.
        min_pixels, max_pixels: of a frame.

    Raises:
        ValueError: a side more than 200 times the other.
    """
    share = _MOST_TOKENS * block_px**2 * group // frames
    return frame_size(
        height,
        width,
        block_px=block_px,
        min_pixels=min_pixels,
        max_pixels=max(min(max_pixels, share), int(min_pixels * 1.05)),
    )


def video_size(
    frames: int,
    height: int,
    width: int,
    *,
    group: int,
    block_px: int,
    min_pixels: int,
    max_pixels: int,
) -> tuple[int, int]:
    """Height and width of a video's frames, with bounds on the pixels of all of them together.

    Args:
        frames: of the video, ``group`` at least.
        height, width: of a frame.
        group: frames that go into one patch.
        block_px: side of the patches that become one token.
        min_pixels, max_pixels: of the video.

    Raises:
        ValueError: a side more than 200 times the other.
    """
    if min(height, width) < block_px:
        scale = max(block_px / height, block_px / width)
        height, width = int(height * scale), int(width * scale)
    _require_aspect(height, width)
    new_height, new_width = (round(side / block_px) * block_px for side in (height, width))
    total = round(frames / group) * group * new_height * new_width
    if total > max_pixels:
        return _shrunk(height, width, block_px, math.sqrt(frames * height * width / max_pixels))
    if total < min_pixels:
        return _grown(height, width, block_px, math.sqrt(min_pixels / (frames * height * width)))
    return new_height, new_width


def capped_video_size(
    frames: int,
    height: int,
    width: int,
    *,
    group: int,
    block_px: int,
    min_pixels: int,
    max_pixels: int,
) -> tuple[int, int]:
    """:func:`video_size` with a bound on each frame as well: short videos get no larger frames.

    Args:
        frames, height, width, group, block_px, min_pixels, max_pixels: see there.

    Raises:
        ValueError: a side more than 200 times the other.
    """
    frames = max(frames, group)
    share = min(_MOST_TOKENS_A_FRAME * block_px**2, max_pixels // frames)
    return video_size(
        frames,
        height,
        width,
        group=group,
        block_px=block_px,
        min_pixels=min_pixels,
        max_pixels=max(share, int(min_pixels * 1.05)) * frames,
    )


def _shrunk(height: int, width: int, block_px: int, by: float) -> tuple[int, int]:
    new_height, new_width = (
        max(block_px, math.floor(side / by / block_px) * block_px) for side in (height, width)
    )
    return new_height, new_width


def _grown(height: int, width: int, block_px: int, by: float) -> tuple[int, int]:
    new_height, new_width = (math.ceil(side * by / block_px) * block_px for side in (height, width))
    return new_height, new_width


def _require_aspect(height: int, width: int) -> None:
    aspect = max(height, width) / min(height, width)
    if aspect > _MAX_ASPECT:
        raise ValueError(
            f"a frame's longer side must be at most {_MAX_ASPECT} times the shorter, got "
            f"{height} x {width}"
        )


def resized_pixels(
    frames: np.ndarray,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Frames [T, H, W, 3] uint8 -> [T, 3, *size] float32, bicubic and normalised.

    Args:
        size: height and width.
        mean, std: of each channel, on values in [0, 1].
    """
    height, width = size
    resized = [
        np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
        for frame in frames
    ]
    pixels = np.stack(resized).astype(np.float32) / 255.0
    shift, scale = np.array((mean, std), dtype=np.float32)
    return torch.from_numpy((pixels - shift) / scale).permute(0, 3, 1, 2)


def flatten_patches(
    pixels: Tensor, *, patch_px: int, merge: int, group: int
) -> tuple[Tensor, tuple[int, int, int]]:
    """Frames [T, 3, H, W] -> patches [t * h * w, 3 * group * patch_px ** 2] and (t, h, w), in
    patches before merging.

    The order is time, then blocks of ``merge`` x ``merge`` patches row by row, then the patches of
    a block. A last group that is not full repeats the last frame.

    Args:
        patch_px: side of a patch.
        merge: patches along a side of the block that becomes one token.
        group: frames of a patch.
    """
    missing = -len(pixels) % group
    if missing:
        pixels = torch.cat((pixels, pixels[-1:].expand(missing, -1, -1, -1)))
    frames, channels, height, width = pixels.shape
    grid = frames // group, height // patch_px, width // patch_px
    blocks = pixels.reshape(
        grid[0],
        group,
        channels,
        grid[1] // merge,
        merge,
        patch_px,
        grid[2] // merge,
        merge,
        patch_px,
    )
    # time, block row, block column, row in the block, column in it; channel, frame, pixels
    ordered = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return ordered.reshape(math.prod(grid), -1), grid
