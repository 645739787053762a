"""Density-peak clustering with a k-nearest-neighbour density, of many sets of points at once.

For n points with distances d (Euclidean over sqrt(C)), K clusters, k neighbours:

    density[i] = exp(-mean of the k smallest d[i, :]^2)
    parent[i]  = min of d[i, j] over denser j, the largest distance of the set where there is none
    score[i]   = density[i] * parent[i]
    rank[i]    = number of points that score higher; rank[i] < K: the centre of cluster rank[i]
    label[i]   = rank of the nearest centre

Each step needs the one before for all points of a set, so each is a launch of its own, but for the
last two, which are short. Densities and scores are made row by row: a program is a warp that holds
whole rows of the distance matrix in registers, so that a set of any size is spread over the chip,
and a minimum over a row crosses no warp. The last step is one program a set; segments and groups
have their own, which go on with the labels that it leaves in registers.

No kernel reads what it stores: the Gram matrix is left as it is, squared distances have a place of
their own, and what comes after is read by the next launch. Comparing squares is comparing
distances, so roots are taken of what was found, not of all there is. Ranks are counted, not sorted.
Ties go to the lower index throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import blocks_for, config_for, device_integers, in_memory
from prunevid_kernels.kernels._launch import MAX_INT32, launch
from prunevid_kernels.kernels._parts import parts
from prunevid_kernels.kernels.density_peaks import (
    densities,
    labels,
    parents,
    ranks,
    scores,
    squares,
)
from prunevid_kernels.kernels.gram import gram, padded_pitch
from prunevid_kernels.kernels.group_gram import channels_per_part


@triton.jit(
    do_not_specialize=[
        "max_points",
        "num_splits",
        "norm_split_stride",
        "num_neighbors",
        "num_frames",
        "C",
    ],
    do_not_specialize_on_alignment=[
        "first_row_ptr",
        "end_row_ptr",
        "segment_length_ptr",
        "density_ptr",
    ],
)
def _densities_kernel(
    # Read: Gram matrices, and where each set's rows are.
    gram_ptr,
    norm_ptr,
    first_row_ptr,
    end_row_ptr,
    segment_length_ptr,
    # Written.
    square_ptr,
    density_ptr,
    farthest_ptr,
    # Sizes and strides.
    max_points,
    pitch,
    num_splits,
    gram_split_stride,
    norm_split_stride,
    sqrt_channels,
    num_neighbors,
    num_frames,
    C,
    SPLIT_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Program (set, block of its rows), blocks fastest. With SPLIT_C the sets are the groups of
    ``num_frames`` frames of ``max_points`` tokens, and the static ones have as many parts as their
    segment has room for."""
    blocks = tl.cdiv(max_points, BLOCK_M)
    points, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    first = tl.load(first_row_ptr + points).to(tl.int64)
    n = (tl.load(end_row_ptr + points) - first).to(tl.int32)
    if block * BLOCK_M < n:
        length = n * 0 + 1
        if SPLIT_C > 0:
            if points >= num_frames:  # a part in the rows of each frame of the segment
                length = tl.load(segment_length_ptr + points - num_frames)
                num_splits = tl.cdiv(C, channels_per_part(C, length * num_splits, SPLIT_C))
        gram_ptr += first * pitch
        norm_ptr += first
        square_ptr += first * pitch
        i = block * BLOCK_M + tl.arange(0, BLOCK_M)
        j = tl.arange(0, BLOCK_N)
        inside = (i < n)[:, None] & (j < n)[None, :]
        # Rows are read and written to the next multiple of 16 columns: whole vectors.
        stored = (i < n)[:, None] & (j < tl.cdiv(n, 16) * 16)[None, :]
        tile = i[:, None] * pitch + j[None, :]
        norm_i = tl.zeros([BLOCK_M], dtype=tl.float32)
        norm_j = tl.zeros([BLOCK_N], dtype=tl.float32)
        product = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
        # Parts under way; of sets of any size, rows are longer.
        UNDER_WAY: tl.constexpr = 4 if SPLIT_C > 0 else 2
        for split in tl.range(0, num_splits, loop_unroll_factor=UNDER_WAY):
            later_row = (split % length).to(tl.int64) * max_points
            matrix = split // length
            part_norm_ptr = norm_ptr + later_row + matrix * tl.cast(norm_split_stride, tl.int64)
            part_gram_ptr = gram_ptr + later_row * pitch
            part_gram_ptr += matrix * tl.cast(gram_split_stride, tl.int64)
            norm_i += tl.load(part_norm_ptr + i, mask=i < n, other=0.0)  # [BLOCK_M]
            norm_j += tl.load(part_norm_ptr + j, mask=j < n, other=0.0)  # [BLOCK_N]
            product += tl.load(part_gram_ptr + tile, mask=stored, other=0.0)  # [BLOCK_M, BLOCK_N]
        square = squares(product, norm_i, norm_j, i, j)  # [BLOCK_M, BLOCK_N]
        tl.store(square_ptr + tile, square, mask=stored)

        bits = square.to(tl.int32, bitcast=True)  # [BLOCK_M, BLOCK_N]
        farthest = tl.max(tl.where(inside, bits, 0), axis=1)  # [BLOCK_M]
        tl.store(farthest_ptr + first + i, farthest, mask=i < n)
        density = densities(bits, i, j, num_neighbors, n, sqrt_channels, BLOCK_M, BLOCK_N)
        tl.store(density_ptr + first + i, density, mask=i < n)


@triton.jit(
    do_not_specialize=["max_points"],
    do_not_specialize_on_alignment=["first_row_ptr", "end_row_ptr", "density_ptr", "score_ptr"],
)
def _scores_kernel(
    # Read: of the points, and where each set's rows are.
    square_ptr,
    density_ptr,
    farthest_ptr,
    first_row_ptr,
    end_row_ptr,
    # Written.
    score_ptr,
    # Sizes and strides.
    max_points,
    pitch,
    sqrt_channels,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Program (set, block of its rows), blocks fastest."""
    blocks = tl.cdiv(max_points, BLOCK_M)
    points, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    first = tl.load(first_row_ptr + points).to(tl.int64)
    n = (tl.load(end_row_ptr + points) - first).to(tl.int32)
    if block * BLOCK_M < n:
        square_ptr += first * pitch
        density_ptr += first
        i = block * BLOCK_M + tl.arange(0, BLOCK_M)
        j = tl.arange(0, BLOCK_N)
        density_i = tl.load(density_ptr + i, mask=i < n, other=0.0)  # [BLOCK_M]
        density_j = tl.load(density_ptr + j, mask=j < n, other=-1.0)  # [BLOCK_N]
        stored = (i < n)[:, None] & (j < tl.cdiv(n, 16) * 16)[None, :]
        # [BLOCK_M, BLOCK_N]
        square = tl.load(square_ptr + i[:, None] * pitch + j[None, :], mask=stored, other=0.0)
        # The largest of [BLOCK_N].
        farthest = tl.max(tl.load(farthest_ptr + first + j, mask=j < n, other=0), axis=0)
        bits = square.to(tl.int32, bitcast=True)
        parent = parents(bits, density_i, density_j, i, j, farthest)  # [BLOCK_M]
        score = scores(density_i, parent, sqrt_channels)
        tl.store(score_ptr + first + i, score, mask=i < n)


@triton.jit(
    do_not_specialize=["N", "num_clusters"],
    do_not_specialize_on_alignment=["first_row_ptr", "end_row_ptr", "score_ptr"],
)
def _dpc_knn_kernel(
    # Read.
    square_ptr,
    score_ptr,
    first_row_ptr,
    end_row_ptr,
    # Written.
    label_ptr,
    center_ptr,
    # Sizes and strides.
    pitch,
    N,
    num_clusters,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Program (set): labels [N], -1 beyond the set's points, and centres [num_clusters]."""
    points = tl.program_id(0).to(tl.int64)
    first = tl.load(first_row_ptr + points).to(tl.int64)
    n = (tl.load(end_row_ptr + points) - first).to(tl.int32)
    rank = ranks(score_ptr + first, n, BLOCK_M, BLOCK_N)
    label = labels(square_ptr + first * pitch, rank, n, pitch, num_clusters, BLOCK_M, BLOCK_N)
    j = tl.arange(0, BLOCK_N)
    tl.store(label_ptr + points * N + j, tl.where(j < n, label, -1).to(tl.int64), mask=j < N)
    is_center = rank < num_clusters
    tl.store(center_ptr + points * num_clusters + rank, j.to(tl.int64), mask=is_center)


class Points(NamedTuple):
    """Sets of points by their Gram matrices, in R rows.

    Attributes:
        gram: R rows of ``pitch`` float32 from its first, the first of ``num_splits`` parts that add
            up, ``gram_stride`` floats apart; norm: [R], the parts ``norm_stride`` floats apart.
        pitch: floats from a row to the next, as :func:`~prunevid_kernels.kernels.gram.padded_pitch`
            gives them.
        first_row, end_row: [B] int32, each set's first row and the row after its last; of
            ``first_row`` more may be there.
        max_points: points of the largest set.
        segment_length: [F] int32 where the sets are groups of F frames, see
            :func:`~prunevid_kernels.kernels.group_gram.group_gram`; None otherwise.
    """

    gram: Tensor
    norm: Tensor
    pitch: int
    num_splits: int
    gram_stride: int
    norm_stride: int
    first_row: Tensor
    end_row: Tensor
    max_points: int
    channels: int
    segment_length: Tensor | None = None


def points_of(x: Tensor, first_row: Tensor, end_row: Tensor, max_points: int) -> Points:
    """The sets of points that x [R, C] holds, in one launch."""
    # Too many are refused before any work is done.
    blocks_for("cluster_rows", x.device, max_points)
    pitch = padded_pitch(max_points)
    matrices, norms = gram(x, first_row, end_row, pitch)
    splits, strides = matrices.shape[0], (matrices.stride(0), norms.stride(0))
    channels = x.shape[1]
    return Points(
        matrices, norms, pitch, splits, *strides, first_row, end_row, max_points, channels
    )


def score_points(points: Points, num_neighbors: int, density: Tensor, score: Tensor) -> Tensor:
    """Densities and scores in two launches; ``density`` and ``score`` [R] are written.

    Returns:
        squared distances [R, pitch] float32.
    """
    rows, pitch = density.shape[0], points.pitch
    device = density.device
    square, farthest = parts(device, ((rows, pitch), torch.float32), ((rows,), torch.int32))
    sets = points.first_row, points.end_row
    sqrt_channels = math.sqrt(points.channels)
    segment_length = points.segment_length
    blocks = blocks_for("cluster_rows", device, points.max_points)
    grid = (points.end_row.shape[0] * -(-points.max_points // blocks["BLOCK_M"]), 1, 1)
    needs_64_bits = points.gram_stride > MAX_INT32, points.norm_stride > MAX_INT32
    launch(
        _densities_kernel,
        (device, pitch, *needs_64_bits),
        grid,
        (
            points.gram,
            points.norm,
            *sets,
            points.first_row if segment_length is None else segment_length,
            square,
            density,
            farthest,
            points.max_points,
            pitch,
            points.num_splits,
            points.gram_stride,
            points.norm_stride,
            sqrt_channels,
            num_neighbors,
            0 if segment_length is None else segment_length.shape[0],
            points.channels,
        ),
        {
            "SPLIT_C": 0 if segment_length is None else config_for("group_gram", device)["SPLIT_C"],
            **blocks,
        },
    )
    launch(
        _scores_kernel,
        (device, pitch),
        grid,
        (square, density, farthest, *sets, score, points.max_points, pitch, sqrt_channels),
        blocks,
    )
    return square


def dpc_knn(
    x: Tensor, num_clusters: int, num_neighbors: int, lengths: Sequence[int] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cluster each row of x [B, N, C] on its own; see :func:`prunevid_kernels.dpc_knn`."""
    batch, n, channels = x.shape
    device = x.device
    blocks = blocks_for("group_clusters", device, n)
    first_row = torch.arange(batch, dtype=torch.int32, device=device) * n
    end_row = first_row + (n if lengths is None else device_integers(lengths, device))
    density, score = torch.zeros((2, batch, n), dtype=torch.float32, device=device)
    rows = in_memory(x.reshape(batch * n, channels))
    points = points_of(rows, first_row, end_row, n)
    square = score_points(points, num_neighbors, density.flatten(), score.flatten())
    label = torch.empty((batch, n), dtype=torch.int64, device=device)
    center = torch.empty((batch, num_clusters), dtype=torch.int64, device=device)
    launch(
        _dpc_knn_kernel,
        (device, square.shape[1]),
        (batch, 1, 1),
        (square, score, first_row, end_row, label, center, square.shape[1], n, num_clusters),
        blocks,
    )
    return label, center, density, score
