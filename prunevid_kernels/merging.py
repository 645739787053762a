"""The merge of a batch of videos, arguments validated: choose the implementation, call it, and make
each video's result of what it returns. ``impl`` is that of :mod:`~prunevid_kernels.ops`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prunevid_kernels import reference
from prunevid_kernels._out import check_merge_out
from prunevid_kernels._validate import Impl, resolve_impl
from prunevid_kernels.budget import merge_to_budget_unchecked
from prunevid_kernels.config import PruneVidConfig
from prunevid_kernels.custom_ops import is_tracing
from prunevid_kernels.gradients import is_differentiated, with_gradient
from prunevid_kernels.layout import MergedVideo, TokenLayout


def merge(
    features: Tensor, frames: list[int], config: PruneVidConfig, *, impl: Impl
) -> list[MergedVideo]:
    """The merge in threshold mode of :func:`prunevid_kernels.merge_videos`, arguments validated."""
    implementation = resolve_impl(impl, features)
    merge = _merge_by_reference if implementation == "reference" else _merge_by_kernels
    if not is_differentiated(features):
        return merge(features, frames, config)
    merged = merge(features.detach(), frames, config)
    return [
        replace(video, tokens=with_gradient(x, video.tokens, video.layout))
        for x, video in zip(features.split(frames), merged, strict=True)
    ]


def _merge_by_reference(
    features: Tensor, frames: list[int], config: PruneVidConfig
) -> list[MergedVideo]:
    return reference.merge_videos(features, frames, config)


def _merge_by_kernels(
    features: Tensor, frames: list[int], config: PruneVidConfig
) -> list[MergedVideo]:
    from prunevid_kernels.kernels import merge as kernel

    numbers = kernel.MergeParameters(*_merge_numbers(config))
    with torch.cuda.device_of(features):
        batch = kernel.merge_videos(features, frames, numbers)
    for video, first_bad_frame in enumerate(batch.first_bad_frame):
        if first_bad_frame is not None:
            raise reference.nonfinite_error(video, first_bad_frame)
    return [
        MergedVideo(
            video.tokens,
            TokenLayout.deferred_in(
                batch.structure,
                len(features),
                *video.frames,
                source_to_merged=video.source_to_merged,
                merged_anchor=video.merged_anchor,
                merged_count=video.merged_count,
            ),
        )
        for video in batch.videos
    ]


def merge_to_budget(
    features: Tensor,
    frames: list[int],
    budgets: list[int],
    config: PruneVidConfig,
    *,
    impl: Impl,
    out: Tensor | None = None,
) -> list[MergedVideo]:
    """The merge in budget mode, ``1 <= budgets[v] <= frames[v] * N``."""
    arguments = (features, frames, budgets, *_merge_numbers(config), impl)
    if is_tracing() or is_differentiated(features):
        if out is not None:
            check_merge_out(out, features, budgets)
        result = torch.ops.prunevid.merge_to_budget(*arguments)
        if out is not None:
            result = (out.copy_(result[0]), *result[1:])
    else:
        result = merge_to_budget_unchecked(*arguments, out)
    is_triton = resolve_impl(impl, features) == "triton"
    tokens, source_to_merged, anchor, merged_count, structure = result
    num_frames = features.shape[0]
    if len(frames) == 1:  # views cost the host as much as launches
        rows = [(tokens, source_to_merged, anchor, merged_count)]
    else:
        rows = list(
            zip(
                tokens.split(budgets),
                source_to_merged.split(frames),
                anchor.split(budgets),
                merged_count.split(budgets),
                strict=True,
            )
        )
    videos = []
    first = 0
    for video, (tokens, source_to_merged, anchor, merged_count) in enumerate(rows):
        last = first + frames[video]
        layout = TokenLayout.deferred_in(
            structure,
            num_frames,
            first,
            last,
            source_to_merged=source_to_merged,
            merged_anchor=anchor,
            merged_count=merged_count,
        )
        is_bad = structure[3 * num_frames + len(frames) + video] if is_triton else None
        videos.append(MergedVideo(tokens, layout, is_bad))
        first = last
    return videos


def require_finite(videos: list[MergedVideo]) -> list[MergedVideo]:
    """Wait for the videos' first bad frames, where they are flags, and raise for the first video
    that has one."""
    flags = [video.first_bad_frame for video in videos if video.first_bad_frame is not None]
    if not flags:
        return videos
    for video, first_bad in enumerate(torch.stack(flags).tolist()):
        if first_bad < videos[video].layout.num_frames:
            raise reference.nonfinite_error(video, first_bad)
    return [replace(video, first_bad_frame=None) for video in videos]


def _merge_numbers(config: PruneVidConfig) -> tuple[float, float, float, int, int]:
    """What the merge needs of a config, in the order of its custom op's arguments."""
    return (
        config.tau,
        config.segment_ratio,
        config.cluster_ratio,
        config.num_neighbors,
        config.min_cluster_tokens,
    )
