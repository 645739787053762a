"""Is a merge right? Every decision is held against float64, up to what float32 cannot tell apart.

Two right implementations can differ: where two distances are closer than the rounding error of
their computation, either may call the other one smaller. So a result is not compared with another
result but examined: each quantity becomes an interval in float64, as wide as a float32 computation
may be off, and a decision is wrong if the intervals contradict it. Each stage is judged given the
stages before it, as the result itself has them. What differs from float64's own choice and is not
contradicted is a *near-tie*; those are counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from prunevid_kernels import (
    MergedVideo,
    PruneVidConfig,
    budget_tokens,
    dpc_knn,
    segment_frames,
)

from .rounding import FLOAT32_STEP, frame_offset, points_offset, square_error


@dataclass
class Verdict:
    """What the examination of one or more merges found.

    Attributes:
        decisions: source tokens and segments that were judged.
        near_ties: decisions that differ from float64's within float32's error.
        errors: what is wrong, one line each.
        token_error: largest error of a merged token's value against the float64 mean of its
            sources; ``allowed_error`` the error of the same mean in float32, rounded to the same
            dtype, and a few steps of float32.
    """

    decisions: int = 0
    near_ties: int = 0
    errors: list[str] = field(default_factory=list)
    token_error: float = 0.0
    allowed_error: float = 0.0

    def __iadd__(self, other: Verdict) -> Verdict:
        self.decisions += other.decisions
        self.near_ties += other.near_ties
        self.errors += other.errors
        self.token_error = max(self.token_error, other.token_error)
        self.allowed_error = max(self.allowed_error, other.allowed_error)
        return self


def examine(features: Tensor, config: PruneVidConfig, merged: MergedVideo) -> Verdict:
    """Judge the merge of features [T, N, C]; runs on their device.

    In budget mode the groups' sizes are taken from the result and have to sum to the budget, which
    must give each group a token, and not exceed those that are left after averaging over time.
    """
    verdict = Verdict()
    _examine_structure(features, config, merged, verdict)
    if not verdict.errors:
        _examine_segments(features, config, merged, verdict)
        _examine_groups(features.double(), config, merged, verdict)
        verdict += examine_tokens(features, merged)
    return verdict


def _examine_structure(
    features: Tensor, config: PruneVidConfig, merged: MergedVideo, verdict: Verdict
) -> None:
    layout = merged.layout
    frames, n, channels = features.shape
    if config.budget is not None:
        budget = budget_tokens(frames, n, config.budget)
        if layout.num_merged != budget:
            verdict.errors.append(f"{layout.num_merged} merged tokens, not the budget's {budget}")
    shapes = {
        "tokens": (merged.tokens.shape, (layout.num_merged, channels)),
        "source_to_merged": (layout.source_to_merged.shape, (frames, n)),
        "merged_count": (layout.merged_count.shape, (layout.num_merged,)),
    }
    for name, (shape, expected) in shapes.items():
        if tuple(shape) != expected:
            verdict.errors.append(f"{name} has shape {list(shape)}, not {list(expected)}")
    if merged.tokens.dtype != features.dtype:
        verdict.errors.append(f"tokens are {merged.tokens.dtype}, not {features.dtype}")
    if int(layout.segment_lengths.sum()) != frames:
        verdict.errors.append("the segments do not fill the video")
    if int(layout.group_sizes.sum()) != layout.num_merged:
        verdict.errors.append("the groups do not fill the merged tokens")
    if verdict.errors:
        return
    targets = layout.source_to_merged.flatten()
    if int(targets.min()) < 0 or int(targets.max()) >= layout.num_merged:
        verdict.errors.append("source_to_merged points outside the merged tokens")
        return
    counts = torch.bincount(targets, minlength=layout.num_merged)
    if not torch.equal(counts, layout.merged_count):
        verdict.errors.append("merged_count is not the number of sources")
    order = torch.arange(len(targets), device=targets.device)
    anchor = torch.full_like(counts, len(targets)).scatter_reduce(0, targets, order, "amin")
    if not torch.equal(anchor, layout.merged_anchor):
        verdict.errors.append("merged_anchor is not the first source")


def _examine_segments(
    features: Tensor, config: PruneVidConfig, merged: MergedVideo, verdict: Verdict
) -> None:
    """Where the segments differ from float64's, the clustering of the frames must be undecided."""
    frames = features.shape[0]
    verdict.decisions += frames
    means = features.double().mean(dim=1)
    exact = torch.bincount(segment_frames(means.float(), config, impl="reference")).cpu()
    if torch.equal(exact, merged.layout.segment_lengths):
        return
    clusters = max(1, int(frames * config.segment_ratio))
    labels = dpc_knn(
        means.float()[None], clusters, num_neighbors=config.num_neighbors, impl="reference"
    ).labels[0]
    error = _mean_error(features, features.shape[1])
    if _is_decided(means, labels, clusters, config.num_neighbors, error):
        verdict.errors.append(
            f"segments {merged.layout.segment_lengths.tolist()} are not {exact.tolist()},"
            " and no near-tie explains it"
        )
    else:
        verdict.near_ties += 1


def _examine_groups(
    x: Tensor, config: PruneVidConfig, merged: MergedVideo, verdict: Verdict
) -> None:
    """The static split and the clusters of every group, given the segments."""
    layout = merged.layout
    static_mask = layout.static_mask()
    start = 0
    sizes = layout.group_sizes.tolist()
    for position, length in enumerate(layout.segment_lengths.tolist()):
        segment = x[start : start + length]
        is_static = static_mask[start]
        verdict.decisions += is_static.numel()
        if not bool((static_mask[start : start + length] == is_static).all()):
            verdict.errors.append(f"frames from {start}: not the same places are static throughout")
            return
        _examine_split(segment, is_static, config.tau, start, verdict)
        judge = _GroupJudge(config, layout.source_to_merged, verdict)
        error = _mean_error(segment, length)
        group = start + position  # after the groups of earlier frames and segments
        # An offset of the first frame is taken away from all means over time.
        offset = frame_offset(segment[0])
        judge.examine(segment.mean(dim=0), start, is_static, sizes[group], error, offset)
        for frame in range(start, start + length):
            group += 1
            judge.examine(x[frame], frame, ~is_static, sizes[group], 0.0, frame_offset(x[frame]))
        start += length


def _examine_split(
    segment: Tensor, is_static: Tensor, tau: float, start: int, verdict: Verdict
) -> None:
    length, _, channels = segment.shape
    if length == 1:
        if bool(is_static.any()):
            verdict.errors.append(f"frame {start}: a segment of one frame has static tokens")
        return
    direction = segment / segment.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    similarity = (direction.sum(dim=0).square().sum(dim=-1) - length) / (length * (length - 1))
    error = (8 + length + math.sqrt(channels)) * FLOAT32_STEP * length / (length - 1)
    differs = is_static != (similarity > tau)
    verdict.near_ties += int(differs.sum())
    if bool((differs & ((similarity - tau).abs() > error)).any()):
        verdict.errors.append(
            f"frames from {start}: a static or dynamic place is on the wrong side"
        )


@dataclass(frozen=True)
class _GroupJudge:
    config: PruneVidConfig
    source_to_merged: Tensor
    verdict: Verdict

    def examine(
        self,
        tokens: Tensor,
        frame: int,
        chosen: Tensor,
        clusters: int,
        point_error: float,
        offset: Tensor,
    ) -> None:
        """The chosen ones of tokens [N, C] are clustered rightly into ``clusters``."""
        size, config, verdict = int(chosen.sum()), self.config, self.verdict
        if config.budget is None:
            expected = size
            if size > config.min_cluster_tokens:
                expected = max(1, int(size * config.cluster_ratio))
            if clusters != expected:
                verdict.errors.append(f"frame {frame}: {clusters} clusters, not {expected}")
                return
        if size == 0:
            return
        verdict.decisions += size
        labels = self.source_to_merged[frame, chosen]
        labels = labels - labels.min()
        is_small = size <= config.min_cluster_tokens
        if clusters >= size if config.budget is not None else is_small:
            if not torch.equal(labels, torch.arange(size, device=labels.device)):
                verdict.errors.append(f"frame {frame}: a small group is not passed through")
            return
        if int(labels.max()) + 1 != clusters or len(labels.unique()) != clusters:
            verdict.errors.append(f"frame {frame}: the labels are not 0 to {clusters - 1}")
            return
        points = tokens[chosen]
        problem = contradiction(points, labels, clusters, config.num_neighbors, point_error, offset)
        if problem is not None:
            verdict.errors.append(f"frame {frame}: {problem}")
        own = _exact_labels(points, clusters, config.num_neighbors)
        verdict.near_ties += int((own != labels).sum())


def examine_tokens(features: Tensor, merged: MergedVideo) -> Verdict:
    """Judge the averages alone: each merged token against the float64 mean of its sources."""
    verdict = Verdict()
    targets = merged.layout.source_to_merged.flatten()
    count = merged.layout.merged_count[:, None]

    def mean(dtype: torch.dtype) -> Tensor:
        sources = features.flatten(0, 1).to(dtype)
        total = sources.new_zeros(merged.tokens.shape).index_add_(0, targets, sources)
        return total / count

    truth = mean(torch.float64)
    rounded = mean(torch.float32).to(features.dtype)
    slack = 8 * FLOAT32_STEP
    if features.dtype == torch.bfloat16 and not features.is_cuda:
        # Triton's interpreter cuts float32 off to bfloat16 where a GPU rounds to the nearest.
        slack += torch.finfo(torch.bfloat16).eps
    slack *= features.abs().max().item()
    verdict.token_error = (merged.tokens.double() - truth).abs().max().item()
    verdict.allowed_error = (rounded.double() - truth).abs().max().item() + slack
    if not verdict.token_error <= verdict.allowed_error:  # a NaN is an error too
        verdict.errors.append(
            f"a merged token is off by {verdict.token_error:.3g},"
            f" more than {verdict.allowed_error:.3g}"
        )
    return verdict


# ------------------------------------------------------------------------------------------------
# One clustering
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bounds:
    """Lower and upper ends of distances [n, n] and scores [n]."""

    low: Tensor
    high: Tensor
    score_low: Tensor
    score_high: Tensor


def _mean_error(x: Tensor, count: int) -> float:
    """How far a coordinate of a float32 mean over ``count`` values of x may be off."""
    return math.sqrt(count) * FLOAT32_STEP * x.abs().max().item()


def _distances(points: Tensor) -> Tensor:
    """Scaled Euclidean distances [n, n] of float64 points; equal points get exactly 0."""
    n = len(points)
    first, second = torch.triu_indices(n, n, offset=1, device=points.device)
    exact = points.new_zeros((n, n))
    exact[first, second] = F.pdist(points)  # true differences too, many times faster than cdist's
    return (exact + exact.T) / math.sqrt(points.shape[1])


def _bounds(points: Tensor, num_neighbors: int, point_error: float, offset: Tensor) -> _Bounds:
    n = len(points)
    square = _distances(points).square()
    error = square_error(points - offset)
    low = ((square - error).clamp(min=0).sqrt() - 2 * point_error).clamp(min=0)
    high = (square + error).sqrt() + 2 * point_error
    is_self = torch.eye(n, dtype=torch.bool, device=points.device)
    low, high = low.masked_fill(is_self, 0.0), high.masked_fill(is_self, 0.0)

    def density(distance: Tensor) -> Tensor:
        nearest = distance.topk(min(num_neighbors, n), dim=1, largest=False).values
        return (-nearest.square().mean(dim=1)).exp()

    rounding = 4 * FLOAT32_STEP
    density_low = density(high) * (1 - rounding)
    density_high = density(low) * (1 + rounding)
    surely_denser = (density_low[None, :] > density_high[:, None]) & ~is_self
    maybe_denser = (density_high[None, :] >= density_low[:, None]) & ~is_self
    parent_low = low.masked_fill(~maybe_denser, math.inf).amin(dim=1).clamp(max=low.max())
    parent_high = high.masked_fill(~surely_denser, math.inf).amin(dim=1).clamp(max=high.max())
    smallest = torch.finfo(torch.float32).tiny  # what float32 may flush to zero
    return _Bounds(
        low,
        high,
        density_low * parent_low * (1 - rounding) - smallest,
        density_high * parent_high * (1 + rounding) + smallest,
    )


def contradiction(
    points: Tensor,
    labels: Tensor,
    clusters: int,
    num_neighbors: int,
    point_error: float,
    offset: Tensor | None = None,
) -> str | None:
    """Why labels [n] cannot be the clusters of points [n, C]; None if they can.

    ``offset`` [C] is taken away from the points before they are multiplied (None: that of points
    which are no tokens of one frame).
    """
    offset = points_offset(points) if offset is None else offset
    bounds = _bounds(points, num_neighbors, point_error, offset)
    ranks = torch.arange(clusters, device=labels.device)
    is_member = labels[None, :] == ranks[:, None]  # [K, n]
    # A cluster's centre is the member that scores highest; which one may be open.
    member_low = torch.where(is_member, bounds.score_low, -math.inf)
    best_low = member_low.amax(dim=1)
    best_high = torch.where(is_member, bounds.score_high, -math.inf).amax(dim=1)
    if bool((best_high[:-1] < best_low[1:]).any()):
        return "the centres are out of order"
    others_low = bounds.score_low.clone()
    others_low[member_low.argmax(dim=1)] = -math.inf
    if bool((others_low > best_high.min()).any()):
        return "a point that is no centre scores higher than a centre"
    may_be_center = is_member & (bounds.score_high >= best_low[:, None])
    # [K, n]: the distance to each cluster's centre lies between the nearest and farthest candidate.
    candidate = may_be_center.any(dim=0).nonzero()[:, 0]
    cluster = labels[candidate][:, None].expand(-1, len(points))
    nearest = torch.full_like(member_low, math.inf)
    nearest = nearest.scatter_reduce(0, cluster, bounds.low[candidate], "amin")
    farthest = torch.full_like(member_low, -math.inf)
    farthest = farthest.scatter_reduce(0, cluster, bounds.high[candidate], "amax")
    own = nearest.gather(0, labels[None, :])[0]
    is_free = ~may_be_center.any(dim=0)
    if bool((is_free & (own > farthest.amin(dim=0))).any()):
        return "a point is nearer to the centre of another cluster"
    return None


def _exact_labels(points: Tensor, clusters: int, num_neighbors: int) -> Tensor:
    """The method's own definition in float64, ties to the lower index."""
    distance = _distances(points)
    nearest = distance.topk(min(num_neighbors, len(points)), dim=1, largest=False).values
    density = (-nearest.square().mean(dim=1)).exp()
    index = torch.arange(len(points), device=points.device)
    is_denser = (density[None, :] > density[:, None]) | (
        (density[None, :] == density[:, None]) & (index[None, :] < index[:, None])
    )
    parent = distance.masked_fill(~is_denser, math.inf).amin(dim=1)
    score = density * torch.where(is_denser.any(dim=1), parent, distance.max())
    centers = torch.sort(score, descending=True, stable=True).indices[:clusters]
    labels = distance[centers].argmin(dim=0)
    labels[centers] = torch.arange(clusters, device=points.device)
    return labels


def _is_decided(
    points: Tensor, labels: Tensor, clusters: int, num_neighbors: int, point_error: float
) -> bool:
    """Whether float32 has no choice but ``labels``: no two scores or distances that matter are
    close."""
    bounds = _bounds(points, num_neighbors, point_error, points_offset(points))
    order = bounds.score_low.argsort(descending=True)
    centers, following = order[:clusters], order[1 : clusters + 1]
    leading = order[: len(following)]
    if bool((bounds.score_low[leading] <= bounds.score_high[following]).any()):
        return False
    if bool((bounds.score_low[centers[-1]] <= bounds.score_high[order[clusters:]]).any()):
        return False
    low, high = bounds.low[centers], bounds.high[centers]  # [K, n]
    own_high = high.gather(0, labels[None, :])
    is_other = torch.arange(clusters, device=labels.device)[:, None] != labels[None, :]
    is_close = is_other & (low <= own_high)
    is_close[:, centers] = False
    return not bool(is_close.any())
