"""Density-peak clustering, used on frames and on tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from prunevid_kernels.reference.floats import compute_dtype


class PointClusters(NamedTuple):
    """Clusters of n points: labels [n] int64, centers [K] int64 by rank, density [n], score [n]."""

    labels: Tensor
    centers: Tensor
    density: Tensor
    score: Tensor


def cluster_points(points: Tensor, num_clusters: int, num_neighbors: int) -> PointClusters:
    """DPC-KNN (Du et al., 2016) of points [n, C] into ``num_clusters`` clusters, n >= num_clusters
    >= 1.

    The centres are the points of highest ``density * distance to the nearest denser point``, in
    descending order; a centre's rank is its cluster's label. Every other point joins the nearest
    centre.
    """
    distance = point_distances(points)  # [n, n]
    index = torch.arange(len(points), device=points.device)

    num_neighbors = min(num_neighbors, len(points))  # a point is its own neighbour
    nearest = distance.topk(num_neighbors, dim=1, largest=False).values
    density = (-nearest.square().mean(dim=1)).exp()  # [n]

    densest_first = torch.sort(density, descending=True, stable=True).indices
    place = torch.empty_like(index).index_copy_(0, densest_first, index)
    is_denser = place[None, :] < place[:, None]  # [i, j]: j is denser than i
    parent_distance = torch.where(is_denser, distance, math.inf).amin(dim=1)
    parent_distance = torch.where(place == 0, distance.max(), parent_distance)
    # Where distances overflow, 0 times infinity counts as 0: NaN would be the best score of all.
    score = (density * parent_distance).nan_to_num_(0.0, math.inf)

    centers = torch.sort(score, descending=True, stable=True).indices[:num_clusters]
    labels = distance[centers].argmin(dim=0)  # the lowest rank among equals
    labels[centers] = index[:num_clusters]
    return PointClusters(labels, centers, density, score)


def point_distances(points: Tensor) -> Tensor:
    """Euclidean distances [n, n] of points [n, C], divided by ``sqrt(C)``.

    They are lengths of differences and not expanded squares: equal points get exactly 0, and a few
    channels of large values do not drown the others.
    """
    n, channels = points.shape
    distance = F.pdist(points.to(compute_dtype(points.dtype))) / math.sqrt(channels)
    first, second = torch.triu_indices(n, n, offset=1, device=points.device)
    square = distance.new_zeros((n, n)).index_put_((first, second), distance)
    return square + square.T


def dpc_knn(
    x: Tensor, num_clusters: int, num_neighbors: int, lengths: Sequence[int] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`cluster_points` of each row of x [B, N, C], of its first ``lengths[b]`` points.

    Returns labels [B, N] int64 (-1 beyond a row's length), centers [B, K] int64, density and score
    [B, N] (0 beyond).
    """
    batch, n, _ = x.shape
    floats = compute_dtype(x.dtype)
    labels = torch.full((batch, n), -1, device=x.device)
    centers = torch.empty((batch, num_clusters), dtype=torch.int64, device=x.device)
    density = torch.zeros((batch, n), dtype=floats, device=x.device)
    score = torch.zeros((batch, n), dtype=floats, device=x.device)
    for row, length in enumerate(lengths if lengths is not None else [n] * batch):
        clusters = cluster_points(x[row, :length], num_clusters, num_neighbors)
        labels[row, :length] = clusters.labels
        centers[row] = clusters.centers
        density[row, :length] = clusters.density
        score[row, :length] = clusters.score
    return labels, centers, density, score
