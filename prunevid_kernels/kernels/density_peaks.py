"""The steps of the density-peak clustering, each on what a program holds in registers.

The mathematics is that of :mod:`~prunevid_kernels.kernels.dpc_knn`. Comparing squares is comparing
distances, so roots are taken of what was found, not of all there is. Ranks are counted, not sorted.
Ties go to the lower index throughout.

A set of any size goes through one launch a step, row by row. A set of at most ``MAX_SMALL_SET``
points fits one program with all its distances: there a step needs no launch, nothing that a step
leaves goes through memory, and the labels come from the same tile instead of rows that are read
again. The steps are the same, so both ways give the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

MAX_SMALL_SET = 64
"""The most points of a set that one program clusters."""

# The bits of non-negative floats are ordered as the floats are, and minima of integers are one
# instruction a warp where those of floats are ten.
_INFINITY = tl.constexpr(0x7F800000)
_ABOVE_INFINITY = tl.constexpr(0x7F800001)


@triton.jit
def _root(square_bits, sqrt_channels):
    """The scaled distance of a squared distance that is given as its bits."""
    return tl.sqrt_rn(square_bits.to(tl.float32, bitcast=True)) / sqrt_channels


@triton.jit
def _sum_with_ties(bits, counted, sqrt_channels, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The squares [BLOCK_M] of the ``counted`` smallest distances of each row [BLOCK_M, BLOCK_N] of
    bits, added up, all equal ones at a time."""
    missing = tl.zeros([BLOCK_M], dtype=tl.int32) + counted
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    for _ in range(counted):
        nearest = tl.min(bits, axis=1)  # [BLOCK_M]
        is_nearest = bits == nearest[:, None]  # [BLOCK_M, BLOCK_N]
        taken = tl.minimum(tl.sum(is_nearest.to(tl.int32), axis=1), missing)  # [BLOCK_M]
        distance = _root(nearest, sqrt_channels)
        total += tl.where(taken > 0, taken.to(tl.float32) * (distance * distance), 0.0)
        missing -= taken
        bits = tl.where(is_nearest, _INFINITY, bits)
    return total


@triton.jit
def squares(product, norm_i, norm_j, i, j):
    """Squared distances of points i [BLOCK_M] from j [BLOCK_N], never negative or NaN, from their
    products and norms."""
    square = norm_i[:, None] + norm_j[None, :] - 2.0 * product  # [BLOCK_M, BLOCK_N]
    square = tl.where(square == square, tl.where(square > 0.0, square, 0.0), float("inf"))
    return tl.where(i[:, None] == j[None, :], 0.0, square)  # not inf - inf either


@triton.jit
def densities(
    bits, i, j, num_neighbors, n, sqrt_channels, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """The density [BLOCK_M] of each point i from the squared distances [BLOCK_M, BLOCK_N], as bits,
    of points j; beyond the n-th point any number."""
    # The k smallest, where no two of them are equal: each is the least above the one before. The
    # others, seen from that one, wrap around to very large numbers.
    bits = tl.where((i < n)[:, None] & (j < n)[None, :], bits, _INFINITY)
    counted = tl.minimum(num_neighbors, n)
    nearest = tl.full([BLOCK_M], -1, dtype=tl.int32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    for _ in range(counted):
        above = (bits - (nearest[:, None] + 1)).to(tl.uint32, bitcast=True)  # [BLOCK_M, BLOCK_N]
        step = tl.min(above, axis=1).to(tl.int32, bitcast=True)  # [BLOCK_M]
        nearest = tl.where(step < 0, _ABOVE_INFINITY, nearest + 1 + step)  # none is above
        distance = _root(nearest, sqrt_channels)
        total += distance * distance
    found = tl.sum((bits <= nearest[:, None]).to(tl.int32), axis=1)  # [BLOCK_M]
    is_right = ((found == counted) & (nearest <= _INFINITY)) | (i >= n)
    if tl.min(is_right.to(tl.int32), axis=0) == 0:
        total = _sum_with_ties(bits, counted, sqrt_channels, BLOCK_M, BLOCK_N)
    return tl.exp(-total / counted)


@triton.jit
def parents(bits, density_i, density_j, i, j, farthest):
    """The square [BLOCK_M], as bits, of each row's distance from the nearest denser point: rows i
    [BLOCK_M], columns j [BLOCK_N]; ``farthest`` where there is none."""
    is_denser = (density_j[None, :] > density_i[:, None]) | (
        (density_j[None, :] == density_i[:, None]) & (j[None, :] < i[:, None])
    )  # [BLOCK_M, BLOCK_N], none of them outside
    parent = tl.min(tl.where(is_denser, bits, _ABOVE_INFINITY), axis=1)  # [BLOCK_M]
    return tl.where(parent == _ABOVE_INFINITY, farthest, parent)


@triton.jit
def scores(density, parent, sqrt_channels):
    """Densities times distances from the parents; never 0 * inf."""
    return tl.where(density == 0.0, 0.0, density * _root(parent, sqrt_channels))


@triton.jit
def ranks(score_ptr, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """How many points of a set score higher than each: [BLOCK_N], very many outside."""
    j = tl.arange(0, BLOCK_N)
    score_j = tl.load(score_ptr + j, mask=j < n, other=-1.0)  # [BLOCK_N]
    better = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.int32)
    for first in range(0, n, BLOCK_M):
        i = first + tl.arange(0, BLOCK_M)
        score_i = tl.load(score_ptr + i, mask=i < n, other=-1.0)  # [BLOCK_M]
        is_better = (score_i[:, None] > score_j[None, :]) | (
            (score_i[:, None] == score_j[None, :]) & (i[:, None] < j[None, :])
        )
        better += is_better.to(tl.int32)
    return tl.where(j < n, tl.sum(better, axis=0), 2147483647)


@triton.jit
def labels(square_ptr, rank, n, pitch, num_clusters, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The cluster [BLOCK_N] of each point of a set, from the ranks [BLOCK_N].

    The rows of the centres are read in the order of their ranks, so the first of equally near ones
    is the one of the lowest rank.
    """
    j = tl.arange(0, BLOCK_N)
    shortest = tl.full([BLOCK_M, BLOCK_N], float("inf"), dtype=tl.float32)
    nearest = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.int32)
    for first in range(0, num_clusters, BLOCK_M):
        r = first + tl.arange(0, BLOCK_M)
        center = tl.max(tl.where(rank[None, :] == r[:, None], j[None, :], 0), axis=1)  # [BLOCK_M]
        stored = (r < num_clusters)[:, None] & (j < tl.cdiv(n, 16) * 16)[None, :]
        square = tl.load(
            square_ptr + center[:, None] * pitch + j[None, :], mask=stored, other=float("inf")
        )  # [BLOCK_M, BLOCK_N]
        is_nearer = square < shortest
        shortest = tl.where(is_nearer, square, shortest)
        nearest = tl.where(is_nearer, r[:, None], nearest)
    distance = tl.min(shortest, axis=0)  # [BLOCK_N]
    is_nearest = shortest == distance[None, :]
    label = tl.min(tl.where(is_nearest, nearest, 2147483647), axis=0)  # [BLOCK_N]
    return tl.where(rank < num_clusters, rank, label)


@triton.jit
def small_set_labels(
    gram_ptr,
    num_splits,
    split_stride,
    n,
    pitch,
    sqrt_channels,
    num_neighbors,
    num_clusters,
    BLOCK_N: tl.constexpr,
):
    """The cluster [BLOCK_N] of each of n points, from the parts of their Gram matrix."""
    i = tl.arange(0, BLOCK_N)
    rows, columns = i[:, None], i[None, :]
    # [BLOCK_N, BLOCK_N], as all tiles here; rows to the next multiple of 16: whole vectors.
    stored = (rows < n) & (columns < tl.cdiv(n, 16) * 16)
    product = tl.zeros([BLOCK_N, BLOCK_N], dtype=tl.float32)
    for split in tl.range(0, num_splits, loop_unroll_factor=8):  # eight parts under way
        part_ptr = gram_ptr + split * tl.cast(split_stride, tl.int64)
        product += tl.load(part_ptr + rows * pitch + columns, mask=stored, other=0.0)
    norm = tl.sum(tl.where(rows == columns, product, 0.0), axis=1)  # [BLOCK_N]
    square = squares(product, norm, norm, i, i)
    bits = square.to(tl.int32, bitcast=True)
    inside = (rows < n) & (columns < n)
    farthest = tl.max(tl.max(tl.where(inside, bits, 0), axis=1), axis=0)

    # [BLOCK_N] each
    density = densities(bits, i, i, num_neighbors, n, sqrt_channels, BLOCK_N, BLOCK_N)
    parent = parents(bits, density, tl.where(i < n, density, -1.0), i, i, farthest)
    score = tl.where(i < n, scores(density, parent, sqrt_channels), -1.0)
    is_better = (score[None, :] > score[:, None]) | (
        (score[None, :] == score[:, None]) & (columns < rows)
    )
    rank = tl.where(i < n, tl.sum(is_better.to(tl.int32), axis=1), 2147483647)

    # A square and its mirror image have the same bits.
    is_center = (rank < num_clusters)[None, :]
    shortest = tl.min(tl.where(is_center, square, float("inf")), axis=1)  # [BLOCK_N]
    is_nearest = is_center & (square == shortest[:, None])
    label = tl.min(tl.where(is_nearest, rank[None, :], 2147483647), axis=1)  # [BLOCK_N]
    return tl.where(rank < num_clusters, rank, label)
