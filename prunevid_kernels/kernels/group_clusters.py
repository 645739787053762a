"""Cluster every group of every video in one launch, and write down who is merged with whom.

A program owns a group: the dynamic tokens of a frame, or the static tokens of a segment. Groups
small enough are passed through: each token is its own cluster. Beside the labels the program leaves
each cluster's members next to each other, so that the averaging afterwards reads members and
nothing else.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import config_for
from prunevid_kernels.kernels.dpc_knn import cluster_points, row_blocks
from prunevid_kernels.kernels.gram import channels_per_part
from prunevid_kernels.kernels.groups import GroupTable


class GroupClusters(NamedTuple):
    """The clusters of all groups. Row ``first_row[v] + l`` of R is merged token l of video v.

    Attributes:
        source_to_merged: [F, N] int64 merged token, within its video, of each source token.
        merged_anchor, merged_count: [R] int64 first source token, within its video, and their
            number.
        row_group: [R] int32 the group of each merged token: the frame of a dynamic one, F plus
            the first frame of the segment of a static one, 2 F plus the first frame of a run of
            frames of one position.
        row_begin, row_size: [R] int32 its members' place in their frame's row of ``member``, and
            their number; of a run of frames its position and length.
        member: [F, N] int32 positions of the tokens of each group, sorted by cluster: of the static
            group of the segment that starts at the frame, and behind them of the frame's dynamic
            group.
    """

    source_to_merged: Tensor
    merged_anchor: Tensor
    merged_count: Tensor
    row_group: Tensor
    row_begin: Tensor
    row_size: Tensor
    member: Tensor


@triton.jit
def _add_parts(gram_ptr, norm_ptr, num_parts, n, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Add the parts of a Gram matrix of n points and of its norms to the first part, in order."""
    j = tl.arange(0, BLOCK_N)
    matrix = tl.cast(N, tl.int64) * N
    for part in range(1, num_parts):
        norm = tl.load(norm_ptr + j, mask=j < n, other=0.0)
        norm += tl.load(norm_ptr + part * N + j, mask=j < n, other=0.0)
        tl.store(norm_ptr + j, norm, mask=j < n)
        for first in range(0, n, BLOCK_M):
            i = first + tl.arange(0, BLOCK_M)
            inside = (i < n)[:, None] & (j < n)[None, :]
            ptrs = gram_ptr + i[:, None] * N + j[None, :]
            total = tl.load(ptrs, mask=inside, other=0.0)
            total += tl.load(ptrs + part * matrix, mask=inside, other=0.0)
            tl.store(ptrs, total, mask=inside)


@triton.jit
def _store_members(
    label_ptr, position_ptr, member_ptr, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Sort the positions by (label, position): a token's place is the count of those before."""
    j = tl.arange(0, BLOCK_N)
    label_j = tl.load(label_ptr + j, mask=j < n, other=2147483647)
    for first in range(0, n, BLOCK_M):
        i = first + tl.arange(0, BLOCK_M)
        label = tl.load(label_ptr + i, mask=i < n, other=0)
        position = tl.load(position_ptr + i, mask=i < n, other=0)
        is_before = (label_j[None, :] < label[:, None]) | (
            (label_j[None, :] == label[:, None]) & (j[None, :] < i[:, None])
        )
        place = tl.sum(is_before.to(tl.int32), axis=1)
        tl.store(member_ptr + place, position, mask=i < n)


@triton.jit
def _store_rows(
    label_ptr,
    position_ptr,
    row_group_ptr,
    row_begin_ptr,
    row_size_ptr,
    anchor_ptr,
    count_ptr,
    group,
    before,
    first_token,
    length,
    n,
    num_clusters,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The record of each cluster. A static token stands for ``length`` source tokens."""
    j = tl.arange(0, BLOCK_N)
    label_j = tl.load(label_ptr + j, mask=j < n, other=2147483647)
    position_j = tl.load(position_ptr + j, mask=j < n, other=2147483647)
    for first in range(0, num_clusters, BLOCK_M):
        r = first + tl.arange(0, BLOCK_M)
        is_member = label_j[None, :] == r[:, None]
        size = tl.sum(is_member.to(tl.int32), axis=1)
        begin = before + tl.sum((label_j[None, :] < r[:, None]).to(tl.int32), axis=1)
        anchor = tl.min(tl.where(is_member, position_j[None, :], 2147483647), axis=1)
        tl.store(row_group_ptr + r, tl.zeros([BLOCK_M], tl.int32) + group, mask=r < num_clusters)
        tl.store(row_begin_ptr + r, begin, mask=r < num_clusters)
        tl.store(row_size_ptr + r, size, mask=r < num_clusters)
        tl.store(anchor_ptr + r, first_token + anchor.to(tl.int64), mask=r < num_clusters)
        tl.store(count_ptr + r, size.to(tl.int64) * length, mask=r < num_clusters)


@triton.jit
def _store_frame_runs(
    position_ptr,
    source_to_merged_ptr,
    row_group_ptr,
    row_begin_ptr,
    row_size_ptr,
    anchor_ptr,
    count_ptr,
    run_group,
    frame,
    first_frame,
    length,
    offset,
    n,
    num_clusters,
    N,
    BLOCK_N: tl.constexpr,
):
    """Budget mode, more room than a static group has positions: cut each position's frames into
    runs.

    Each position gets ``num_clusters / n`` runs, the first ones get one more where that has a rest;
    the merged tokens are in the order of the positions.
    """
    i = tl.arange(0, BLOCK_N)
    position = tl.load(position_ptr + i, mask=i < n, other=0)
    runs = num_clusters // n + (i < num_clusters % n).to(tl.int32)
    first_row = i * (num_clusters // n) + tl.minimum(i, num_clusters % n)
    for step in range(length):
        run = step * runs // length
        source = (frame + step).to(tl.int64) * N + position
        merged = (offset + first_row + run).to(tl.int64)
        tl.store(source_to_merged_ptr + source, merged, mask=i < n)
        begins = (i < n) & ((run * length + runs - 1) // runs == step)
        end = ((run + 1) * length + runs - 1) // runs
        row = first_row + run
        group = tl.zeros([BLOCK_N], tl.int32) + run_group + step
        tl.store(row_group_ptr + row, group, mask=begins)
        tl.store(row_begin_ptr + row, position, mask=begins)
        tl.store(row_size_ptr + row, end - step, mask=begins)
        anchor = (frame - first_frame + step).to(tl.int64) * N + position
        tl.store(anchor_ptr + row, anchor, mask=begins)
        tl.store(count_ptr + row, (end - step).to(tl.int64), mask=begins)


@triton.jit
def _group_clusters_kernel(
    gram_ptr,
    norm_ptr,
    density_ptr,
    score_ptr,
    rank_ptr,
    label_ptr,
    first_frame_ptr,
    first_row_ptr,
    segment_start_ptr,
    segment_length_ptr,
    static_count_ptr,
    position_ptr,
    static_offset_ptr,
    static_size_ptr,
    frame_offset_ptr,
    frame_size_ptr,
    source_to_merged_ptr,
    anchor_ptr,
    count_ptr,
    row_group_ptr,
    row_begin_ptr,
    row_size_ptr,
    member_ptr,
    num_frames,
    num_videos,
    N,
    C,
    sqrt_channels,
    num_neighbors,
    min_cluster_tokens,
    HAS_BUDGET: tl.constexpr,
    SPLIT_C: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    group = tl.program_id(0)
    is_static = group >= num_frames
    frame = tl.where(is_static, group - num_frames, group)
    start = tl.load(segment_start_ptr + frame)
    if (start == frame) | (group < num_frames):
        num_static = tl.load(static_count_ptr + start)
        if is_static:
            n = num_static
            offset = tl.load(static_offset_ptr + frame)
            num_clusters = tl.load(static_size_ptr + frame)
            before = 0
            length = tl.load(segment_length_ptr + frame)
            num_parts = tl.cdiv(C, channels_per_part(C, length, SPLIT_C))
        else:
            n = N - num_static
            offset = tl.load(frame_offset_ptr + frame)
            num_clusters = tl.load(frame_size_ptr + frame)
            before = num_static
            length = 1
            num_parts = 1
        position_ptr += start.to(tl.int64) * N + before
        scratch = frame.to(tl.int64) * N + before
        label_ptr += scratch
        j = tl.arange(0, BLOCK_N)
        largest_passed = min_cluster_tokens
        if HAS_BUDGET:
            largest_passed = num_clusters
        if (n > largest_passed) & (num_clusters > 0):
            if num_parts > 1:
                _add_parts(
                    gram_ptr + scratch * N, norm_ptr + scratch, num_parts, n, N, BLOCK_M, BLOCK_N
                )
                tl.debug_barrier()
            cluster_points(
                gram_ptr + scratch * N,
                norm_ptr + scratch,
                density_ptr + scratch,
                score_ptr + scratch,
                rank_ptr + scratch,
                label_ptr,
                n,
                N,
                1,
                0,
                0,
                sqrt_channels,
                num_neighbors,
                num_clusters,
                BLOCK_M,
                BLOCK_N,
            )
        else:
            # Without room for any token, source_to_merged becomes -1.
            label = tl.where(num_clusters > 0, j, -1 - offset)
            tl.store(label_ptr + j, label, mask=j < n)
            tl.debug_barrier()

        videos = tl.arange(0, BLOCK_B)
        first = tl.load(first_frame_ptr + videos, mask=videos < num_videos, other=2147483647)
        video = tl.sum((first <= frame).to(tl.int32), axis=0) - 1
        first_frame = tl.load(first_frame_ptr + video)
        row = tl.load(first_row_ptr + video).to(tl.int64) + offset
        if num_clusters > n:
            _store_frame_runs(
                position_ptr,
                source_to_merged_ptr,
                row_group_ptr + row,
                row_begin_ptr + row,
                row_size_ptr + row,
                anchor_ptr + row,
                count_ptr + row,
                2 * num_frames + frame,
                frame,
                first_frame,
                length,
                offset,
                n,
                num_clusters,
                N,
                BLOCK_N,
            )
        else:
            _store_members(label_ptr, position_ptr, member_ptr + scratch, n, BLOCK_M, BLOCK_N)
            _store_rows(
                label_ptr,
                position_ptr,
                row_group_ptr + row,
                row_begin_ptr + row,
                row_size_ptr + row,
                anchor_ptr + row,
                count_ptr + row,
                group,
                before,
                (frame - first_frame).to(tl.int64) * N,
                length,
                n,
                num_clusters,
                BLOCK_M,
                BLOCK_N,
            )
            label = tl.load(label_ptr + j, mask=j < n, other=0)
            position = tl.load(position_ptr + j, mask=j < n, other=0)
            merged = (offset + label).to(tl.int64)
            for step in range(length):
                source = (frame + step).to(tl.int64) * N + position
                tl.store(source_to_merged_ptr + source, merged, mask=j < n)


def group_clusters(
    matrices: Tensor,
    norms: Tensor,
    first_frame: Tensor,
    first_row: Tensor,
    num_rows: int,
    segment_start: Tensor,
    segment_length: Tensor,
    static_count: Tensor,
    table: GroupTable,
    channels: int,
    num_neighbors: int,
    min_cluster_tokens: int | None,
) -> GroupClusters:
    """Cluster the groups of ``table`` by their Gram matrices, as
    :func:`~prunevid_kernels.kernels.gram.group_gram` left them; they become distances.

    Args:
        first_row: [B] int32, on the device: the row of each video's first merged token; they are
            known before the videos' numbers of merged tokens are.
        num_rows: R, rows enough for all videos.
        min_cluster_tokens: as for :func:`~prunevid_kernels.kernels.gram.group_gram`.
    """
    frames, n = norms.shape
    device = norms.device
    floats = torch.empty((2, frames, n), dtype=torch.float32, device=device)
    integers = torch.empty((3, frames, n), dtype=torch.int32, device=device)
    rows = torch.empty((3, num_rows), dtype=torch.int32, device=device)
    source_to_merged = torch.empty((frames, n), dtype=torch.int64, device=device)
    anchor = torch.empty(num_rows, dtype=torch.int64, device=device)
    count = torch.empty(num_rows, dtype=torch.int64, device=device)
    _group_clusters_kernel[(2 * frames,)](
        matrices,
        norms,
        floats[0],
        floats[1],
        integers[0],
        integers[1],
        first_frame,
        first_row,
        segment_start,
        segment_length,
        static_count,
        table.position,
        table.static_offset,
        table.static_size,
        table.frame_offset,
        table.frame_size,
        source_to_merged,
        anchor,
        count,
        rows[0],
        rows[1],
        rows[2],
        integers[2],
        frames,
        len(first_frame) - 1,
        n,
        channels,
        math.sqrt(channels),
        num_neighbors,
        min_cluster_tokens or 0,
        HAS_BUDGET=min_cluster_tokens is None,
        SPLIT_C=config_for("group_gram", device)["SPLIT_C"],
        BLOCK_B=triton.next_power_of_2(len(first_frame) - 1),
        **row_blocks(device, n),
    )
    return GroupClusters(source_to_merged, anchor, count, rows[0], rows[1], rows[2], integers[2])
