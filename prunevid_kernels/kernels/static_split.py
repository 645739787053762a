"""Static and dynamic positions of every segment, and the means over time of the static ones.

The mean cosine over the ordered pairs of W different frames is

    sim = (|sum over frames of x / |x||^2 - W) / (W (W - 1))

so one running sum a position replaces W x W products. A program owns a position of one segment,
with all its channels, and walks over the segment's frames a few at a time: their norms and what is
added up come from one read. The sum of the frames is at hand then, so the mean of a static position
is stored for the Gram matrices, which need the differences of the means: where the segment's first
frame is offset, less its frame mean (see :mod:`~prunevid_kernels.kernels.means.frame_mean`).

The means are float32 and take as much memory as features of that dtype: a segment that has any has
two frames or more, so there is one for two frames at most. Averaging in the Gram matrices instead
would read each segment's frames again for every tile of products.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import config_for
from prunevid_kernels.kernels._launch import alike, launch
from prunevid_kernels.kernels._parts import parts
from prunevid_kernels.kernels.means.frame_mean import channels_per_offset_block


@triton.jit(
    do_not_specialize=["num_frames", "N"],
    do_not_specialize_on_alignment=["segment_start_ptr", "segment_length_ptr", "static_count_ptr"],
)
def _static_split_kernel(
    # Features, and what their first pass found.
    x_ptr,
    frame_mean_ptr,
    is_offset_ptr,
    # Segments.
    segment_start_ptr,
    segment_length_ptr,
    # Written.
    static_count_ptr,
    is_static_ptr,
    static_mean_ptr,
    # Sizes, and the threshold.
    num_frames,
    N,
    C,
    tau,
    OFFSET_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program (two frames, positions), positions fastest: works if a segment starts at one of them.
    Where one starts at both, the first is a single frame."""
    blocks_n = tl.cdiv(N, BLOCK_N)
    pair = tl.program_id(0) // blocks_n
    n = tl.program_id(0) % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
    starts_first = tl.load(segment_start_ptr + 2 * pair) == 2 * pair
    second = tl.minimum(2 * pair + 1, num_frames - 1)
    starts_second = (tl.load(segment_start_ptr + second) == second) & (second > 2 * pair)
    if starts_first & starts_second:
        single = tl.zeros([BLOCK_N], dtype=tl.int8)
        tl.store(is_static_ptr + pair.to(tl.int64) * 2 * N + n, single, mask=n < N)
    if starts_first | starts_second:
        start = tl.where(starts_second, second, 2 * pair)
        length = tl.load(segment_length_ptr + start)
        c = tl.arange(0, BLOCK_C)
        row = start.to(tl.int64) * N + n  # rows of one position lie N apart
        direction = tl.zeros([BLOCK_N, BLOCK_C], dtype=tl.float32)
        total = tl.zeros([BLOCK_N, BLOCK_C], dtype=tl.float32)
        for first in range(0, length, BLOCK_F):
            frame = first + tl.arange(0, BLOCK_F)
            exists = (n < N)[:, None] & (frame < length)[None, :]  # [BLOCK_N, BLOCK_F]
            source = row[:, None] + frame.to(tl.int64)[None, :] * N
            # [BLOCK_N, BLOCK_F, BLOCK_C]
            ptrs = x_ptr + source[:, :, None] * C + c[None, None, :]
            x = tl.load(ptrs, mask=exists[:, :, None] & (c < C)[None, None, :], other=0.0)
            x = x.to(tl.float32)
            norm = tl.sqrt_rn(tl.sum(x * x, axis=2))  # [BLOCK_N, BLOCK_F]
            scale = 1.0 / tl.maximum(norm, 1e-12)
            direction += tl.sum(x * scale[:, :, None], axis=1)  # [BLOCK_N, BLOCK_C]
            total += tl.sum(x, axis=1)  # [BLOCK_N, BLOCK_C]
        square = tl.sum(direction * direction, axis=1)  # [BLOCK_N]
        # A single frame shows no stillness.
        similarity = (square - length) / tl.maximum(length * (length - 1), 1)
        is_static = (similarity > tau) & (tau < 1) & (length > 1) & (n < N)
        tl.store(is_static_ptr + row, is_static.to(tl.int8), mask=n < N)
        stored = is_static[:, None] & (c < C)[None, :]  # [BLOCK_N, BLOCK_C]
        flag_ptrs = (
            is_offset_ptr + start.to(tl.int64) * tl.cdiv(C, OFFSET_C) + c[None, :] // OFFSET_C
        )
        is_offset = tl.load(flag_ptrs, mask=stored, other=0) != 0  # [BLOCK_N, BLOCK_C]
        center_ptrs = frame_mean_ptr + start.to(tl.int64) * C + c[None, :]
        # [BLOCK_N, BLOCK_C]
        mean = total / length - tl.load(center_ptrs, mask=stored & is_offset, other=0.0)
        mean_row = pair.to(tl.int64) * N + n
        tl.store(static_mean_ptr + mean_row[:, None] * C + c[None, :], mean, mask=stored)
        num_static = tl.sum(is_static.to(tl.int32), axis=0)
        if num_static > 0:
            tl.atomic_add(static_count_ptr + start, num_static)


def static_split(
    x: Tensor,
    frame_mean: Tensor,
    is_offset: Tensor,
    segment_start: Tensor,
    segment_length: Tensor,
    static_count: Tensor,
    tau: float,
) -> tuple[Tensor, Tensor]:
    """Split the positions of every segment of x [F, N, C].

    Args:
        frame_mean, is_offset: as :mod:`~prunevid_kernels.kernels.means.frame_mean` gave them.
        segment_start, segment_length: [F] int32.
        static_count: [F] int32 zeros; holds each segment's static positions, at its first frame,
            afterwards.

    Returns:
        is_static [F, N] int8, defined in the rows of the segments' first frames; static_mean
        [F // 2, N, C] float32: of the segment that starts at frame f, in row f // 2, the means over
        time of the static positions, in the blocks of channels that are offset in frame f less
        ``frame_mean[f]``; nothing elsewhere.
    """
    frames, n, channels = x.shape
    is_static, static_mean = parts(
        x.device, ((frames, n), torch.int8), ((frames // 2, n, channels), torch.float32)
    )
    config = config_for("static_split", x.device).copy()
    # All channels of a token at once, and as many frames as the registers hold. (Beyond 16,384
    # channels they do not hold one; no model has as many.)
    block_c = 1 << (channels - 1).bit_length()
    config["BLOCK_F"] = max(1, min(config["BLOCK_F"], config.pop("TILE") // block_c))
    launch(
        _static_split_kernel,
        (*alike(x), channels),
        (-(-n // config["BLOCK_N"]) * -(-frames // 2), 1, 1),
        (
            x,
            frame_mean,
            is_offset,
            segment_start,
            segment_length,
            static_count,
            is_static,
            static_mean,
            frames,
            n,
            channels,
            tau,
        ),
        {"OFFSET_C": channels_per_offset_block(channels), "BLOCK_C": block_c, **config},
    )
    return is_static, static_mean
