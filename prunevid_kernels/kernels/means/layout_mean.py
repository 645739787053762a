"""Means by a plan that exists: other features of the same tokens, averaged as the tokens were.

The plan says where each source token went; its sort lists every merged token's sources one after
the other. A program owns a merged token (under the interpreter many) and one block of channels, as
in :mod:`.group_mean`, whose block sizes it takes: the work is the same, the members come from a
list. Sums are float32, in the order of the sources block by block. Nothing is read on the host.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import ceil_div, config_for, in_memory, power_of_2_from


@triton.jit(
    do_not_specialize=["num_merged"],
    do_not_specialize_on_alignment=["source_ptr", "end_ptr", "count_ptr"],
)
def _layout_mean_kernel(
    # Read: features, the sources in the order of their merged tokens, where each one's end.
    x_ptr,
    source_ptr,
    end_ptr,
    count_ptr,
    # Written.
    out_ptr,
    # Sizes.
    num_merged,
    C,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    exists = row < num_merged
    count = tl.load(count_ptr + row, mask=exists, other=0)  # [BLOCK_L]
    begin = tl.load(end_ptr + row, mask=exists, other=0) - count  # [BLOCK_L]
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_L, BLOCK_C], dtype=tl.float32)
    for first in range(0, tl.max(count, axis=0), BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        is_member = m[None, :] < count[:, None]  # [BLOCK_L, BLOCK_M]
        # [BLOCK_L, BLOCK_M]
        source = tl.load(source_ptr + begin[:, None] + m[None, :], mask=is_member, other=0)
        inside = is_member[:, :, None] & (c < C)[None, None, :]
        # [BLOCK_L, BLOCK_M, BLOCK_C]
        x = tl.load(x_ptr + source[:, :, None] * C + c[None, None, :], mask=inside, other=0.0)
        total += tl.sum(x.to(tl.float32), axis=1)  # [BLOCK_L, BLOCK_C]
    mean = (total / tl.maximum(count, 1)[:, None]).to(out_ptr.dtype.element_ty)
    inside = exists[:, None] & (c < C)[None, :]
    tl.store(out_ptr + row[:, None] * C + c[None, :], mean, mask=inside)


def layout_mean(x: Tensor, source_to_merged: Tensor, merged_count: Tensor) -> Tensor:
    """[L, C] in the dtype of x [T, N, C].

    Args:
        source_to_merged: [T, N] int64; -1 goes nowhere.
        merged_count: [L] int64: how many go to each.
    """
    x, channels, num_merged = in_memory(x), x.shape[2], len(merged_count)
    # Stable, so that the sums run in the order of the sources; those that go nowhere come first.
    source = source_to_merged.flatten().sort(stable=True).indices
    end = len(source) - merged_count.sum() + merged_count.cumsum(0)
    config = config_for("group_mean", x.device).copy()
    # Half of it: the sources' places, which are int64 here, need the registers.
    config["BLOCK_C"] = min(config["BLOCK_C"] // 2, power_of_2_from(channels))
    out = torch.empty((num_merged, channels), dtype=x.dtype, device=x.device)
    grid = (ceil_div(num_merged, config["BLOCK_L"]), ceil_div(channels, config["BLOCK_C"]))
    _layout_mean_kernel[grid](
        x, source, end, merged_count.contiguous(), out, num_merged, channels, **config
    )
    return out
