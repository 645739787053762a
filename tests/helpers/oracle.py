"""What a merge must be, checked in float64 and written apart from both implementations.

``assert_invariants`` holds for every merge, ties or not: which tokens may share a merged token, how
many there are, which averages come out. ``assert_decisions`` goes further: every decision is the
one that float64 makes, or one of those that float32 cannot tell apart. A kernel that differs from
the reference differs at a proven near-tie if, and only if, that passes.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig, TokenLayout, dpc_knn

FLOAT32_STEP = 2.0**-23
FLOAT32_SMALLEST = 2.0**-126


def same_layout(a: TokenLayout, b: TokenLayout) -> bool:
    """Whether all fields are equal."""
    names = [field.name for field in fields(TokenLayout)]
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def average_by_map(features: Tensor, layout: TokenLayout) -> Tensor:
    """The merged tokens [L, C] in float64: the mean of the sources that the layout names."""
    sources = features.double().flatten(0, 1)
    total = torch.zeros(layout.num_merged, sources.shape[1], dtype=torch.float64)
    total.index_add_(0, layout.source_to_merged.flatten(), sources)
    return total / layout.merged_count[:, None]


def assert_invariants(features: Tensor, config: PruneVidConfig, merged: MergedVideo) -> None:
    """What holds for any finite features [T, N, C], however its ties are broken."""
    layout = merged.layout
    frames, tokens_per_frame, _ = features.shape
    targets = layout.source_to_merged.flatten()
    assert layout.source_to_merged.shape == (frames, tokens_per_frame)
    assert layout.segment_lengths.sum() == frames
    assert frames == 1 or (layout.segment_lengths >= 2).all()

    # Every source goes to one merged token, every merged token has a source.
    assert targets.min() == 0 and targets.max() == layout.num_merged - 1
    assert torch.equal(layout.merged_count, torch.bincount(targets, minlength=layout.num_merged))
    source = torch.arange(len(targets))
    anchor = torch.full((layout.num_merged,), len(targets))
    anchor = anchor.scatter_reduce(0, targets, source, "amin")
    assert torch.equal(layout.merged_anchor, anchor)

    # A static token stands for its position in all frames of the segment, a dynamic one for tokens
    # of one frame; every group gives the number of tokens that its size says.
    is_static = layout.static_mask()
    assert layout.group_sizes.sum() == layout.num_merged
    groups = layout.merged_groups()[layout.source_to_merged]
    segments, frame_segment = layout.num_segments, layout.frame_segments()
    for segment in range(segments):
        of_segment = frame_segment == segment
        mask = is_static[of_segment]
        assert (mask == mask[0]).all()
        assert (layout.source_to_merged[of_segment] == layout.source_to_merged[of_segment][0])[
            mask
        ].all()
        first_group = segment + int(layout.segment_lengths[:segment].sum())
        length = int(layout.segment_lengths[segment])
        assert (groups[of_segment][mask] == first_group).all()
        own_group = first_group + 1 + torch.arange(length)
        assert (groups[of_segment] == own_group[:, None])[~mask].all()
        num_static = int(mask[0].sum())
        assert layout.group_sizes[first_group] == merged_size(num_static, config)
        expected = merged_size(tokens_per_frame - num_static, config)
        assert (layout.group_sizes[own_group] == expected).all()


def assert_averages(features: Tensor, merged: MergedVideo, *, error: float) -> None:
    """Every merged token is the mean of its sources, up to ``error`` times the largest feature."""
    expected = average_by_map(features, merged.layout)
    assert merged.tokens.dtype == features.dtype
    assert merged.tokens.shape == expected.shape
    limit = error * features.double().abs().max()
    assert (merged.tokens.double() - expected).abs().max() <= limit


def merged_size(count: int, config: PruneVidConfig) -> int:
    """Merged tokens of a group of ``count`` tokens."""
    if count <= config.min_cluster_tokens:
        return count
    return max(1, int(count * config.cluster_ratio))


def point_distances(points: Tensor) -> Tensor:
    """Scaled Euclidean distances [n, n], float64."""
    points = points.double()
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / (
        points.shape[1] ** 0.5
    )


def assert_clusters(
    points: Tensor, labels: Tensor, num_clusters: int, num_neighbors: int, point_error: float = 0.0
) -> None:
    """Labels [n] are the clusters of points [n, C] up to comparisons that float32 cannot decide.

    All quantities are intervals: a squared distance is off by the rounding of three inner products,
    a point by ``point_error`` in each coordinate. Whatever the intervals contradict is an error.
    """
    n, channels = points.shape
    assert labels.min() == 0 and labels.max() == num_clusters - 1
    assert len(labels.unique()) == num_clusters
    distance = point_distances(points)
    norm = points.double().norm(dim=1)
    longest = (norm[:, None] + norm[None, :]).square() / channels
    square_error = (8 + channels**0.5) * FLOAT32_STEP * longest
    square_error.fill_diagonal_(0.0)
    low = (distance.square() - square_error).clamp(min=0).sqrt() - 2 * point_error
    low, high = low.clamp(min=0), (distance.square() + square_error).sqrt() + 2 * point_error
    low.fill_diagonal_(0.0)
    high.fill_diagonal_(0.0)

    def density(of: Tensor) -> Tensor:
        nearest = of.sort(dim=1).values[:, :num_neighbors]
        return (-nearest.square().mean(dim=1)).exp()

    density_low = density(high) * (1 - 4 * FLOAT32_STEP) - FLOAT32_SMALLEST
    density_high = density(low) * (1 + 4 * FLOAT32_STEP) + FLOAT32_SMALLEST
    other = ~torch.eye(n, dtype=torch.bool)
    surely_denser = (density_low[None, :] > density_high[:, None]) & other
    maybe_denser = (density_high[None, :] >= density_low[:, None]) & other
    infinity = float("inf")
    parent_low = torch.where(maybe_denser, low, infinity).amin(dim=1).clamp(max=low.max())
    parent_high = torch.where(surely_denser, high, infinity).amin(dim=1).clamp(max=high.max())
    score_low = density_low * parent_low * (1 - 4 * FLOAT32_STEP) - FLOAT32_SMALLEST
    score_high = density_high * parent_high * (1 + 4 * FLOAT32_STEP) + FLOAT32_SMALLEST

    # Which member is the centre is not told, but it is the one that scores highest: any whose
    # interval reaches above all its fellows' lower ends.
    is_member = labels[None, :] == torch.arange(num_clusters)[:, None]  # [K, n]
    best_low = torch.where(is_member, score_low, -infinity).amax(dim=1)
    best_high = torch.where(is_member, score_high, -infinity).amax(dim=1)
    assert (best_high[:-1] >= best_low[1:]).all(), "centres out of order"
    others_low = score_low.clone()
    others_low[torch.where(is_member, score_low, -infinity).argmax(dim=1)] = -infinity
    assert (others_low <= best_high.min()).all(), "a point that is no centre scores higher"

    may_be_center = is_member & (score_high >= best_low[:, None])
    nearest = torch.where(may_be_center[:, None], low, infinity).amin(dim=2)  # [K, n]
    farthest = torch.where(may_be_center[:, None], high, -infinity).amax(dim=2)
    own = nearest.gather(0, labels[None, :])[0]
    is_center = may_be_center.any(dim=0)
    assert (is_center | (own <= farthest.amin(dim=0))).all(), "a point is nearer to another centre"


def assert_decisions(
    features: Tensor, config: PruneVidConfig, layout: TokenLayout, *, impl: str
) -> None:
    """Every decision of a merge of features [T, N, C] holds in float64, up to float32's error.

    ``impl`` made the layout; its clusters of the frames, which the layout does not tell, are asked
    of it again.
    """
    x = features.double()
    frames, tokens_per_frame, channels = x.shape
    largest = x.abs().max().item()
    means = x.mean(dim=1)
    mean_error = tokens_per_frame**0.5 * FLOAT32_STEP * largest
    num_segments_asked = max(1, int(frames * config.segment_ratio))
    labels = dpc_knn(
        means.float()[None], num_segments_asked, num_neighbors=config.num_neighbors, impl=impl
    ).labels[0]
    assert_clusters(means, labels, num_segments_asked, config.num_neighbors, mean_error)
    assert torch.equal(_runs(refined(labels.tolist())), layout.segment_lengths)

    is_static = layout.static_mask()
    start = 0
    for length in layout.segment_lengths.tolist():
        segment = x[start : start + length]
        static = is_static[start]
        if length > 1:
            direction = segment / segment.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            total = direction.sum(dim=0).square().sum(dim=-1)
            similarity = (total - length) / (length * (length - 1))
            error = (8 + length + channels**0.5) * FLOAT32_STEP * length / (length - 1)
            assert (similarity[static] > config.tau - error).all(), "a static token moves"
            assert (similarity[~static] <= config.tau + error).all(), "a dynamic token is still"
        else:
            assert not static.any()
        _assert_group(segment.mean(dim=0), start, static, config, layout, length**0.5 * largest)
        for frame in range(start, start + length):
            _assert_group(x[frame], frame, ~static, config, layout, 0.0)
        start += length


def _assert_group(
    tokens: Tensor,
    frame: int,
    chosen: Tensor,
    config: PruneVidConfig,
    layout: TokenLayout,
    point_error: float,
) -> None:
    """The chosen of tokens [N, C] are clustered rightly into the merged tokens of ``frame``."""
    if not chosen.any():
        return
    labels = layout.source_to_merged[frame, chosen]
    labels = labels - labels.min()
    count = int(chosen.sum())
    if count <= config.min_cluster_tokens:
        assert torch.equal(labels, torch.arange(count))
        return
    assert_clusters(
        tokens[chosen],
        labels,
        merged_size(count, config),
        config.num_neighbors,
        point_error * FLOAT32_STEP,
    )


def refined(labels: list[int]) -> list[int]:
    """The refinement of frame labels, in the words of the method: runs, open frames, neighbours."""
    runs: list[list[int]] = []  # [label, length]
    for label in labels:
        if runs and runs[-1][0] == label:
            runs[-1][1] += 1
        else:
            runs.append([label, 1])
    longest = {label: max(length for other, length in runs if other == label) for label, _ in runs}
    text = [
        label if length > 1 and length == longest[label] else -1
        for label, length in runs
        for _ in range(length)
    ]
    for position in range(len(text)):
        if text[position] != -1:
            continue
        end = next((i for i in range(position, len(text)) if text[i] != -1), len(text))
        left, right = text[:position][::-1], text[end:]
        neighbor = right if _first_run(right) > _first_run(left) else left
        filler = neighbor[0] if neighbor else 0
        text[position:end] = [filler] * (end - position)
    return text


def _first_run(labels: list[int]) -> int:
    return next((i for i, label in enumerate(labels) if label != labels[0]), len(labels))


def _runs(labels: list[int]) -> Tensor:
    changes = [i for i in range(1, len(labels)) if labels[i] != labels[i - 1]]
    return torch.diff(torch.tensor([0, *changes, len(labels)]))
