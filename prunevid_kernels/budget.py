"""The merge to a budget of a batch, by the reference or the kernels, and its parts video by video.

A video whose budget is all its tokens is no work for a kernel: it is left out of their batch and
joined to its results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from prunevid_kernels import reference
from prunevid_kernels._out import check_merge_out
from prunevid_kernels._validate import Impl, resolve_impl
from prunevid_kernels.config import PruneVidConfig

BudgetMerge = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class BudgetVideo(NamedTuple):
    """One video's part of a :data:`BudgetMerge`; the last five are int32 and of its structure."""

    tokens: Tensor
    source_to_merged: Tensor
    merged_anchor: Tensor
    merged_count: Tensor
    segment_starts: Tensor
    static_sizes: Tensor
    frame_sizes: Tensor
    num_merged: Tensor
    first_bad_frame: Tensor


def merge_to_budget_unchecked(
    features: Tensor,
    frames: list[int],
    budgets: list[int],
    tau: float,
    segment_ratio: float,
    cluster_ratio: float,
    num_neighbors: int,
    min_cluster_tokens: int,
    impl: Impl = "auto",
    out: Tensor | None = None,
) -> BudgetMerge:
    """:func:`prunevid_kernels.custom_ops.merge_to_budget`, all arguments but ``out`` and ``impl``
    validated."""
    numbers = (tau, segment_ratio, cluster_ratio, num_neighbors, min_cluster_tokens)
    tokens_per_frame = features.shape[1]
    if out is not None:
        check_merge_out(out, features, budgets)
    if resolve_impl(impl, features) == "reference":
        merged = _by_reference(features, frames, budgets, numbers)
        if out is not None:
            merged = (out.copy_(merged[0]), *merged[1:])
        return merged
    from prunevid_kernels.kernels import merge as kernel

    parameters = kernel.MergeParameters(*numbers)

    def merge(x: Tensor, frames: list[int], budgets: list[int], out: Tensor | None) -> BudgetMerge:
        with torch.cuda.device_of(x):
            return kernel.merge_videos_to_budget(x, frames, budgets, parameters, out)

    shrinks = [b < t * tokens_per_frame for b, t in zip(budgets, frames, strict=True)]
    if all(shrinks):
        return merge(features, frames, budgets, out)
    return _merge_those_that_shrink(merge, features, frames, budgets, shrinks, out)


def _by_reference(
    features: Tensor,
    frames: list[int],
    budgets: list[int],
    numbers: tuple[float, float, float, int, int],
) -> BudgetMerge:
    videos = features.split(frames)
    for video, x in enumerate(videos):
        first_bad = reference.first_nonfinite_frame(x)
        if first_bad is not None:
            raise reference.nonfinite_error(video, first_bad)
    parts = []
    for x, count, budget in zip(videos, frames, budgets, strict=True):
        if budget == count * x.shape[1]:
            parts.append(_unmerged(x))
            continue
        tau, segment_ratio, cluster_ratio, num_neighbors, min_cluster_tokens = numbers
        config = PruneVidConfig(
            tau=tau,
            segment_ratio=segment_ratio,
            cluster_ratio=cluster_ratio,
            num_neighbors=num_neighbors,
            min_cluster_tokens=min_cluster_tokens,
            budget=budget,
        )
        plan = reference.plan_merge(x, config)
        tokens, anchor, merged_count = reference.carry_out(x, plan)
        lengths = plan.segment_lengths
        segment_of_frame = [s for s, length in enumerate(lengths) for _ in range(length)]
        static_sizes = [0] * count
        for first, size in zip(accumulate([0, *lengths]), plan.static_sizes, strict=False):
            static_sizes[first] = size
        structure = (segment_of_frame, static_sizes, plan.frame_sizes, [budget], [count])
        parts.append(
            BudgetVideo(
                tokens,
                plan.source_to_merged,
                anchor,
                merged_count,
                *(torch.tensor(row, dtype=torch.int32, device=x.device) for row in structure),
            )
        )
    return _join(parts)


def _merge_those_that_shrink(
    merge: Callable[[Tensor, list[int], list[int], Tensor | None], BudgetMerge],
    features: Tensor,
    frames: list[int],
    budgets: list[int],
    shrinks: list[bool],
    out: Tensor | None,
) -> BudgetMerge:
    videos = features.split(frames)
    small = [video for video, is_small in enumerate(shrinks) if is_small]
    merged: dict[int, BudgetVideo] = {}
    if small:
        small_frames, small_budgets = [frames[v] for v in small], [budgets[v] for v in small]
        result = merge(torch.cat([videos[v] for v in small]), small_frames, small_budgets, None)
        merged = dict(zip(small, split_videos(result, small_frames, small_budgets), strict=True))
    return _join(
        [merged[video] if video in merged else _unmerged(x) for video, x in enumerate(videos)], out
    )


def _unmerged(features: Tensor) -> BudgetVideo:
    """A video [T, N, C] as it is, in fresh memory: one segment, every token dynamic and alone."""
    frames, tokens_per_frame, channels = features.shape
    tokens = torch.arange(frames * tokens_per_frame, device=features.device)
    by_frame = torch.arange(frames, dtype=torch.int32, device=features.device)
    is_finite = features.isfinite().flatten(1).all(dim=1)
    zeros = torch.zeros_like(by_frame)
    return BudgetVideo(
        features.reshape(len(tokens), channels).clone(),
        tokens.view(frames, tokens_per_frame),
        tokens,
        torch.ones_like(tokens),
        zeros,
        zeros,
        torch.full_like(by_frame, tokens_per_frame),
        torch.full_like(by_frame[:1], len(tokens)),
        torch.where(is_finite, frames, by_frame).amin(dim=0, keepdim=True),
    )


def split_videos(result: BudgetMerge, frames: list[int], budgets: list[int]) -> list[BudgetVideo]:
    """The result of :func:`merge_to_budget_unchecked`, video by video."""
    tokens, source_to_merged, anchor, count, structure = result
    starts, static_sizes, frame_sizes, num_merged, first_bad = structure.split(
        [sum(frames)] * 3 + [len(frames)] * 2
    )
    parts = zip(
        tokens.split(budgets),
        source_to_merged.split(frames),
        anchor.split(budgets),
        count.split(budgets),
        starts.split(frames),
        static_sizes.split(frames),
        frame_sizes.split(frames),
        num_merged.split(1),
        first_bad.split(1),
        strict=True,
    )
    return [BudgetVideo(*part) for part in parts]


def _join(videos: Sequence[BudgetVideo], out: Tensor | None = None) -> BudgetMerge:
    """What :func:`split_videos` takes apart."""
    tokens, source_to_merged, anchor, count, *structure = zip(*videos, strict=True)
    return (
        torch.cat(tokens, out=out),
        torch.cat(source_to_merged),
        torch.cat(anchor),
        torch.cat(count),
        torch.cat([part for of_all_videos in structure for part in of_all_videos]),
    )
