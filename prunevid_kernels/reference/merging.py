"""The merge itself: features in, merged tokens and their layout out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunevid_kernels.config import PruneVidConfig
from prunevid_kernels.layout import MergedVideo, TokenLayout
from prunevid_kernels.reference.floats import (
    compute_dtype,
    first_nonfinite_frame,
    in_parts,
    nonfinite_error,
)
from prunevid_kernels.reference.plan import MergePlan, plan_merge


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
    tokens, anchor, count = carry_out(features, plan)
    lengths, static_sizes, frame_sizes = (
        torch.tensor(numbers, device="cpu")
        for numbers in (plan.segment_lengths, plan.static_sizes, plan.frame_sizes)
    )
    layout = TokenLayout.from_sizes(
        lengths,
        static_sizes,
        frame_sizes,
        source_to_merged=plan.source_to_merged,
        merged_anchor=anchor,
        merged_count=count,
    )
    return MergedVideo(tokens, layout)


def carry_out(features: Tensor, plan: MergePlan) -> tuple[Tensor, Tensor, Tensor]:
    """The merged tokens [L, C] that a plan makes of features [T, N, C], and of each its first
    source and the number of its sources, [L] int64."""
    targets = plan.source_to_merged.flatten()
    sources = torch.arange(len(targets), device=targets.device)
    counts = torch.bincount(targets, minlength=len(plan.center_position))
    anchors = torch.full_like(counts, len(targets))
    anchors.scatter_reduce_(0, targets, sources, "amin")
    return average_sources(features, plan.source_to_merged, counts), anchors, counts


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
    parts = in_parts(features)
    for part, target in zip(parts, targets.split([len(part) for part in parts]), strict=True):
        values, rows = part.to(total.dtype).flatten(0, 1), target.flatten()
        if total.is_cpu:
            total.index_add_(0, rows, values)
        else:  # index_add_ adds atomically there, in any order; index_put_ sorts first
            total.index_put_((rows,), values, accumulate=True)
    return total[:num_merged].div_(merged_count[:, None]).to(features.dtype)
