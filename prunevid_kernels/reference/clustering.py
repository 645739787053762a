"""Density-peak clustering, used on frames and on tokens.

An operator's call costs microseconds, which is most of the time where sets of points are small. So
sets are clustered many at a time, also those of different sizes: what a smaller set lacks is
infinitely far from everything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from prunevid_kernels.reference.floats import CACHED_PAIRS, compute_dtype


class PointClusters(NamedTuple):
    """Clusters of B sets of up to n points; what stands beyond a smaller set's points is no result.

    labels [B, n] int64; best_first [B, n] int64, a set's points in descending order of score: the
    first of them are its clusters' centres; density and score [B, n].
    """

    labels: Tensor
    best_first: Tensor
    density: Tensor
    score: Tensor


def cluster_points(points: Tensor, num_clusters: int, num_neighbors: int) -> PointClusters:
    """:func:`cluster_sets` of one set of points [n, C]; each result is its row, [n]."""
    distances = list(point_distances(points[None]))
    clusters = cluster_sets(distances, [len(points)], [num_clusters], num_neighbors)
    return PointClusters(*(rows[0] for rows in clusters))


def point_distances(points: Tensor) -> Tensor:
    """Euclidean distances of points [B, n, C], divided by ``sqrt(C)``, of each pair once: those of
    point 0 to 1, 2, ..., then those of point 1 to 2, 3, ... [B, n (n - 1) / 2].

    They are lengths of differences and not expanded squares: equal points get exactly 0, and a few
    channels of large values do not drown the others.
    """
    values = points.to(compute_dtype(points.dtype))
    return torch.stack([F.pdist(of_set) for of_set in values]) / math.sqrt(points.shape[2])


def cluster_sets(
    distances: Sequence[Tensor],
    sizes: Sequence[int],
    num_clusters: Sequence[int],
    num_neighbors: int,
) -> PointClusters:
    """DPC-KNN (Du et al., 2016) of B >= 1 sets of ``sizes`` points, each by itself, into
    ``num_clusters`` clusters, at least 1 and at most as many as points; by each set's distances, a
    row of :func:`point_distances`.

    The centres are the points of highest ``density * distance to the nearest denser point``, in
    descending order; a centre's rank is its cluster's label. Every other point joins the nearest
    centre.
    """
    distance, exists = _square(distances, sizes)  # [B, n, n], [B, n]
    device, n = distance.device, distance.shape[1]
    farthest = distance.amax(dim=(1, 2), keepdim=True)
    if min(sizes) < n:
        distance.masked_fill_(~(exists[:, :, None] & exists[:, None, :]), math.inf)

    neighbors = [min(num_neighbors, size) for size in sizes]  # a point is its own neighbour
    runs = [(number, len(list(sets))) for number, sets in groupby(neighbors)]
    parts = distance.split([sets for _, sets in runs])
    density = torch.cat(  # [B, n]
        [_density(part, number) for part, (number, _) in zip(parts, runs, strict=True)]
    )
    index = torch.arange(n, device=device).expand_as(exists)
    densest_first = torch.sort(density, descending=True, stable=True).indices
    place = torch.empty_like(index).scatter_(1, densest_first, index)
    is_denser = place[:, None, :] < place[:, :, None]  # [B, i, j]: j is denser than i
    # The densest point is as far from a denser one as any two points are apart.
    parent_distance = torch.where(is_denser, distance, farthest).amin(dim=-1)
    # Where distances overflow, 0 times infinity counts as 0: NaN would be the best score of all.
    score = (density * parent_distance).nan_to_num_(0.0, math.inf)

    ranked = torch.where(exists, score, -math.inf)
    best_first = torch.sort(ranked, descending=True, stable=True).indices
    # Where other sets have more centres, a set's first one stands again and is nobody's nearest.
    most = max(num_clusters)
    is_center = index[:, :most] < torch.tensor(num_clusters, device=device)[:, None]
    centers = torch.where(is_center, best_first[:, :most], best_first[:, :1])
    to_centers = distance.gather(2, centers[:, None, :].expand(-1, n, -1))  # [B, n, K]
    labels = to_centers.argmin(dim=-1)  # the lowest rank among equals
    labels.scatter_(1, centers, index[:, :most] * is_center)
    return PointClusters(labels, best_first, density, score)


def _square(distances: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Distances [B, n, n] of sets of ``sizes`` points, 0 beyond a set's points, and which points
    [B, n] are there."""
    device = distances[0].device
    index = torch.arange(max(sizes), device=device)
    exists = index < torch.tensor(sizes, device=device)[:, None]
    # Each pair once, in the order of its distances: j behind i, and of the set (then so is i).
    is_pair = (index[:, None] < index) & exists[:, None, :]  # [B, i, j]
    half = distances[0].new_zeros(is_pair.shape).masked_scatter_(is_pair, torch.cat([*distances]))
    return half + half.mT, exists


def _density(distance: Tensor, num_neighbors: int) -> Tensor:
    """[B, n] from the distances [B, n, n] to the nearest of n points."""
    nearest = distance.topk(num_neighbors, largest=False).values
    return (-nearest.square().mean(dim=-1)).exp()


def dpc_knn(
    x: Tensor, num_clusters: int, num_neighbors: int, lengths: Sequence[int] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`cluster_sets` of the rows of x [B, N, C], of the first ``lengths[b]`` points of each.

    Returns labels [B, N] int64 (-1 beyond a row's length), centers [B, K] int64, density and score
    [B, N] (0 beyond).
    """
    batch, n, _ = x.shape
    sizes = [n] * batch if lengths is None else list(lengths)
    at_once = max(1, CACHED_PAIRS // n**2)
    parts = [
        _dpc_knn(x[row : row + at_once], num_clusters, num_neighbors, sizes[row : row + at_once])
        for row in range(0, batch, at_once)
    ]
    labels, centers, density, score = (torch.cat(values) for values in zip(*parts, strict=True))
    return labels, centers, density, score


def _dpc_knn(
    x: Tensor, num_clusters: int, num_neighbors: int, sizes: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`dpc_knn` of rows that are clustered together."""
    rows = zip(x.split(1), sizes, strict=True)
    distances = [point_distances(row[:, :size])[0] for row, size in rows]
    clusters = cluster_sets(distances, sizes, [num_clusters] * len(sizes), num_neighbors)
    longest, n = max(sizes), x.shape[1]
    beyond = torch.arange(longest, device=x.device) >= torch.tensor(sizes, device=x.device)[:, None]
    labels, density, score = (
        F.pad(values.masked_fill(beyond, value), (0, n - longest), value=value)
        for values, value in ((clusters.labels, -1), (clusters.density, 0), (clusters.score, 0))
    )
    return labels, clusters.best_first[:, :num_clusters], density, score
