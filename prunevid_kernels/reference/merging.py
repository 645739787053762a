"""Segments, static positions, groups, and the means of what is merged: features in, merged tokens
out.

Eager PyTorch that loops over segments, frames and groups, and goes through a video frame by frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor

from prunevid_kernels.config import PruneVidConfig, budget_tokens, scaled_count
from prunevid_kernels.layout import MergedVideo, TokenLayout
from prunevid_kernels.reference.clustering import cluster_points
from prunevid_kernels.reference.floats import (
    compute_dtype,
    first_nonfinite_frame,
    nonfinite_error,
)

# ------------------------------------------------------------------------------------------------
# Temporal segments
# ------------------------------------------------------------------------------------------------


def refine_labels(labels: Sequence[int]) -> list[int]:
    """Turn the frames' cluster labels into labels whose maximal runs are the segments.

    A label keeps its longest runs, unless they are single frames; all other frames are open. From
    left to right, each stretch of open frames takes the label of the longer of its two neighbouring
    runs (the left one if they are equally long), label 0 if it has none. From two frames on, no
    segment is shorter than two frames.
    """
    longest: dict[int, int] = {}
    for label, frames in groupby(labels):
        longest[label] = max(longest.get(label, 0), len(list(frames)))

    refined: list[int | None] = []
    for label, frames in groupby(labels):
        length = len(list(frames))
        stays = length > 1 and length == longest[label]
        refined += [label if stays else None] * length

    position = 0
    while position < len(refined):
        if refined[position] is not None:
            position += 1
            continue
        end = position
        while end < len(refined) and refined[end] is None:
            end += 1
        left, left_length = _run_at(refined, position - 1, step=-1)
        right, right_length = _run_at(refined, end, step=+1)
        winner = right if right_length > left_length else left
        refined[position:end] = [0 if winner is None else winner] * (end - position)
        position = end
    return [label for label in refined if label is not None]


def _run_at(labels: Sequence[int | None], start: int, step: int) -> tuple[int | None, int]:
    """The label at ``start`` and how often it repeats from there on in direction ``step``."""
    if not 0 <= start < len(labels) or labels[start] is None:
        return None, 0
    length = 0
    while (
        0 <= start + step * length < len(labels) and labels[start + step * length] == labels[start]
    ):
        length += 1
    return labels[start], length


def segment_frames(frame_features: Tensor, config: PruneVidConfig) -> Tensor:
    """The segment id [T] int64 of each frame from its descriptor [T, C]: 0, 0, 0, 1, 1, ..."""
    num_frames = frame_features.shape[0]
    num_clusters = max(1, scaled_count(num_frames, config.segment_ratio))
    labels = cluster_points(frame_features, num_clusters, config.num_neighbors).labels
    refined = torch.tensor(refine_labels(labels.tolist()), device=frame_features.device)
    starts_segment = torch.zeros_like(refined)
    starts_segment[1:] = refined[1:] != refined[:-1]
    return starts_segment.cumsum(0)


# ------------------------------------------------------------------------------------------------
# Merging
# ------------------------------------------------------------------------------------------------


def position_similarity(segment: Tensor) -> Tensor:
    """Mean cosine [N] over the pairs of different frames of a segment [W, N, C], W >= 2, position
    by position.

    The sum over all ordered pairs of W unit vectors' products is the squared length of their sum,
    so this is linear in W. 1 is subtracted for each frame's product with itself, for all-zero
    vectors too, although theirs is 0.
    """
    frames = len(segment)
    total = torch.zeros_like(segment[0], dtype=compute_dtype(segment.dtype))
    for frame in segment:
        values = frame.to(total.dtype)
        length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
        total.addcdiv_(values, length.clamp(min=1e-12))  # total += values / length
    return (total.square().sum(dim=-1) - frames) / (frames * (frames - 1))


def static_positions(segment: Tensor, tau: float) -> Tensor:
    """Which positions [N] bool of a segment [W, N, C] hold still: none of a single frame, which
    shows no stillness, and none for a tau of 1, which only a rounding error can exceed."""
    if segment.shape[0] == 1 or tau >= 1:
        return torch.zeros(segment.shape[1], dtype=torch.bool, device=segment.device)
    return position_similarity(segment) > tau


def cluster_count(size: int, config: PruneVidConfig) -> int:
    """Merged tokens of a group of ``size`` tokens in threshold mode."""
    if size <= config.min_cluster_tokens:
        return size
    return max(1, scaled_count(size, config.cluster_ratio))


def spend_budget(
    budget: int, counts: Sequence[int], sizes: Sequence[int], capacities: Sequence[int]
) -> list[int]:
    """Merged tokens of each group, ``budget`` in all.

    A group gives ``counts`` tokens in threshold mode, holds ``sizes`` tokens after averaging over
    time, and ``capacities`` before. The budget lies between two of the sums of 1, counts, sizes,
    capacities; every group goes the same part of its way between the two. What is left after
    cutting to whole tokens goes to the largest remainders, the lower index first.

    A budget below one token for each group that holds any makes neighbours share: of G such groups
    in their order, the g-th goes to token ``g * budget // G``. The first of those that share a
    token is given 1, the others 0.
    """
    one_each = [min(1, count) for count in counts]
    num_held = sum(one_each)
    if budget < num_held:
        places = accumulate(one_each, initial=0)
        return [
            int(one > 0 and place * budget % num_held < budget)
            for one, place in zip(one_each, places, strict=False)
        ]
    steps = [one_each, list(counts), list(sizes), list(capacities)]
    low, high = next(
        (low, high)
        for low, high in zip(steps, steps[1:], strict=False)
        if budget <= sum(high) or high is steps[-1]
    )
    span = max(1, sum(high) - sum(low))
    products = [(b - a) * (budget - sum(low)) for a, b in zip(low, high, strict=True)]
    spent = [a + product // span for a, product in zip(low, products, strict=True)]
    by_remainder = sorted(range(len(spent)), key=lambda group: -(products[group] % span))
    for group in by_remainder[: budget - sum(spent)]:
        spent[group] += 1
    return spent


def group_labels(
    tokens: Tensor, num_clusters: int, num_frames: int, config: PruneVidConfig
) -> tuple[Tensor, Tensor]:
    """Who is merged with whom in a group of tokens [n, C] that stand for ``num_frames`` frames
    each.

    A group that is small in threshold mode, or has room for all its tokens in budget mode, is
    passed through. With more room still, each position's frames are split evenly into runs. A group
    without a token of its own goes to the last one of the groups before it.

    Returns:
        labels [num_frames, n] int64 in [0, num_clusters), -1 where ``num_clusters`` is 0;
        centers [num_clusters] int64, the token that each cluster is built around.
    """
    size = tokens.shape[0]
    index = torch.arange(size, device=tokens.device)
    if config.budget is None:
        is_clustered = size > config.min_cluster_tokens
    else:
        is_clustered = size > num_clusters
    if num_clusters == 0:
        return torch.full((num_frames, size), -1, device=tokens.device), index[:0]
    if is_clustered:
        clusters = cluster_points(tokens, num_clusters, config.num_neighbors)
        return clusters.labels.expand(num_frames, size), clusters.centers
    runs = num_clusters // size + (index < num_clusters % size).long()  # [n] of each position
    frame = torch.arange(num_frames, device=tokens.device)
    labels = runs.cumsum(0) - runs + frame[:, None] * runs // num_frames
    return labels, torch.repeat_interleave(index, runs)


@dataclass(frozen=True)
class MergePlan:
    """What is merged with what: every decision of the merge, and no average yet.

    segment_lengths [S], static_sizes [S] and frame_sizes [T] (merged tokens) int64 in host memory;
    source_to_merged [T, N] and center_position [L] (position of each merged token's centre in its
    frame) int64.
    """

    segment_lengths: Tensor
    static_sizes: Tensor
    frame_sizes: Tensor
    source_to_merged: Tensor
    center_position: Tensor


@torch.no_grad()
def plan_merge(features: Tensor, config: PruneVidConfig) -> MergePlan:
    """Decide what is merged with what in a video [T, N, C]. No gradient comes from decisions."""
    num_frames, tokens_per_frame, _ = features.shape
    floats = compute_dtype(features.dtype)
    frame_means = torch.stack([frame.to(floats).mean(dim=0) for frame in features])
    segment_lengths = torch.bincount(segment_frames(frame_means, config)).cpu()

    # The groups in their order: the frames that each one covers and the positions that it holds.
    groups: list[tuple[slice, Tensor]] = []
    is_static_group: list[bool] = []
    start = 0
    for length in segment_lengths.tolist():
        is_static = static_positions(features[start : start + length], config.tau)
        groups.append((slice(start, start + length), is_static.nonzero()[:, 0]))
        dynamic = (~is_static).nonzero()[:, 0]
        groups += [(slice(frame, frame + 1), dynamic) for frame in range(start, start + length)]
        is_static_group += [True] + [False] * length
        start += length

    sizes = [len(positions) for _, positions in groups]
    merged_sizes = [cluster_count(size, config) for size in sizes]
    if config.budget is not None:
        budget = budget_tokens(num_frames, tokens_per_frame, config.budget)
        capacities = [len(positions) * (f.stop - f.start) for f, positions in groups]
        merged_sizes = spend_budget(budget, merged_sizes, sizes, capacities)

    source_to_merged = torch.empty(
        (num_frames, tokens_per_frame), dtype=torch.int64, device=features.device
    )
    centers: list[Tensor] = []
    num_merged = 0
    for (frames, positions), merged_size in zip(groups, merged_sizes, strict=True):
        tokens = mean_over_time(features[frames], positions)
        labels, group_centers = group_labels(
            tokens, merged_size, frames.stop - frames.start, config
        )
        source_to_merged[frames, positions] = num_merged + labels
        centers.append(positions[group_centers])
        num_merged += merged_size

    static = torch.tensor(is_static_group, device="cpu")
    group_sizes = torch.tensor(merged_sizes, device="cpu")
    return MergePlan(
        segment_lengths,
        group_sizes[static],
        group_sizes[~static],
        source_to_merged,
        torch.cat(centers),
    )


def mean_over_time(frames: Tensor, positions: Tensor) -> Tensor:
    """Mean token [n, C] at each of ``positions`` [n] over frames [W, N, C], in the computing
    dtype."""
    total = frames[0].index_select(0, positions).to(compute_dtype(frames.dtype))
    if len(frames) == 1:
        return total
    for frame in frames[1:]:
        total += frame.index_select(0, positions)
    return total.div_(len(frames))


def merge_videos(
    features: Tensor, frames: Sequence[int], config: PruneVidConfig
) -> list[MergedVideo]:
    """Merge each of the videos of ``frames`` frames that features [sum of T_i, N, C] holds, on its
    own.

    Raises:
        ValueError: features that are not finite; names the video and its first bad frame.
    """
    videos = features.split(list(frames))
    for index, video in enumerate(videos):
        first_bad = first_nonfinite_frame(video)
        if first_bad is not None:
            raise nonfinite_error(index, first_bad)
    return [merge_video(video, config) for video in videos]


def merge_video(features: Tensor, config: PruneVidConfig) -> MergedVideo:
    """Merge a video [T, N, C] of finite features into [L, C]: each merged token is the mean of its
    sources. Gradients flow through the means, with the plan held constant."""
    plan = plan_merge(features, config)
    num_merged = len(plan.center_position)
    targets = plan.source_to_merged.flatten()
    sources = torch.arange(len(targets), device=targets.device)
    counts = torch.bincount(targets, minlength=num_merged)
    anchors = torch.full_like(counts, len(targets))
    layout = TokenLayout.from_sizes(
        plan.segment_lengths,
        plan.static_sizes,
        plan.frame_sizes,
        source_to_merged=plan.source_to_merged,
        merged_anchor=anchors.scatter_reduce_(0, targets, sources, "amin"),
        merged_count=counts,
    )
    return MergedVideo(average_sources(features, plan.source_to_merged, counts), layout)


def average_sources(features: Tensor, source_to_merged: Tensor, merged_count: Tensor) -> Tensor:
    """Merged tokens [L, C] in the features' dtype: the mean of those of features [T, N, C] that
    ``source_to_merged`` [T, N] sends to each, ``merged_count`` [L] in number.

    Every sum runs in the order of its sources, so the result is the same each time.
    """
    num_merged = len(merged_count)
    # One row more than there are merged tokens: it takes what a layout leaves out.
    targets = torch.where(source_to_merged < 0, num_merged, source_to_merged)
    total = torch.zeros(
        (num_merged + 1, features.shape[2]),
        dtype=compute_dtype(features.dtype),
        device=features.device,
    )
    for frame, target in zip(features, targets, strict=True):
        values = frame.to(total.dtype)
        if total.is_cpu:
            total.index_add_(0, target, values)
        else:  # index_add_ adds atomically there, in any order; index_put_ sorts first
            total.index_put_((target,), values, accumulate=True)
    return total[:num_merged].div_(merged_count[:, None]).to(features.dtype)
