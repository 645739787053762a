"""The plan of a merge: groups, how many tokens each gives, and who is merged with whom.

Neighbouring groups are clustered together, as many as fit the cache, whichever segment they are of.
Before that their distances are measured, so that tokens in the computing dtype are held for some
frames at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby
from typing import NamedTuple

import torch
from torch import Tensor

from prunevid_kernels.config import PruneVidConfig, budget_tokens, scaled_count
from prunevid_kernels.reference.clustering import cluster_sets, point_distances
from prunevid_kernels.reference.floats import CACHED_PAIRS, compute_dtype, in_parts
from prunevid_kernels.reference.segments import (
    mean_over_time,
    segment_lengths,
    static_positions,
)


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


class Group(NamedTuple):
    """Tokens that are merged among themselves: those at ``positions`` [n] of the frames from
    ``start`` to ``stop``, averaged over these."""

    start: int
    stop: int
    positions: Tensor
    is_static: bool


def video_groups(
    features: Tensor, lengths: Sequence[int], config: PruneVidConfig
) -> Iterator[Group]:
    """The groups of features [T, N, C] with segments of ``lengths`` frames, in their order. The
    dynamic groups of a segment share their positions."""
    start = 0
    for length in lengths:
        stop = start + length
        is_static = static_positions(features[start:stop], config.tau)
        static, dynamic = is_static.nonzero()[:, 0], (~is_static).nonzero()[:, 0]
        yield Group(start, stop, static, is_static=True)
        for frame in range(start, stop):
            yield Group(frame, frame + 1, dynamic, is_static=False)
        start = stop


class Run(NamedTuple):
    """Neighbouring groups that hold the same positions and give ``merged_size`` tokens each: the
    static group of a segment, or dynamic groups of frames one after the other."""

    start: int
    stop: int
    positions: Tensor
    num_groups: int
    merged_size: int

    def is_clustered(self, config: PruneVidConfig) -> bool:
        """Whether tokens are merged by likeness. A group that is small in threshold mode, or has
        room for all its tokens in budget mode, is passed through."""
        if config.budget is None:
            return len(self.positions) > config.min_cluster_tokens
        return 0 < self.merged_size < len(self.positions)

    def distances(self, features: Tensor) -> Iterator[Tensor]:
        """Of each group, a row of :func:`point_distances`."""
        frames = features[self.start : self.stop]
        if self.num_groups < len(frames):
            yield from point_distances(mean_over_time(frames, self.positions)[None])
        else:
            for part in in_parts(frames):
                yield from point_distances(part.index_select(1, self.positions))

    def split_evenly(self) -> tuple[Tensor, Tensor]:
        """What :func:`run_labels` gives for groups that are not clustered: each position's frames
        are split evenly into runs. A group without a merged token of its own goes to the last one
        of the groups before it, -1."""
        size, device = len(self.positions), self.positions.device
        num_frames = (self.stop - self.start) // self.num_groups
        index = torch.arange(size, device=device)
        if self.merged_size == 0:
            labels = torch.full((num_frames, size), -1, device=device)
            return labels, index.new_empty((self.num_groups, 0))
        runs = self.merged_size // size + (index < self.merged_size % size).long()  # [n]
        frame = torch.arange(num_frames, device=device)
        labels = runs.cumsum(0) - runs + frame[:, None] * runs // num_frames
        return labels, torch.repeat_interleave(index, runs).expand(self.num_groups, -1)


def group_runs(groups: Sequence[Group], merged_sizes: Sequence[int]) -> list[Run]:
    """The groups, each merged into so many tokens, in runs of alike ones that can be clustered
    together."""

    def alike(pair: tuple[Group, int]) -> tuple[int, int]:
        group, merged_size = pair
        return id(group.positions), merged_size

    runs = []
    for (_, merged_size), run in groupby(zip(groups, merged_sizes, strict=True), key=alike):
        members = [group for group, _ in run]
        positions = members[0].positions
        at_once = max(1, CACHED_PAIRS // max(1, len(positions)) ** 2)
        for i in range(0, len(members), at_once):
            part = members[i : i + at_once]
            runs.append(Run(part[0].start, part[-1].stop, positions, len(part), merged_size))
    return runs


def in_batches(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Neighbouring runs that are clustered together: the squares of their groups' distances are few
    enough for the cache."""
    batch: list[Run] = []
    num_groups = size = 0
    for run in runs:
        num_groups, size = num_groups + run.num_groups, max(size, len(run.positions))
        if batch and num_groups * size**2 > CACHED_PAIRS:
            yield batch
            batch, num_groups, size = [], run.num_groups, len(run.positions)
        batch.append(run)
    yield batch


def run_labels(
    features: Tensor, runs: Sequence[Run], config: PruneVidConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """Who is merged with whom in the groups of each of runs that are clustered together.

    Yields:
        labels int64, in [0, merged_size) or -1: [num_groups, n] where each holds for all frames of
        its group, else [frames of each group, n]; centers [num_groups, merged_size] int64, the
        token that each merged token is built around.
    """
    clustered = [run for run in runs if run.is_clustered(config)]
    if clustered:
        clusters = cluster_sets(
            [distances for run in clustered for distances in run.distances(features)],
            [len(run.positions) for run in clustered for _ in range(run.num_groups)],
            [run.merged_size for run in clustered for _ in range(run.num_groups)],
            config.num_neighbors,
        )
    row = 0
    for run in runs:
        if run.is_clustered(config):
            rows = slice(row, row + run.num_groups)
            labels = clusters.labels[rows, : len(run.positions)]
            yield labels, clusters.best_first[rows, : run.merged_size]
            row = rows.stop
        else:
            yield run.split_evenly()


@dataclass(frozen=True)
class MergePlan:
    """What is merged with what: every decision of the merge, and no average yet.

    segment_lengths [S], static_sizes [S] and frame_sizes [T] (merged tokens) are known to the host;
    source_to_merged [T, N] and center_position [L] (position of each merged token's centre in its
    frame) int64.
    """

    segment_lengths: list[int]
    static_sizes: list[int]
    frame_sizes: list[int]
    source_to_merged: Tensor
    center_position: Tensor


@torch.no_grad()
def plan_merge(features: Tensor, config: PruneVidConfig) -> MergePlan:
    """Decide what is merged with what in a video [T, N, C]. No gradient comes from decisions."""
    num_frames, tokens_per_frame, _ = features.shape
    floats = compute_dtype(features.dtype)
    frame_means = torch.cat([part.to(floats).mean(dim=1) for part in in_parts(features)])
    lengths = segment_lengths(frame_means, config)

    groups = list(video_groups(features, lengths, config))
    sizes = [len(group.positions) for group in groups]
    merged_sizes = [cluster_count(size, config) for size in sizes]
    if config.budget is not None:
        budget = budget_tokens(num_frames, tokens_per_frame, config.budget)
        capacities = [size * (g.stop - g.start) for size, g in zip(sizes, groups, strict=True)]
        merged_sizes = spend_budget(budget, merged_sizes, sizes, capacities)

    source_to_merged = torch.empty(
        (num_frames, tokens_per_frame), dtype=torch.int64, device=features.device
    )
    centers: list[Tensor] = []
    runs = group_runs(groups, merged_sizes)
    before = torch.tensor([0, *accumulate(merged_sizes[:-1])], device=features.device)
    of_runs = before[:, None].split([run.num_groups for run in runs])
    labels_of_runs = chain.from_iterable(
        run_labels(features, batch, config) for batch in in_batches(runs)
    )
    for run, first, (labels, run_centers) in zip(runs, of_runs, labels_of_runs, strict=True):
        source_to_merged[run.start : run.stop, run.positions] = first + labels
        centers.append(run.positions[run_centers].flatten())

    pairs = list(zip(groups, merged_sizes, strict=True))
    return MergePlan(
        lengths,
        [size for group, size in pairs if group.is_static],
        [size for group, size in pairs if not group.is_static],
        source_to_merged,
        torch.cat(centers),
    )
