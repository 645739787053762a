"""The merged tokens: each the mean of its members, written straight to its final row.

A program owns a few merged tokens and one block of channels. Members of a dynamic cluster are read
from the features, those of a static one from the means over time that the static split left behind.
Sums are float32, in ascending order of the members.
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
    first_row_ptr,
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
    total_merged,
    BLOCK_B: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    out_row = tl.program_id(0).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    exists = out_row < total_merged
    videos = tl.arange(0, BLOCK_B)
    num_merged = tl.load(num_merged_ptr + videos, mask=videos < num_videos, other=0)
    end = tl.cumsum(num_merged, axis=0).to(tl.int64)
    is_before = (videos < num_videos)[None, :] & (end[None, :] <= out_row[:, None])
    video = tl.sum(is_before.to(tl.int32), axis=1)  # [BLOCK_L]
    video_row = tl.max(tl.where(is_before, end[None, :], 0), axis=1)
    first_row = tl.load(first_row_ptr + video, mask=exists, other=0)
    row = first_row.to(tl.int64) + out_row - video_row

    group = tl.load(row_group_ptr + row, mask=exists, other=0)
    begin = tl.load(row_begin_ptr + row, mask=exists, other=0)
    size = tl.load(row_size_ptr + row, mask=exists, other=0)
    is_run = group >= 2 * num_frames  # of frames: its members lie N rows apart
    is_static = (group >= num_frames) & (is_run == 0)
    static_slot = (group - num_frames) // 2
    slot = tl.where(is_static, num_frames + static_slot, group).to(tl.int64)
    source_frame = tl.where(is_run, group - 2 * num_frames, tl.where(is_static, static_slot, group))
    source_row = source_frame.to(tl.int64) * N + tl.where(is_run, begin, 0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_L, BLOCK_C], dtype=tl.float32)
    for first in range(0, tl.max(size, axis=0), BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        is_member = m[None, :] < size[:, None]  # [BLOCK_L, BLOCK_M]
        member_ptrs = member_ptr + (slot * N + begin)[:, None] + m[None, :]
        position = tl.load(member_ptrs, mask=is_member & (is_run == 0)[:, None], other=0)
        position = tl.where(is_run[:, None], m[None, :] * N, position)
        place = (source_row[:, None] + position)[:, :, None] * C + c[None, None, :]
        inside = is_member[:, :, None] & (c < C)[None, None, :]
        of_static = inside & is_static[:, None, None]
        of_dynamic = inside & (is_static == 0)[:, None, None]
        x = tl.load(x_ptr + place, mask=of_dynamic, other=0.0).to(tl.float32)
        x += tl.load(static_mean_ptr + place, mask=of_static, other=0.0)
        total += tl.sum(x, axis=1)
    mean = (total / size[:, None]).to(out_ptr.dtype.element_ty)
    inside = exists[:, None] & (c < C)[None, :]
    tl.store(out_ptr + out_row[:, None] * C + c[None, :], mean, mask=inside)


def group_mean(
    x: Tensor,
    static_mean: Tensor,
    first_row: Tensor,
    num_merged: Tensor,
    clusters: GroupClusters,
    total_merged: int,
) -> Tensor:
    """Merged tokens [total_merged, C] of all videos, one video after the other, in the dtype of x
    [F, N, C].

    Args:
        first_row: [B] int32 as for :func:`~prunevid_kernels.kernels.group_clusters.group_clusters`.
        num_merged: [B] int32, on the device: each video's merged tokens; they sum to
            ``total_merged``.
    """
    frames, n, channels = x.shape
    videos = len(num_merged)
    config = config_for("group_mean", x.device).copy()
    config["BLOCK_C"] = min(config["BLOCK_C"], triton.next_power_of_2(channels))
    out = torch.empty((total_merged, channels), dtype=x.dtype, device=x.device)
    grid = (
        triton.cdiv(total_merged, config["BLOCK_L"]),
        triton.cdiv(channels, config["BLOCK_C"]),
    )
    _group_mean_kernel[grid](
        x,
        static_mean,
        first_row,
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
        total_merged,
        BLOCK_B=triton.next_power_of_2(videos),
        **config,
    )
    return out
