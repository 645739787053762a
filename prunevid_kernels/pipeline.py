"""The stages put together: features in, merged tokens and their layout out; scores in, kept tokens
out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from prunevid_kernels import ops
from prunevid_kernels._validate import (
    Impl,
    require_float_tensor,
    require_lengths,
    require_no_empty_axis,
)
from prunevid_kernels.config import PruneVidConfig, budget_tokens, scaled_count
from prunevid_kernels.layout import MergedVideo, TokenLayout


def merge_video(features: Tensor, config: PruneVidConfig, *, impl: Impl = "auto") -> MergedVideo:
    """Merge the visual tokens of one video over time and space; sections 3.2 and 3.3 of the paper.

    Args:
        features: [T, N, C] visual tokens, N for each of T frames, as the LLM would get them;
            float16, bfloat16 or float32, on any device. Strided input is made contiguous.
        config: ``merge=False`` returns the tokens as they are.
        impl: ``"auto"``, ``"triton"`` or ``"reference"``; see :mod:`prunevid_kernels.ops`.

    Returns:
        The merged tokens [L, C] in the features' dtype and the layout that says where each source
        token went.

    Raises:
        TypeError, ValueError: an argument of a wrong type, shape, dtype or range; features that are
            not finite, named by their first bad frame.
    """
    require_float_tensor("features", features, "T, N, C")
    return merge_videos(features, [features.shape[0]], config, impl=impl)[0]


def merge_videos(
    features: Tensor,
    frames_per_video: Sequence[int],
    config: PruneVidConfig,
    *,
    impl: Impl = "auto",
) -> list[MergedVideo]:
    """:func:`merge_video` for several videos of different length at once.

    Each video's result is the same, bit for bit, as if it were alone. On a GPU the whole batch
    takes as many kernel launches (twelve) as one video, and one copy to the host; with
    ``config.budget`` none, so that it can be captured in a CUDA graph.

    Args:
        features: [sum of T_i, N, C] the videos' tokens, one video after the other.
        frames_per_video: the T_i, host integers.
        config, impl: as in :func:`merge_video`.

    Raises:
        TypeError, ValueError: as :func:`merge_video`.
    """
    require_float_tensor("features", features, "T, N, C")
    require_no_empty_axis("features", features, "T, N, C")
    ops.require_config(config)
    frames = require_lengths(
        "frames_per_video", frames_per_video, minimum=1, maximum=features.shape[0]
    )
    if sum(frames) != features.shape[0]:
        raise ValueError(
            f"frames_per_video must sum to the {features.shape[0]} frames of features, "
            f"got {sum(frames)}"
        )
    if not config.merge:
        return [_unmerged(video) for video in features.split(frames)]
    if config.budget is None:
        return ops.merge(features, frames, config, impl=impl)
    tokens_per_frame = features.shape[1]
    budgets = [budget_tokens(count, tokens_per_frame, config.budget) for count in frames]
    # A budget that holds every token asks for nothing to be merged.
    is_merged = [b < count * tokens_per_frame for b, count in zip(budgets, frames, strict=True)]
    videos = features.split(frames)
    if not any(is_merged):
        return [_unmerged(video) for video in videos]
    if all(is_merged):
        return ops.merge_to_budget(features, frames, budgets, config, impl=impl)
    merged = iter(
        ops.merge_to_budget(
            torch.cat(list(itertools.compress(videos, is_merged))),
            list(itertools.compress(frames, is_merged)),
            list(itertools.compress(budgets, is_merged)),
            config,
            impl=impl,
        )
    )
    return [
        next(merged) if shrinks else _unmerged(video)
        for video, shrinks in zip(videos, is_merged, strict=True)
    ]


def _unmerged(features: Tensor) -> MergedVideo:
    num_frames, tokens_per_frame, channels = features.shape
    return MergedVideo(
        features.reshape(num_frames * tokens_per_frame, channels),
        TokenLayout.identity(num_frames, tokens_per_frame, features.device),
    )


def select_tokens(scores: Tensor, layout: TokenLayout, config: PruneVidConfig) -> Tensor:
    """Keep the merged tokens that the question attends to most; section 3.4 of the paper.

    Args:
        scores: [V] of :func:`~prunevid_kernels.score_visual_tokens` for the merged tokens of one
        video. layout: the video's layout, V merged tokens.
        config: ``selection="grouped"`` keeps ``int(size * keep_ratio)`` of every group, which may
            be none; ``"global"`` keeps ``int(V * keep_ratio)`` of all. ``select=False`` keeps
            everything.

    Returns:
        Kept merged tokens, ascending int64, on the scores' device. Among equal scores the lower
        position is kept.

    Raises:
        TypeError, ValueError: an argument of a wrong type, shape or dtype.
    """
    require_float_tensor("scores", scores, "V")
    ops.require_config(config)
    if not isinstance(layout, TokenLayout):
        raise TypeError(f"layout must be a TokenLayout, got {type(layout).__name__}")
    if len(scores) != layout.num_merged:
        raise ValueError(
            f"scores must have one entry for each of {layout.num_merged} merged tokens, "
            f"got {len(scores)}"
        )
    if not config.select:
        return torch.arange(layout.num_merged, device=scores.device)
    if config.selection == "global":
        sizes = torch.tensor([layout.num_merged])
    else:
        sizes = layout.group_sizes

    # Sorted by score and then, stably, by group, each group's best tokens stand at the group's
    # start, and how many of them are kept is known to the host: the kept tokens' places need no
    # look at the scores.
    best_first = torch.sort(scores, descending=True, stable=True).indices
    groups = torch.repeat_interleave(sizes).to(scores.device)
    ranked = best_first[torch.sort(groups[best_first], stable=True).indices]
    kept_sizes = torch.tensor([scaled_count(size, config.keep_ratio) for size in sizes.tolist()])
    starts = sizes.cumsum(0) - sizes
    kept_starts = kept_sizes.cumsum(0) - kept_sizes
    shift = torch.repeat_interleave(starts - kept_starts, kept_sizes)
    places = torch.arange(len(shift)) + shift
    return torch.sort(ranked[places.to(scores.device)]).values


def compact(
    tensors: Sequence[Tensor], index: Tensor, *, dim: int, impl: Impl = "auto"
) -> list[Tensor]:
    """Take the entries ``index`` along ``dim`` out of many tensors at once, e.g. out of the K and V
    of many layers.

    On a GPU one kernel launch serves all tensors, whatever their number.

    Args:
        tensors: any dtype and shape, all on one device and equally long along ``dim``.
        index: int64 [K], entries to take, in this order; or [B, K], a row for each entry of
            dimension 0 (then ``dim`` is not 0). Indices out of range are an error on the CPU and,
            as in torch's own indexing, undefined on a GPU.
        dim: the dimension to shorten.
        impl: see :mod:`prunevid_kernels.ops`.

    Returns:
        New contiguous tensors, in the order of ``tensors``.

    Raises:
        TypeError, ValueError: an argument of a wrong type, shape, dtype, device or range.
    """
    return ops.compact(tensors, index, dim=dim, impl=impl)
