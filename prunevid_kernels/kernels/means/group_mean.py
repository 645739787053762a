"""The merged tokens: each the mean of its members, written straight to its final row.

A program owns a merged token (under the interpreter many) and one block of channels, so wide that
a thread has a few channels of all the members it loads: sums cross no thread, and several loads are
under way. A static position has been in its cluster for all frames of its segment, so the mean of
the means over time is the mean of all the tokens, and every kind of cluster is averaged alike. Sums
are float32, position by position.

A merged token that groups share, at a budget below one a group, has no list of members: all tokens
of its frames are looked at, in a launch of its own, where a budget is so small that there may be
one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import config_for
from prunevid_kernels.kernels._launch import alike, launch
from prunevid_kernels.kernels.group_clusters import GroupClusters


@triton.jit
def _place_of(out_row, exists, first_row_ptr, num_merged_ptr, num_videos, BLOCK_B: tl.constexpr):
    """The rows of the clusters' records, and the numbers within their video, of merged tokens
    [BLOCK_L]."""
    videos = tl.arange(0, BLOCK_B)
    num_merged = tl.load(num_merged_ptr + videos, mask=videos < num_videos, other=0)  # [BLOCK_B]
    end = tl.cumsum(num_merged, axis=0).to(tl.int64)  # [BLOCK_B]
    is_before = (videos < num_videos)[None, :] & (end[None, :] <= out_row[:, None])
    video = tl.sum(is_before.to(tl.int32), axis=1)  # [BLOCK_L]
    video_row = tl.max(tl.where(is_before, end[None, :], 0), axis=1)  # [BLOCK_L]
    first_row = tl.load(first_row_ptr + video, mask=exists, other=0)  # [BLOCK_L]
    return first_row.to(tl.int64) + out_row - video_row, out_row - video_row


@triton.jit(
    do_not_specialize=["num_frames", "num_videos", "N", "total_merged"],
    do_not_specialize_on_alignment=[
        "first_row_ptr",
        "num_merged_ptr",
        "segment_length_ptr",
        "row_group_ptr",
        "row_begin_ptr",
        "row_size_ptr",
        "member_ptr",
    ],
)
def _group_mean_kernel(
    # Read: features.
    x_ptr,
    # Where each video's merged tokens are.
    first_row_ptr,
    num_merged_ptr,
    segment_length_ptr,
    # The clusters.
    row_group_ptr,
    row_begin_ptr,
    row_size_ptr,
    member_ptr,
    # Written.
    out_ptr,
    # Sizes.
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
    row, _ = _place_of(out_row, exists, first_row_ptr, num_merged_ptr, num_videos, BLOCK_B)

    group = tl.load(row_group_ptr + row, mask=exists, other=0)  # [BLOCK_L]
    exists = exists & (group < 3 * num_frames)  # others are several groups'
    begin = tl.load(row_begin_ptr + row, mask=exists, other=0)  # [BLOCK_L]
    size = tl.load(row_size_ptr + row, mask=exists, other=0)  # [BLOCK_L]
    is_run = group >= 2 * num_frames  # of one position over frames
    is_static = (group >= num_frames) & (is_run == 0)
    frame_row = (group % num_frames).to(tl.int64) * N
    # [BLOCK_L]
    length = tl.load(segment_length_ptr + group % num_frames, mask=exists & is_static, other=1)
    size = tl.where(is_static, size * length, size)  # source tokens
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_L, BLOCK_C], dtype=tl.float32)
    for first in range(0, tl.max(size, axis=0), BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        is_member = m[None, :] < size[:, None]  # [BLOCK_L, BLOCK_M]
        # Member m of a static cluster: frame m % length of its position m // length.
        place = m[None, :] // length[:, None]
        frame = tl.where(is_run[:, None], m[None, :], m[None, :] % length[:, None])
        member_ptrs = member_ptr + (frame_row + begin)[:, None] + place
        # [BLOCK_L, BLOCK_M]
        position = tl.load(member_ptrs, mask=is_member & (is_run == 0)[:, None], other=0)
        position = tl.where(is_run[:, None], begin[:, None], position)
        source = frame_row[:, None] + frame.to(tl.int64) * N + position
        inside = is_member[:, :, None] & (c < C)[None, None, :]
        # [BLOCK_L, BLOCK_M, BLOCK_C]
        x = tl.load(x_ptr + source[:, :, None] * C + c[None, None, :], mask=inside, other=0.0)
        total += tl.sum(x.to(tl.float32), axis=1)  # [BLOCK_L, BLOCK_C]
    mean = (total / size[:, None]).to(out_ptr.dtype.element_ty)
    inside = exists[:, None] & (c < C)[None, :]
    tl.store(out_ptr + out_row[:, None] * C + c[None, :], mean, mask=inside)


@triton.jit(
    do_not_specialize=["num_frames", "num_videos", "N"],
    do_not_specialize_on_alignment=[
        "first_row_ptr",
        "num_merged_ptr",
        "row_group_ptr",
        "row_size_ptr",
    ],
)
def _shared_mean_kernel(
    # Read: features.
    x_ptr,
    # Where each video's merged tokens are.
    first_row_ptr,
    num_merged_ptr,
    # The clusters.
    row_group_ptr,
    row_size_ptr,
    source_to_merged_ptr,
    # Written.
    out_ptr,
    # Sizes.
    num_frames,
    num_videos,
    N,
    C,
    BLOCK_B: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program (merged token, channels): works if groups share the token."""
    out_row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    row, token = _place_of(
        out_row, out_row >= 0, first_row_ptr, num_merged_ptr, num_videos, BLOCK_B
    )
    group = tl.max(tl.load(row_group_ptr + row), axis=0)
    if group >= 3 * num_frames:
        first_token = (group - 3 * num_frames).to(tl.int64) * N
        num_tokens = tl.max(tl.load(row_size_ptr + row), axis=0) * N
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        total = tl.zeros([BLOCK_M, BLOCK_C], dtype=tl.float32)
        count = tl.zeros([BLOCK_M], dtype=tl.int32)
        for first in range(0, num_tokens, BLOCK_M):
            m = first + tl.arange(0, BLOCK_M)
            source = first_token + m  # [BLOCK_M]
            merged = tl.load(source_to_merged_ptr + source, mask=m < num_tokens, other=-1)
            is_member = merged == token  # [BLOCK_M]
            count += is_member.to(tl.int32)
            inside = is_member[:, None] & (c < C)[None, :]
            # [BLOCK_M, BLOCK_C]
            x = tl.load(x_ptr + source[:, None] * C + c[None, :], mask=inside, other=0.0)
            total += x.to(tl.float32)
        mean = tl.sum(total, axis=0) / tl.sum(count, axis=0)  # [BLOCK_C]
        out_ptrs = out_ptr + tl.program_id(0).to(tl.int64) * C + c
        tl.store(out_ptrs, mean.to(out_ptr.dtype.element_ty), mask=c < C)


# Too rare a launch to be tuned.
SHARED_BLOCKS = {"BLOCK_M": 16, "BLOCK_C": 128, "num_warps": 4}


def group_mean(
    x: Tensor,
    first_row: Tensor,
    num_merged: Tensor,
    segment_length: Tensor,
    clusters: GroupClusters,
    total_merged: int,
    out: Tensor | None = None,
    *,
    may_share: bool = False,
) -> Tensor:
    """Merged tokens [total_merged, C] of all videos, one video after the other, in the dtype of x
    [F, N, C].

    Args:
        first_row: [B] int32 as for :func:`~prunevid_kernels.kernels.group_clusters.group_clusters`.
        num_merged: [B] int32, on the device: each video's merged tokens; they sum to
            ``total_merged``.
        segment_length: [F] int32, at the segments' first frames.
        out: [total_merged, C], contiguous: takes the tokens.
        may_share: whether groups may share merged tokens; their means take a second launch.
    """
    frames, n, channels = x.shape
    videos = num_merged.shape[0]
    block_b = 1 << (videos - 1).bit_length()
    config = config_for("group_mean", x.device).copy()
    config["BLOCK_C"] = min(config["BLOCK_C"], 1 << (channels - 1).bit_length())
    if out is None:
        out = torch.empty((total_merged, channels), dtype=x.dtype, device=x.device)
    variant = (*alike(x, out), channels)
    grid = (-(-total_merged // config["BLOCK_L"]), -(-channels // config["BLOCK_C"]), 1)
    launch(
        _group_mean_kernel,
        variant,
        grid,
        (
            x,
            first_row,
            num_merged,
            segment_length,
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
        ),
        {"BLOCK_B": block_b, **config},
    )
    if may_share:
        launch(
            _shared_mean_kernel,
            variant,
            (total_merged, -(-channels // SHARED_BLOCKS["BLOCK_C"]), 1),
            (
                x,
                first_row,
                num_merged,
                clusters.row_group,
                clusters.row_size,
                clusters.source_to_merged,
                out,
                frames,
                videos,
                n,
                channels,
            ),
            {"BLOCK_B": block_b, **SHARED_BLOCKS},
        )
    return out
