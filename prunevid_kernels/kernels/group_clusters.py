"""Cluster every group of every video, and write down who is merged with whom, in three launches.

Densities and scores are made as for any sets of points (:mod:`~prunevid_kernels.kernels.dpc_knn`).
Then a program owns a group, and holds its tokens in registers from their scores to their places.
Groups small enough are passed through: each token is its own cluster. Beside the labels the program
leaves each cluster's members next to each other, so that the averaging afterwards reads members and
nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import blocks_for
from prunevid_kernels.kernels._launch import launch
from prunevid_kernels.kernels._parts import parts
from prunevid_kernels.kernels.density_peaks import labels, ranks
from prunevid_kernels.kernels.dpc_knn import Points, score_points
from prunevid_kernels.kernels.groups import GroupTable, sharers, video_of


class GroupClusters(NamedTuple):
    """The clusters of all groups. Row ``first_row[v] + l`` of R is merged token l of video v.

    Attributes:
        source_to_merged: [F, N] int64 merged token, within its video, of each source token.
        merged_anchor, merged_count: [R] int64 first source token, within its video, and their
            number.
        row_group: [R] int32 the group of each merged token: the frame of a dynamic one, F plus
            the first frame of the segment of a static one, 2 F plus the first frame of a run of
            frames of one position, 3 F plus the first frame of one that groups share.
        row_begin, row_size: [R] int32 its members' place in their frame's row of ``member``, and
            their number; of a run of frames its position and length; of one that groups share 0 and
            the frames among which its sources are, by ``source_to_merged``.
        member: [F, N] int32 positions of the tokens of each group, sorted by cluster: of the static
            group of the segment that starts at the frame, then of the frame's dynamic
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
def _store_clusters(
    # Of the group's tokens, in registers.
    label,
    position,
    # Written: a record for each merged token, and the members.
    row_group_ptr,
    row_begin_ptr,
    row_size_ptr,
    anchor_ptr,
    count_ptr,
    member_ptr,
    # The group's number, places and sizes.
    group,
    before,
    first_token,
    length,
    n,
    num_clusters,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The record of each cluster, and the positions sorted by (label, position). A static token
    stands for ``length`` source tokens."""
    j = tl.arange(0, BLOCK_N)
    place = tl.zeros([BLOCK_N], dtype=tl.int32)
    placed = 0
    for first in range(0, num_clusters, BLOCK_M):
        r = first + tl.arange(0, BLOCK_M)
        exists = r < num_clusters
        is_member = (label[None, :] == r[:, None]) & (j < n)[None, :] & exists[:, None]
        counted = tl.cumsum(is_member.to(tl.int32), axis=1)  # [BLOCK_M, BLOCK_N]
        size = tl.sum(is_member.to(tl.int32), axis=1)  # [BLOCK_M]
        begin = placed + tl.cumsum(size, axis=0) - size  # [BLOCK_M]
        placed += tl.sum(size, axis=0)
        place += tl.sum(tl.where(is_member, begin[:, None] + counted - 1, 0), axis=0)  # [BLOCK_N]
        anchor = tl.min(tl.where(is_member, position[None, :], 2147483647), axis=1)  # [BLOCK_M]
        tl.store(row_group_ptr + r, tl.zeros([BLOCK_M], tl.int32) + group, mask=exists)
        tl.store(row_begin_ptr + r, before + begin, mask=exists)
        tl.store(row_size_ptr + r, size, mask=exists)
        tl.store(anchor_ptr + r, first_token + anchor.to(tl.int64), mask=exists)
        tl.store(count_ptr + r, size.to(tl.int64) * length, mask=exists)
    tl.store(member_ptr + place, position, mask=(j < n) & (num_clusters > 0))


@triton.jit
def _store_frame_runs(
    # Of the group's tokens, in registers.
    position,
    # Written: where each source token goes, and a record for each merged token.
    source_to_merged_ptr,
    row_group_ptr,
    row_begin_ptr,
    row_size_ptr,
    anchor_ptr,
    count_ptr,
    # The group's number, places and sizes.
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


@triton.jit(
    do_not_specialize=["num_frames", "num_videos", "N"],
    do_not_specialize_on_alignment=[
        "first_point_ptr",
        "end_point_ptr",
        "first_row_ptr",
        "segment_length_ptr",
        "static_count_ptr",
        "static_offset_ptr",
        "static_size_ptr",
        "frame_offset_ptr",
        "frame_size_ptr",
        "anchor_ptr",
        "count_ptr",
        "row_group_ptr",
        "row_begin_ptr",
        "row_size_ptr",
    ],
)
def _group_clusters_kernel(
    # Read: of the groups' points.
    square_ptr,
    score_ptr,
    first_point_ptr,
    end_point_ptr,
    # Read: videos, segments and groups.
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
    # Written.
    source_to_merged_ptr,
    anchor_ptr,
    count_ptr,
    row_group_ptr,
    row_begin_ptr,
    row_size_ptr,
    member_ptr,
    # Sizes and strides.
    num_frames,
    num_videos,
    N,
    pitch,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Program (group): the dynamic tokens of frame ``group``, or, from ``num_frames`` on, the
    static ones of the segment that starts at frame ``group - num_frames``, if one does."""
    group = tl.program_id(0)
    is_static = group >= num_frames
    frame = tl.where(is_static, group - num_frames, group)
    start = tl.load(segment_start_ptr + frame)
    if (start == frame) | (group < num_frames):
        num_static = tl.load(static_count_ptr + start)
        n = tl.where(is_static, num_static, N - num_static)
        before = tl.where(is_static, 0, num_static)
        # Static groups' offset and size, or dynamic ones'.
        offset = tl.load(tl.where(is_static, static_offset_ptr + frame, frame_offset_ptr + frame))
        num_clusters = tl.load(tl.where(is_static, static_size_ptr + frame, frame_size_ptr + frame))
        length = tl.where(is_static, tl.load(segment_length_ptr + start), 1)
        row = frame.to(tl.int64) * N + before
        j = tl.arange(0, BLOCK_N)
        # One cluster holds all; none is the last one of the groups before.
        label = tl.where(num_clusters > 1, j, num_clusters - 1)
        if tl.load(end_point_ptr + group) > tl.load(first_point_ptr + group):
            rank = ranks(score_ptr + row, n, BLOCK_M, BLOCK_N)
            label = labels(square_ptr + row * pitch, rank, n, pitch, num_clusters, BLOCK_M, BLOCK_N)

        position_ptr += start.to(tl.int64) * N + before
        position = tl.load(position_ptr + j, mask=j < n, other=0)  # [BLOCK_N]
        video = video_of(frame, first_frame_ptr, num_videos)
        first_frame = tl.load(first_frame_ptr + video)
        merged_row = tl.load(first_row_ptr + video).to(tl.int64) + offset
        shared, shared_end = n * 0, n * 0
        if num_clusters == 1:
            shared, shared_end = sharers(
                segment_start_ptr,
                segment_length_ptr,
                static_count_ptr,
                static_offset_ptr,
                static_size_ptr,
                frame_offset_ptr,
                frame_size_ptr,
                offset,
                frame,
                tl.load(first_frame_ptr + video + 1),
                N,
                BLOCK_N,
            )
        if num_clusters > n:
            _store_frame_runs(
                position,
                source_to_merged_ptr,
                row_group_ptr + merged_row,
                row_begin_ptr + merged_row,
                row_size_ptr + merged_row,
                anchor_ptr + merged_row,
                count_ptr + merged_row,
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
            if shared > 0:
                tl.store(row_group_ptr + merged_row, 3 * num_frames + frame)
                tl.store(row_begin_ptr + merged_row, 0)
                shared_end = tl.maximum(shared_end, frame + length)
                tl.store(row_size_ptr + merged_row, shared_end - frame)
                # The group after a static one is of the same frame, unless the frame has none.
                anchor = tl.min(tl.where(j < n, position, N), axis=0)
                anchor = tl.where(is_static & (n < N), 0, anchor)
                first_token = (frame - first_frame).to(tl.int64) * N
                tl.store(anchor_ptr + merged_row, first_token + anchor)
                tl.store(count_ptr + merged_row, (n * length + shared).to(tl.int64))
            _store_clusters(
                label,
                position,
                row_group_ptr + merged_row,
                row_begin_ptr + merged_row,
                row_size_ptr + merged_row,
                anchor_ptr + merged_row,
                count_ptr + merged_row,
                member_ptr + row,
                group,
                before,
                (frame - first_frame).to(tl.int64) * N,
                length,
                n,
                tl.where(shared > 0, 0, num_clusters),
                BLOCK_M,
                BLOCK_N,
            )
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
) -> GroupClusters:
    """Cluster the groups of ``table`` by their Gram matrices, as
    :func:`~prunevid_kernels.kernels.group_gram.group_gram` left them.

    Args:
        first_row: [B] int32, on the device: the row of each video's first merged token; they are
            known before the videos' numbers of merged tokens are.
        num_rows: R, rows enough for all videos.
    """
    num_parts, frames, n = norms.shape
    device = norms.device
    density, score, member, row_group, row_begin, row_size = parts(
        device,
        *[((frames * n,), torch.float32)] * 2,
        ((frames, n), torch.int32),
        *[((num_rows,), torch.int32)] * 3,
    )
    strides = matrices.stride(0), norms.stride(0)
    points = Points(
        matrices,
        norms,
        matrices.shape[3],
        num_parts,
        *strides,
        table.first_point,
        table.end_point,
        n,
        channels,
        segment_length,
    )
    square = score_points(points, num_neighbors, density, score)
    source_to_merged = torch.empty((frames, n), dtype=torch.int64, device=device)
    anchor = torch.empty(num_rows, dtype=torch.int64, device=device)
    count = torch.empty(num_rows, dtype=torch.int64, device=device)
    launch(
        _group_clusters_kernel,
        (device, square.shape[1]),
        (2 * frames, 1, 1),
        (
            square,
            score,
            table.first_point,
            table.end_point,
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
            row_group,
            row_begin,
            row_size,
            member,
            frames,
            first_frame.shape[0] - 1,
            n,
            square.shape[1],
        ),
        blocks_for("group_clusters", device, n),
    )
    return GroupClusters(source_to_merged, anchor, count, row_group, row_begin, row_size, member)
