"""One pass over the features: frame means, token norms, and whether every value is finite.

    frame_mean[f, c] = 1/N sum_n x[f, n, c]          square_norm[f, n] = sum_c x[f, n, c]^2

A program owns one frame and one block of channels and walks over the frame's tokens, so every sum
runs in one fixed order. The norm's sum over channel blocks is left to the reader: [F, N, blocks] is
small, and adding the blocks atomically would make the last bits depend on the order of arrival.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import config_for


@triton.jit
def _frame_mean_kernel(
    x_ptr,
    mean_ptr,
    square_norm_ptr,
    is_bad_ptr,
    N,
    C,
    num_blocks_c,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    f, block_c = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = block_c * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_C], dtype=tl.float32)
    bad = tl.zeros([BLOCK_C], dtype=tl.int32)
    for first in range(0, N, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        inside = (n < N)[:, None] & (c < C)[None, :]
        x = tl.load(x_ptr + (f * N + n)[:, None] * C + c[None, :], mask=inside, other=0.0)
        x = x.to(tl.float32)  # [BLOCK_N, BLOCK_C]
        total += tl.sum(x, axis=0)
        bad += tl.sum((x - x != 0.0).to(tl.int32), axis=0)  # inf - inf and NaN - NaN are NaN
        square_norm = tl.sum(x * x, axis=1)
        tl.store(square_norm_ptr + (f * N + n) * num_blocks_c + block_c, square_norm, mask=n < N)
    tl.store(mean_ptr + f * C + c, total / N, mask=c < C)
    tl.store(is_bad_ptr + f * num_blocks_c + block_c, (tl.sum(bad, axis=0) > 0).to(tl.int32))


def frame_mean(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Read x [F, N, C] once.

    Returns:
        frame means [F, C] float32; squared token norms [F, N, blocks] float32, to be summed over
        their last axis; is_bad [F, blocks] int32, 1 where a block of a frame holds a NaN or an
        infinity.
    """
    assert x.is_contiguous()
    frames, n, channels = x.shape
    config = config_for("frame_mean", x.device)
    blocks = triton.cdiv(channels, config["BLOCK_C"])
    mean = torch.empty((frames, channels), dtype=torch.float32, device=x.device)
    square_norm = torch.empty((frames, n, blocks), dtype=torch.float32, device=x.device)
    is_bad = torch.empty((frames, blocks), dtype=torch.int32, device=x.device)
    _frame_mean_kernel[(frames, blocks)](
        x, mean, square_norm, is_bad, n, channels, blocks, **config
    )
    return mean, square_norm, is_bad
