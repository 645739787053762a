"""The merged tokens: each the mean of its members, written straight to its final row.

A program owns one merged token and one block of channels. Members of a dynamic cluster are read from the
features, those of a static one from the means over time that the static split left behind. Sums are float32,
in ascending order of the members.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import config_for
from prunevid_kernels.kernels.group_clusters import GroupClusters


@triton.jit
def _group_mean_kernel(
    x_ptr,
    static_mean_ptr,
    first_frame_ptr,
    num_merged_ptr,
    row_group_ptr,
    row_begin_ptr,
    row_size_ptr,
    member_ptr,
    out_ptr,
    num_frames,
    num_videos,
    N,
    C,
    BLOCK_B: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    out_row = tl.program_id(0).to(tl.int64)
    videos = tl.arange(0, BLOCK_B)
    num_merged = tl.load(num_merged_ptr + videos, mask=videos < num_videos, other=0)
    end = tl.cumsum(num_merged, axis=0)
    is_before = (videos < num_videos) & (end <= out_row)
    video = tl.sum(is_before.to(tl.int32), axis=0)
    video_row = tl.max(tl.where(is_before, end, 0), axis=0)
    row = tl.load(first_frame_ptr + video).to(tl.int64) * N + out_row - video_row

    group = tl.load(row_group_ptr + row)
    begin = tl.load(row_begin_ptr + row)
    size = tl.load(row_size_ptr + row)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_C], dtype=tl.float32)
    if group < num_frames:
        member_ptr += group.to(tl.int64) * N + begin
        x_ptr += group.to(tl.int64) * N * C
        for first in range(0, size, BLOCK_M):
            m = first + tl.arange(0, BLOCK_M)
            position = tl.load(member_ptr + m, mask=m < size, other=0).to(tl.int64)
            inside = (m < size)[:, None] & (c < C)[None, :]
            x = tl.load(x_ptr + position[:, None] * C + c[None, :], mask=inside, other=0.0)
            total += tl.sum(x.to(tl.float32), axis=0)
    else:
        slot = (group - num_frames) // 2
        member_ptr += (num_frames + slot).to(tl.int64) * N + begin
        static_mean_ptr += slot.to(tl.int64) * N * C
        for first in range(0, size, BLOCK_M):
            m = first + tl.arange(0, BLOCK_M)
            position = tl.load(member_ptr + m, mask=m < size, other=0).to(tl.int64)
            inside = (m < size)[:, None] & (c < C)[None, :]
            x = tl.load(
                static_mean_ptr + position[:, None] * C + c[None, :], mask=inside, other=0.0
            )
            total += tl.sum(x, axis=0)
    mean = (total / size).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + out_row * C + c, mean, mask=c < C)


def group_mean(
    x: Tensor,
    static_mean: Tensor,
    first_frame: Tensor,
    num_merged: Tensor,
    clusters: GroupClusters,
    total_merged: int,
) -> Tensor:
    """Merged tokens [total_merged, C] of all videos, one video after the other, in the dtype of x [F, N, C].

    Args:
        num_merged: [B] int32, on the device: each video's merged tokens; they sum to ``total_merged``.
    """
    frames, n, channels = x.shape
    videos = len(num_merged)
    config = config_for("group_mean", x.device).copy()
    config["BLOCK_C"] = min(config["BLOCK_C"], triton.next_power_of_2(channels))
    out = torch.empty((total_merged, channels), dtype=x.dtype, device=x.device)
    _group_mean_kernel[(total_merged, triton.cdiv(channels, config["BLOCK_C"]))](
        x,
        static_mean,
        first_frame,
        num_merged,
        clusters.row_group,
        clusters.row_begin,
        clusters.row_size,
        clusters.member,
        out,
        frames,
        videos,
        n,
        channels,
        BLOCK_B=triton.next_power_of_2(videos),
        **config,
    )
    return out
