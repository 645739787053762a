"""Density-peak clustering with a k-nearest-neighbour density, one program a set of points.

For n points with distances d (Euclidean over sqrt(C)), K clusters, k neighbours:

    density[i] = exp(-mean of the k smallest d[i, :]^2)
    parent[i]  = min of d[i, j] over denser j, the largest distance of the set where there is none
    score[i]   = density[i] * parent[i]
    rank[i]    = number of points that score higher; rank[i] < K: the centre of cluster rank[i]
    label[i]   = rank of the nearest centre

Every step needs the step before it for all points, so a program keeps a whole set and passes over
the rows of its distance matrix, which lie in the L2 cache, with a barrier between the passes. Ranks
are counted, not sorted. Ties go to the lower index throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import config_for
from prunevid_kernels.kernels.gram import gram


@triton.jit
def _distances_and_density(
    gram_ptr,
    norm_ptr,
    density_ptr,
    n,
    pitch,
    num_splits,
    gram_split_stride,
    norm_split_stride,
    sqrt_channels,
    num_neighbors,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Turn the Gram matrix into distances in place, store the densities, return the largest
    distance."""
    j = tl.arange(0, BLOCK_N)
    norm_j = tl.zeros([BLOCK_N], dtype=tl.float32)
    for split in range(num_splits):
        norm_j += tl.load(norm_ptr + split * norm_split_stride + j, mask=j < n, other=0.0)
    largest = tl.zeros([BLOCK_M], dtype=tl.float32)
    for first in range(0, n, BLOCK_M):
        i = first + tl.arange(0, BLOCK_M)
        inside = (i < n)[:, None] & (j < n)[None, :]
        tile_ptrs = gram_ptr + i[:, None] * pitch + j[None, :]
        norm_i = tl.zeros([BLOCK_M], dtype=tl.float32)
        product = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
        for split in range(num_splits):
            norm_i += tl.load(norm_ptr + split * norm_split_stride + i, mask=i < n, other=0.0)
            product += tl.load(tile_ptrs + split * gram_split_stride, mask=inside, other=0.0)
        square = norm_i[:, None] + norm_j[None, :] - 2.0 * product
        square = tl.where(square == square, tl.maximum(square, 0.0), float("inf"))  # inf - inf
        square = tl.where(i[:, None] == j[None, :], 0.0, square)
        distance = tl.sqrt_rn(square) / sqrt_channels
        tl.store(tile_ptrs, distance, mask=inside)
        largest = tl.maximum(largest, tl.max(tl.where(inside, distance, 0.0), axis=1))

        remaining = tl.where(inside, distance, float("inf"))
        total = tl.zeros([BLOCK_M], dtype=tl.float32)
        for _ in range(tl.minimum(num_neighbors, n)):
            nearest, where = tl.min(remaining, axis=1, return_indices=True)
            total += nearest * nearest
            remaining = tl.where(j[None, :] == where[:, None], float("inf"), remaining)
        density = tl.exp(-total / tl.minimum(num_neighbors, n))
        tl.store(density_ptr + i, density, mask=i < n)
    return tl.max(largest, axis=0)


@triton.jit
def _scores(
    distance_ptr,
    density_ptr,
    score_ptr,
    n,
    pitch,
    largest,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    j = tl.arange(0, BLOCK_N)
    density_j = tl.load(density_ptr + j, mask=j < n, other=-1.0)
    for first in range(0, n, BLOCK_M):
        i = first + tl.arange(0, BLOCK_M)
        density = tl.load(density_ptr + i, mask=i < n, other=0.0)
        inside = (i < n)[:, None] & (j < n)[None, :]
        distance = tl.load(
            distance_ptr + i[:, None] * pitch + j[None, :], mask=inside, other=float("inf")
        )
        is_denser = (density_j[None, :] > density[:, None]) | (
            (density_j[None, :] == density[:, None]) & (j[None, :] < i[:, None])
        )
        parent = tl.min(tl.where(is_denser, distance, float("inf")), axis=1)
        has_denser = tl.max(is_denser.to(tl.int32), axis=1) > 0
        parent = tl.where(has_denser, parent, largest)
        score = tl.where(density == 0.0, 0.0, density * parent)  # never 0 * inf
        tl.store(score_ptr + i, score, mask=i < n)


@triton.jit
def _ranks(score_ptr, rank_ptr, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    j = tl.arange(0, BLOCK_N)
    score_j = tl.load(score_ptr + j, mask=j < n, other=-1.0)
    for first in range(0, n, BLOCK_M):
        i = first + tl.arange(0, BLOCK_M)
        score = tl.load(score_ptr + i, mask=i < n, other=0.0)
        is_better = (score_j[None, :] > score[:, None]) | (
            (score_j[None, :] == score[:, None]) & (j[None, :] < i[:, None])
        )
        tl.store(rank_ptr + i, tl.sum(is_better.to(tl.int32), axis=1), mask=i < n)


@triton.jit
def _labels(
    distance_ptr,
    rank_ptr,
    label_ptr,
    n,
    pitch,
    num_clusters,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    j = tl.arange(0, BLOCK_N)
    rank_j = tl.load(rank_ptr + j, mask=j < n, other=2147483647)
    is_center = rank_j < num_clusters
    for first in range(0, n, BLOCK_M):
        i = first + tl.arange(0, BLOCK_M)
        rank = tl.load(rank_ptr + i, mask=i < n, other=0)
        distance = tl.load(
            distance_ptr + i[:, None] * pitch + j[None, :],
            mask=(i < n)[:, None] & is_center[None, :],
            other=float("inf"),
        )
        nearest = tl.min(distance, axis=1)
        is_nearest = is_center[None, :] & (distance == nearest[:, None])
        label = tl.min(tl.where(is_nearest, rank_j[None, :], num_clusters - 1), axis=1)
        tl.store(label_ptr + i, tl.where(rank < num_clusters, rank, label), mask=i < n)


@triton.jit
def cluster_points(
    gram_ptr,
    norm_ptr,
    density_ptr,
    score_ptr,
    rank_ptr,
    label_ptr,
    n,
    pitch,
    num_splits,
    gram_split_stride,
    norm_split_stride,
    sqrt_channels,
    num_neighbors,
    num_clusters,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Cluster the n points of one Gram matrix; density, score, rank and label [n] are stored for
    all to read after the closing barrier. BLOCK_N >= n."""
    largest = _distances_and_density(
        gram_ptr,
        norm_ptr,
        density_ptr,
        n,
        pitch,
        num_splits,
        gram_split_stride,
        norm_split_stride,
        sqrt_channels,
        num_neighbors,
        BLOCK_M,
        BLOCK_N,
    )
    tl.debug_barrier()
    _scores(gram_ptr, density_ptr, score_ptr, n, pitch, largest, BLOCK_M, BLOCK_N)
    tl.debug_barrier()
    _ranks(score_ptr, rank_ptr, n, BLOCK_M, BLOCK_N)
    tl.debug_barrier()
    _labels(gram_ptr, rank_ptr, label_ptr, n, pitch, num_clusters, BLOCK_M, BLOCK_N)
    tl.debug_barrier()


@triton.jit
def _dpc_knn_kernel(
    gram_ptr,
    norm_ptr,
    first_row_ptr,
    end_row_ptr,
    density_ptr,
    score_ptr,
    rank_ptr,
    label_ptr,
    pitch,
    num_splits,
    gram_split_stride,
    norm_split_stride,
    sqrt_channels,
    num_neighbors,
    num_clusters,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    first = tl.load(first_row_ptr + tl.program_id(0)).to(tl.int64)
    n = (tl.load(end_row_ptr + tl.program_id(0)) - first).to(tl.int32)
    cluster_points(
        gram_ptr + first * pitch,
        norm_ptr + first,
        density_ptr + first,
        score_ptr + first,
        rank_ptr + first,
        label_ptr + first,
        n,
        pitch,
        num_splits,
        gram_split_stride,
        norm_split_stride,
        sqrt_channels,
        num_neighbors,
        num_clusters,
        BLOCK_M,
        BLOCK_N,
    )


MAX_POINTS = 4096
"""The most points of a set: a row of its distance matrix has to fit one program's registers."""


def row_blocks(device: torch.device, pitch: int) -> dict[str, int]:
    """Config of a kernel that calls :func:`cluster_points` on sets of up to ``pitch`` points."""
    if pitch > MAX_POINTS:
        raise ValueError(f"at most {MAX_POINTS} points can be clustered at once, got {pitch}")
    config = config_for("dpc_knn", device).copy()
    block_n = max(16, triton.next_power_of_2(pitch))
    config["BLOCK_M"] = max(1, min(block_n, config.pop("TILE") // block_n))
    config["BLOCK_N"] = block_n
    return config


def dpc_knn(
    x: Tensor, num_clusters: int, num_neighbors: int, lengths: Sequence[int] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cluster each row of x [B, N, C] on its own; see :func:`prunevid_kernels.dpc_knn`."""
    batch, n, channels = x.shape
    blocks = row_blocks(x.device, n)  # refuses too many points before any work is done
    sizes = [n] * batch if lengths is None else lengths
    first_rows = [row * n for row in range(batch)]
    end_rows = [first + size for first, size in zip(first_rows, sizes, strict=True)]
    first_row, end_row = torch.tensor([first_rows, end_rows], dtype=torch.int32).to(x.device)
    matrices, norms = gram(x.reshape(batch * n, channels).contiguous(), first_row, end_row, n)
    density = torch.zeros((batch, n), dtype=torch.float32, device=x.device)
    score = torch.zeros_like(density)
    rank = torch.full((batch, n), n, dtype=torch.int32, device=x.device)
    label = torch.full_like(rank, -1)
    _dpc_knn_kernel[(batch,)](
        matrices,
        norms,
        first_row,
        end_row,
        density,
        score,
        rank,
        label,
        n,
        matrices.shape[0],
        matrices.stride(0),
        norms.stride(0),
        math.sqrt(channels),
        num_neighbors,
        num_clusters,
        **blocks,
    )
    centers = torch.sort(rank, dim=1, stable=True).indices[:, :num_clusters]
    return label.long(), centers, density, score
