"""One pass over the features: frame means, where they stand out, and whether every value is finite.

    mean[f, c] = 1/N sum_n x[f, n, c]

A program owns one frame and one block of channels and walks over the frame's tokens, many rows at a
time. It is one warp, whose threads have a few channels each: a sum over tokens crosses no thread,
nothing waits at a barrier or goes through shared memory, and every sum runs in one fixed order.

Real features have channels in which all tokens are large and nearly equal. In products of tokens
those drown what tells the tokens apart, so the Gram matrices take the mean away from them. The
channels are looked at in blocks: a block is *offset* where, over the frame's tokens,

    sum_c mean_c^2 > 3 sum_c var_c

that is, where taking the mean away leaves less than a quarter of the block's square.

As the first launch of a merge it also takes the host's integers to the device, where they are few.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import (
    INTEGER_NAMES,
    NARROW,
    config_for,
    device_integers,
    store_integers,
)
from prunevid_kernels.kernels._launch import alike, launch
from prunevid_kernels.kernels._parts import parts

MAX_OFFSET_BLOCKS = 64
"""Blocks of channels that a frame is divided into at most: the bits of an integer."""


def channels_per_offset_block(channels: int) -> int:
    """Channels of each block that is or is not offset: 64, or more of more than 4,096 channels."""
    return max(64, (1 << (channels - 1).bit_length()) // MAX_OFFSET_BLOCKS)


@triton.jit
def _is_bad(x_ptr, f, c, N, C, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    """1 if channels c [BLOCK_C] of a frame hold a NaN or an infinity, else 0."""
    bad = tl.zeros([BLOCK_N, BLOCK_C], dtype=tl.float32)
    for first in range(0, N, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        inside = (n < N)[:, None] & (c < C)[None, :]
        # [BLOCK_N, BLOCK_C]
        x = tl.load(x_ptr + (f * N + n)[:, None] * C + c[None, :], mask=inside, other=0.0)
        bad += x.to(tl.float32) * 0.0  # 0 times inf and 0 times NaN are NaN, and stay
    return (tl.sum(tl.sum(bad, axis=0), axis=0) != 0.0).to(tl.int32)


@triton.jit(do_not_specialize=["N", "count", *INTEGER_NAMES])
def _frame_mean_kernel(
    # Read.
    x_ptr,
    # Written.
    mean_ptr,
    is_offset_ptr,
    is_bad_ptr,
    integers_ptr,
    # Sizes.
    N,
    C,
    # The integers.
    # fmt: off
    count,
    v0: tl.int64,
    v1: tl.int64,
    v2: tl.int64,
    v3: tl.int64,
    v4: tl.int64,
    v5: tl.int64,
    v6: tl.int64,
    v7: tl.int64,
    v8: tl.int64,
    v9: tl.int64,
    v10: tl.int64,
    v11: tl.int64,
    # fmt: on
    OFFSET_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    f, block_c = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if (f == 0) & (block_c == 0):
        store_integers(integers_ptr, count, v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11)
    c = block_c * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_N, BLOCK_C], dtype=tl.float32)
    square = tl.zeros([BLOCK_N, BLOCK_C], dtype=tl.float32)
    for first in range(0, N, BLOCK_R * BLOCK_N):
        n = first + tl.arange(0, BLOCK_R)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        inside = (n < N)[:, :, None] & (c < C)[None, None, :]
        # [BLOCK_R, BLOCK_N, BLOCK_C]; a thread has all of the first axis, to be loaded at once.
        x = tl.load(x_ptr + (f * N + n)[:, :, None] * C + c[None, None, :], mask=inside, other=0.0)
        x = x.to(tl.float32)
        # Sums over the first axis: [BLOCK_N, BLOCK_C]
        total += tl.sum(x, axis=0)
        square += tl.sum(x * x, axis=0)
    mean = tl.sum(total, axis=0) / N  # [BLOCK_C]
    tl.store(mean_ptr + f * C + c, mean, mask=c < C)
    # The square of a value that is not finite is not either, nor is that of a very large one.
    suspect = tl.where(square < float("inf"), 0, 1)  # [BLOCK_N, BLOCK_C]
    is_bad = tl.max(tl.max(suspect, axis=0), axis=0)
    if is_bad > 0:
        is_bad = _is_bad(x_ptr, f, c, N, C, BLOCK_N, BLOCK_C)
    tl.store(is_bad_ptr + f * tl.num_programs(1) + block_c, is_bad)

    BLOCKS: tl.constexpr = BLOCK_C // OFFSET_C
    variance = tl.maximum(tl.sum(square, axis=0) / N - mean * mean, 0.0)  # [BLOCK_C]
    # [BLOCKS, OFFSET_C] to [BLOCKS]
    mean_square = tl.sum(tl.reshape(mean * mean, [BLOCKS, OFFSET_C]), axis=1)
    variance = tl.sum(tl.reshape(variance, [BLOCKS, OFFSET_C]), axis=1)
    block = block_c * BLOCKS + tl.arange(0, BLOCKS)
    num_blocks = tl.cdiv(C, OFFSET_C)
    is_offset = (mean_square > 3.0 * variance).to(tl.int32)
    tl.store(is_offset_ptr + f * num_blocks + block, is_offset, mask=block < num_blocks)


def frame_mean(x: Tensor, integers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read x [F, N, C] once.

    Returns:
        frame means [F, C] float32; is_offset [F, blocks of channels] int32, 1 where a block of
        :func:`channels_per_offset_block` channels lies off 0; is_bad [F, blocks] int32, 1 where a
        block of a frame holds a NaN or an infinity; the integers [len(integers)] int32.
    """
    assert x.is_contiguous()
    frames, n, channels = x.shape
    config = config_for("frame_mean", x.device).copy()
    offset_c = channels_per_offset_block(channels)
    # A row of a block is what a warp loads at once, whatever the dtype.
    block_c = max(config.pop("ROW_BYTES") // x.element_size(), offset_c)
    blocks = -(-channels // block_c)
    offset_blocks = -(-channels // offset_c)
    mean, is_offset, is_bad, stored = parts(
        x.device,
        ((frames, channels), torch.float32),
        ((frames, offset_blocks), torch.int32),
        ((frames, blocks), torch.int32),
        ((len(integers),), torch.int32),
    )
    if len(integers) > NARROW:  # of many videos
        stored, integers = device_integers(integers, x.device), ()
    padding = (0,) * (NARROW - len(integers))
    launch(
        _frame_mean_kernel,
        (*alike(x), channels),
        (frames, blocks, 1),
        (x, mean, is_offset, is_bad, stored, n, channels, len(integers), *integers, *padding),
        {"OFFSET_C": offset_c, "BLOCK_C": block_c, **config},
    )
    return mean, is_offset, is_bad, stored
