"""The stages put together: features in, merged tokens and their layout out; scores in, kept tokens
out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunevid_kernels import merging, ops
from prunevid_kernels._validate import (
    Impl,
    check_videos,
    require_float_tensor,
    require_no_gradient,
    require_untransformed,
)
from prunevid_kernels.config import PruneVidConfig, budget_tokens, scaled_count
from prunevid_kernels.layout import MergedVideo, TokenLayout


def merge_video(
    features: Tensor, config: PruneVidConfig, *, impl: Impl = "auto", out: Tensor | None = None
) -> MergedVideo:
    """Merge the visual tokens of one video over time and space; sections 3.2 and 3.3 of the paper.

    Differentiable in the features, with all decisions held constant: each source token gets its
    share of its merged token's gradient.

    Args:
        features: [T, N, C] visual tokens, N for each of T frames, as the LLM would get them;
            float16, bfloat16 or float32, on any device. Strided input is made contiguous.
        config: ``merge=False`` returns the tokens as they are, copied.
        impl: ``"auto"``, ``"triton"`` or ``"reference"``; see :mod:`prunevid_kernels.ops`.
        out: [L, C], contiguous, of the features' dtype, apart from them: takes the merged tokens
            and is ``MergedVideo.tokens`` then. Where L is known beforehand: with a budget, or
            ``merge=False``.

    Returns:
        The merged tokens [L, C] in the features' dtype and the layout that says where each source
        token went.

    Raises:
        TypeError, ValueError: an argument of a wrong type, shape, dtype or range; features that are
            not finite, named by their first bad frame. (With a budget on a GPU, where that would
            mean waiting, ``MergedVideo.first_bad_frame`` says it.)
    """
    require_float_tensor("features", features, "T, N, C")
    return merge_videos(features, [features.shape[0]], config, impl=impl, out=out)[0]


def merge_videos(
    features: Tensor,
    frames_per_video: Sequence[int],
    config: PruneVidConfig,
    *,
    impl: Impl = "auto",
    out: Tensor | None = None,
) -> list[MergedVideo]:
    """:func:`merge_video` for several videos of different length at once.

    Each video's result is the same, bit for bit, as if it were alone. On a GPU the whole batch
    takes as many kernel launches as one video, but for a launch for the numbers of every ten videos
    or so, and one copy to the host; with ``config.budget`` none, so that it can be captured in a
    CUDA graph.

    Args:
        features: [sum of T_i, N, C] the videos' tokens, one video after the other.
        frames_per_video: the T_i, host integers.
        config: as in :func:`merge_video`.
        impl: as in :func:`merge_video`.
        out: [sum of L_i, C], as in :func:`merge_video`.

    Raises:
        TypeError, ValueError: as :func:`merge_video`.
    """
    frames = check_videos(features, "frames_per_video", frames_per_video)
    require_untransformed(features=features)
    ops.require_config(config)
    tokens_per_frame = features.shape[1]
    if config.merge and config.budget is None:
        if out is not None:
            raise ValueError(
                "out needs a budget (or merge=False): without one the number of tokens is not known"
            )
        return merging.merge(features, frames, config, impl=impl)
    retain = 1.0 if config.budget is None or not config.merge else config.budget
    budgets = [budget_tokens(count, tokens_per_frame, retain) for count in frames]
    merged = merging.merge_to_budget(features, frames, budgets, config, impl=impl, out=out)
    if config.budget is None:  # no budget, no promise not to wait
        merged = merging.require_finite(merged)
    return merged


def select_tokens(scores: Tensor, layout: TokenLayout, config: PruneVidConfig) -> Tensor:
    """Keep the merged tokens that the question attends to most; section 3.4 of the paper.

    Args:
        scores: [V] of :func:`~prunevid_kernels.score_visual_tokens` for the merged tokens of one
            video.
        layout: the video's layout, V merged tokens.
        config: ``selection="grouped"`` keeps ``int(size * keep_ratio)`` of every group, which may
            be none; ``"global"`` keeps ``int(V * keep_ratio)`` of all. ``select=False`` keeps
            everything.

    Returns:
        Kept merged tokens, ascending int64, on the scores' device. Among equal scores the lower
        position is kept.

    Raises:
        TypeError, ValueError: an argument of a wrong type, shape or dtype; scores that require a
            gradient, which a selection does not have; a score that is NaN. (On a GPU looking would
            mean waiting: there the scores, all of them NaN, say it themselves, and the first tokens
            of each group are kept.)
    """
    require_float_tensor("scores", scores, "V")
    require_untransformed(scores=scores)
    require_no_gradient("select_tokens", scores=scores)
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
    # Sorted by score and then, stably, by group, each group's best tokens stand at the group's
    # start, and how many of them are kept is known to the host: the kept tokens' places need no
    # look at the scores.
    ordered, best_first = torch.sort(scores, descending=True, stable=True)
    ops.require_no_nan(ordered)
    if config.selection == "global":
        kept = best_first[: scaled_count(layout.num_merged, config.keep_ratio)]
        return torch.sort(kept).values
    sizes = layout.group_sizes
    kept_sizes = sizes.new_tensor(
        [scaled_count(size, config.keep_ratio) for size in sizes.tolist()]
    )
    shift = (sizes.cumsum(0) - sizes) - (kept_sizes.cumsum(0) - kept_sizes)
    places = torch.repeat_interleave(shift, kept_sizes)
    places += torch.arange(len(places), device=sizes.device)
    groups = ops.to_device(torch.repeat_interleave(sizes), scores.device)
    ranked = best_first[torch.sort(groups[best_first], stable=True).indices]
    return torch.sort(ranked[ops.to_device(places, scores.device)]).values
