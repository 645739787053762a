"""How far a squared distance may be off that was made of inner products in float32.

    |a - b|^2 = aa + bb - 2 ab

A tensor core adds 16 products at a time to a float32 sum, and may cut the sum off where a CPU
rounds it. So the error of an inner product grows with the number of channels, not with its root,
and it is measured in |a| |b|: what lies far from 0 loses its differences. A right implementation
therefore takes common offsets away before it multiplies. Which ones ours takes away is written here
a second time, in float64: that decides how much may be lost.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOAT32_STEP = 2.0**-23


def square_error(near_zero: Tensor) -> Tensor:
    """The error [n, n] that scaled squared distances of points may have that were multiplied as
    ``near_zero`` [n, C].

    Each addition of 16 products may cut off a step of the sum, and so may each of the parts of a
    float32 product: four times as many additions as there are for 16-bit values.
    """
    channels = near_zero.shape[1]
    norm = near_zero.norm(dim=1)
    scale = (8 + channels / 4) * FLOAT32_STEP / channels
    return scale * (norm[:, None] + norm[None, :]).square()


def frame_offset(tokens: Tensor) -> Tensor:
    """[C] what is taken away from the tokens [N, C] of a frame: their mean in the blocks of 64
    channels (more of more than 4,096) in which that leaves less than a quarter of the squares."""
    channels = tokens.shape[1]
    block = max(64, (1 << (channels - 1).bit_length()) // 64)
    mean = tokens.mean(dim=0)
    variance = tokens.var(dim=0, unbiased=False)
    index = torch.arange(channels, device=tokens.device) // block
    blocks = tokens.new_zeros(int(index[-1]) + 1)
    mean_square = blocks.index_add(0, index, mean.square())
    is_offset = mean_square > 3.0 * blocks.index_add(0, index, variance)
    return torch.where(is_offset[index], mean, 0.0)


def points_offset(points: Tensor) -> Tensor:
    """[C] what is taken away from points [n, C] that are no tokens of one frame: the mean of four
    of them, evenly spaced, in the channels in which those lie close together far from 0."""
    n = len(points)
    count = min(n, 4)
    rows = [(2 * step + 1) * n // (2 * count) for step in range(count)]
    mean = points[rows].mean(dim=0)
    variance = points[rows].var(dim=0, unbiased=False)
    return torch.where(mean.square() > 16.0 * variance, mean, 0.0)
