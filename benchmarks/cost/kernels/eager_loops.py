"""The merge as the released code runs it: loops in eager PyTorch, over segments, frames and groups.

The static test compares all pairs of a segment's frames, so its cost grows with the square of the
segment's length. Every group is clustered and averaged by itself, and the host waits for its labels
before the next one begins. Distances are those of a plain ``torch.cdist``, as code of this kind has
them: matrix products where a set has more than 25 points, quicker than true differences and less
exact. This is the form that the paper's own timings are of, and the baseline of the kernel
benchmarks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig, TokenLayout

from .eager_variants import segments_of


def merge_in_loops(x: Tensor, config: PruneVidConfig) -> MergedVideo:
    """:func:`prunevid_kernels.merge_video` of x [T, N, C] in threshold mode, group by group."""
    num_labels = max(1, int(len(x) * config.segment_ratio))
    labels = cluster_points(x.float().mean(dim=1), num_labels, config.num_neighbors)
    lengths = torch.tensor(segments_of(labels.tolist()))
    groups: list[tuple[Tensor, Tensor]] = []  # merged tokens [K, C] and label [n] of each group
    sizes: tuple[list[int], list[int]] = ([], [])  # of static and of dynamic groups
    targets = torch.empty(x.shape[:2], dtype=torch.int64, device=x.device)
    offset = first = 0
    for frames in x.float().split(lengths.tolist()):
        last = first + len(frames)
        is_static = pairwise_similarity(frames) > config.tau
        is_static &= len(frames) > 1
        static_mean = frames[:, is_static].mean(dim=0)
        groups.append(_merge_group(static_mean, config))
        targets[first:last, is_static] = offset + groups[-1][1]
        sizes[0].append(len(groups[-1][0]))
        offset += sizes[0][-1]
        for index, frame in enumerate(frames, start=first):
            groups.append(_merge_group(frame[~is_static], config))
            targets[index, ~is_static] = offset + groups[-1][1]
            sizes[1].append(len(groups[-1][0]))
            offset += sizes[1][-1]
        first = last
    return MergedVideo(
        torch.cat([tokens for tokens, _ in groups]).to(x.dtype),
        TokenLayout.from_sizes(
            lengths,
            torch.tensor(sizes[0]),
            torch.tensor(sizes[1]),
            source_to_merged=targets,
            **_sources(targets.flatten(), offset),
        ),
    )


def pairwise_similarity(frames: Tensor) -> Tensor:
    """[N] mean cosine of each position of frames [W, N, C] over all ordered pairs of two of the W
    frames; 0 for a single frame."""
    unit = F.normalize(frames, dim=-1, eps=1e-12)
    cosine = torch.einsum("vnc,wnc->nvw", unit, unit)
    cosine.diagonal(dim1=1, dim2=2).zero_()
    pairs = len(frames) * (len(frames) - 1)
    return cosine.sum(dim=(1, 2)) / max(pairs, 1)


def cluster_points(points: Tensor, num_clusters: int, num_neighbors: int) -> Tensor:
    """[n] int64 density-peak cluster of each of points [n, C], numbered by the centres' rank."""
    distance = torch.cdist(points, points) / points.shape[1] ** 0.5
    nearest = distance.topk(min(num_neighbors, len(points)), dim=1, largest=False).values
    density = (-nearest.square().mean(dim=1)).exp()
    is_denser = density[None, :] > density[:, None]
    parent = torch.where(is_denser, distance, distance.max()).amin(dim=1)
    centers = (density * parent).topk(num_clusters).indices
    labels = distance[:, centers].argmin(dim=1)
    labels[centers] = torch.arange(num_clusters, device=points.device)
    return labels


def _merge_group(points: Tensor, config: PruneVidConfig) -> tuple[Tensor, Tensor]:
    """Cluster means [K, C] and labels [n] of one group [n, C]; small groups pass through."""
    if len(points) <= config.min_cluster_tokens:
        return points, torch.arange(len(points), device=points.device)
    count = max(1, int(len(points) * config.cluster_ratio))
    labels = cluster_points(points, count, config.num_neighbors)
    return torch.stack([points[labels == cluster].mean(dim=0) for cluster in range(count)]), labels


def _sources(targets: Tensor, num_merged: int) -> dict[str, Tensor]:
    """Each merged token's first source token and number of them, from targets [T * N]."""
    count = torch.bincount(targets, minlength=num_merged)
    source = torch.arange(len(targets), device=targets.device)
    anchor = torch.full_like(count, len(targets))
    return {
        "merged_anchor": anchor.scatter_reduce(0, targets, source, "amin"),
        "merged_count": count,
    }
