"""Static and dynamic positions of every segment.

The mean cosine over the ordered pairs of W different frames is

    sim = (|sum over frames of x / |x||^2 - W) / (W (W - 1))

so one running sum a position replaces W x W products. A program owns a few positions of one
segment and walks over the segment's frames once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import config_for


@triton.jit
def _static_split_kernel(
    x_ptr,
    square_norm_ptr,
    segment_start_ptr,
    segment_length_ptr,
    static_count_ptr,
    is_static_ptr,
    N,
    C,
    num_blocks,
    tau,
    BLOCK_NORMS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program (frame, positions), positions fastest: works if a segment starts at the frame."""
    blocks_n = tl.cdiv(N, BLOCK_N)
    start = tl.program_id(0) // blocks_n
    if tl.load(segment_start_ptr + start) == start:
        length = tl.load(segment_length_ptr + start)
        n = tl.program_id(0) % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
        first_row = start.to(tl.int64) * N + n  # rows of one position lie N apart
        norm_block = tl.arange(0, BLOCK_NORMS)
        norm_inside = (n < N)[:, None] & (norm_block < num_blocks)[None, :]
        square = tl.zeros([BLOCK_N], dtype=tl.float32)
        for c_start in range(0, C, BLOCK_C):
            c = c_start + tl.arange(0, BLOCK_C)
            inside = (n < N)[:, None] & (c < C)[None, :]
            direction = tl.zeros([BLOCK_N, BLOCK_C], dtype=tl.float32)
            for frame in range(length):
                row = first_row + frame * N
                norm_ptrs = square_norm_ptr + row[:, None] * num_blocks + norm_block[None, :]
                norm = tl.sum(tl.load(norm_ptrs, mask=norm_inside, other=0.0), axis=1)
                norm = tl.maximum(tl.sqrt_rn(norm), 1e-12)
                x = tl.load(x_ptr + row[:, None] * C + c[None, :], mask=inside, other=0.0)
                direction += x.to(tl.float32) / norm[:, None]
            square += tl.sum(direction * direction, axis=1)
        # A single frame shows no stillness.
        similarity = (square - length) / tl.maximum(length * (length - 1), 1)
        is_static = (similarity > tau) & (length > 1) & (n < N)
        tl.store(is_static_ptr + first_row, is_static.to(tl.int8), mask=n < N)
        num_static = tl.sum(is_static.to(tl.int32), axis=0)
        if num_static > 0:
            tl.atomic_add(static_count_ptr + start, num_static)


def static_split(
    x: Tensor,
    square_norm: Tensor,
    segment_start: Tensor,
    segment_length: Tensor,
    static_count: Tensor,
    tau: float,
) -> Tensor:
    """Split the positions of every segment of x [F, N, C].

    Args:
        square_norm: [F, N, blocks] float32. segment_start, segment_length: [F] int32.
        static_count: [F] int32 zeros; holds each segment's static positions, at its first frame,
            afterwards.

    Returns:
        is_static [F, N] int8, defined in the rows of the segments' first frames.
    """
    frames, n, channels = x.shape
    blocks = square_norm.shape[2]
    is_static = torch.empty((frames, n), dtype=torch.int8, device=x.device)
    config = config_for("static_split", x.device).copy()
    config["BLOCK_C"] = min(config["BLOCK_C"], triton.next_power_of_2(channels))
    _static_split_kernel[(triton.cdiv(n, config["BLOCK_N"]) * frames,)](
        x,
        square_norm,
        segment_start,
        segment_length,
        static_count,
        is_static,
        n,
        channels,
        blocks,
        tau,
        BLOCK_NORMS=triton.next_power_of_2(blocks),
        **config,
    )
    return is_static
