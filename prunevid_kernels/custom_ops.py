"""``torch.ops.prunevid.*``: budget-mode merge, scoring and compaction as opaque ops with known
output shapes.

torch.compile and torch.export cannot look into Triton launches that depend on the device, so they
see these ops instead, by their fake implementations. Eager calls go to the plain functions: torch's
dispatch of an op written in Python costs more host time than a kernel launch. Either way the
arguments are checked here, once, so an op called by name refuses what the public function refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prunevid_kernels import reference
from prunevid_kernels._out import check_compact_out, check_scores_out
from prunevid_kernels._validate import (
    Impl,
    check_compact,
    check_merge_to_budget,
    check_scores,
    compacted_shape,
    require_entries,
    resolve_impl,
)
from prunevid_kernels.budget import BudgetMerge, merge_to_budget_unchecked
from prunevid_kernels.gradients import spread_entries, spread_means


def is_tracing() -> bool:
    """Whether torch.compile or torch.export is looking."""
    return bool(torch.compiler.is_compiling())


def merge_to_budget(
    features: Tensor,
    frames: Sequence[int],
    budgets: Sequence[int],
    tau: float,
    segment_ratio: float,
    cluster_ratio: float,
    num_neighbors: int,
    min_cluster_tokens: int,
    impl: Impl = "auto",
    out: Tensor | None = None,
) -> BudgetMerge:
    """Merge the videos of ``frames`` frames that features [F, N, C] holds to exactly ``budgets``
    tokens; a video with room for all its tokens keeps them as they are.

    ``out`` takes the tokens; it is no argument of the op.

    Returns:
        tokens [sum of budgets, C]; source_to_merged [F, N] int64; merged_anchor and merged_count
        [sum of budgets] int64; structure [3 F + 2 B] int32: the segment of each frame, static sizes
        at the segments' first frames, frame sizes (the three rows of :meth:`TokenLayout.deferred`),
        each video's merged tokens, each video's first bad frame (its frame count where there is
        none).
    """
    numbers = (tau, segment_ratio, cluster_ratio, num_neighbors, min_cluster_tokens)
    frames, budgets = check_merge_to_budget(features, frames, budgets, *numbers)
    return merge_to_budget_unchecked(features, frames, budgets, *numbers, impl, out)


def score_visual_tokens(
    query: Tensor,
    key: Tensor,
    start: int,
    stop: int,
    scale: float,
    causal_offset: int | None = None,
    key_mask: Tensor | None = None,
    impl: Impl = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """Scores [B, stop - start] float32 of keys [start, stop); see
    :func:`prunevid_kernels.score_visual_tokens`. ``out`` is no argument of the op."""
    check_scores(query, key, start, stop, scale, causal_offset, key_mask)
    if out is not None:
        check_scores_out(out, query, key, key_mask, stop - start)
    if resolve_impl(impl, query) == "reference":
        scores = reference.score_visual_tokens(
            query, key, slice(start, stop), scale, causal_offset, key_mask
        )
        return scores if out is None else out.copy_(scores)
    from prunevid_kernels.kernels.selection import token_score as kernel

    with torch.cuda.device_of(query):
        return kernel.score_visual_tokens(
            query, key, start, stop, scale, causal_offset, key_mask, out
        )


def compact(
    tensors: Sequence[Tensor],
    index: Tensor,
    dim: int,
    impl: Impl = "auto",
    out: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Entries ``index`` of each tensor along ``dim``; see :func:`prunevid_kernels.compact`.
    ``out`` is no argument of the op."""
    tensors = check_compact(tensors, index, dim)
    if out is not None:
        out = check_compact_out(out, tensors, index, dim)
    if resolve_impl(impl, index) == "reference":
        require_entries(index, tensors[0].shape[dim])
        compacted = reference.compact(tensors, index, dim)
        if out is None:
            return compacted
        return [target.copy_(entries) for target, entries in zip(out, compacted, strict=True)]
    from prunevid_kernels.kernels.selection import compact as kernel

    with torch.cuda.device_of(index):
        return kernel.compact(tensors, index, dim, out)


# The real functions under their names for a tracer. torch takes an op's arguments from its schema;
# ``out`` is not among them, so the ops return fresh tensors.
for _name, _function, _schema in (
    (
        "merge_to_budget",
        merge_to_budget,
        "(Tensor features, SymInt[] frames, SymInt[] budgets, float tau, float segment_ratio, "
        "float cluster_ratio, int num_neighbors, int min_cluster_tokens, str impl='auto') "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    ),
    (
        "score_visual_tokens",
        score_visual_tokens,
        "(Tensor query, Tensor key, SymInt start, SymInt stop, float scale, "
        "SymInt? causal_offset=None, Tensor? key_mask=None, str impl='auto') -> Tensor",
    ),
    (
        "compact",
        compact,
        "(Tensor[] tensors, Tensor index, int dim, str impl='auto') -> Tensor[]",
    ),
):
    torch.library.custom_op(f"prunevid::{_name}", _function, mutates_args=(), schema=_schema)


@torch.library.register_fake("prunevid::merge_to_budget")
def _(
    features: Tensor,
    frames: Sequence[int],
    budgets: Sequence[int],
    tau: float,
    segment_ratio: float,
    cluster_ratio: float,
    num_neighbors: int,
    min_cluster_tokens: int,
    impl: Impl = "auto",
) -> BudgetMerge:
    numbers = (tau, segment_ratio, cluster_ratio, num_neighbors, min_cluster_tokens)
    frames, budgets = check_merge_to_budget(features, frames, budgets, *numbers)
    rows = sum(budgets)
    num_frames, n, channels = features.shape
    return (
        features.new_empty((rows, channels)),
        features.new_empty((num_frames, n), dtype=torch.int64),
        features.new_empty((rows,), dtype=torch.int64),
        features.new_empty((rows,), dtype=torch.int64),
        features.new_empty((3 * num_frames + 2 * len(frames),), dtype=torch.int32),
    )


@torch.library.register_fake("prunevid::score_visual_tokens")
def _(
    query: Tensor,
    key: Tensor,
    start: int,
    stop: int,
    scale: float,
    causal_offset: int | None = None,
    key_mask: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    check_scores(query, key, start, stop, scale, causal_offset, key_mask)
    return query.new_empty((query.shape[0], stop - start), dtype=torch.float32)


@torch.library.register_fake("prunevid::compact")
def _(tensors: Sequence[Tensor], index: Tensor, dim: int, impl: Impl = "auto") -> list[Tensor]:
    tensors = check_compact(tensors, index, dim)
    return [tensor.new_empty(compacted_shape(tensor, index, dim)) for tensor in tensors]


def _keep_merge_plan(ctx: Any, inputs: Any, output: BudgetMerge) -> None:
    _, source_to_merged, _, merged_count, _ = output
    ctx.save_for_backward(source_to_merged, merged_count)
    ctx.frames, ctx.budgets = list(inputs[1]), list(inputs[2])


def _merge_backward(ctx: Any, grad_tokens: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    source_to_merged, merged_count = ctx.saved_tensors
    videos = zip(
        grad_tokens.split(ctx.budgets),
        source_to_merged.split(ctx.frames),
        merged_count.split(ctx.budgets),
        strict=True,
    )
    return torch.cat([spread_means(*video) for video in videos]), *[None] * 8


def _keep_index(ctx: Any, inputs: Any, output: list[Tensor]) -> None:
    tensors, index, dim, _ = inputs
    ctx.save_for_backward(index)
    ctx.shapes, ctx.dim = [tensor.shape for tensor in tensors], dim


def _compact_backward(
    ctx: Any, gradients: list[Tensor | None]
) -> tuple[list[Tensor | None], None, None, None]:
    (index,) = ctx.saved_tensors
    spread = [
        None if gradient is None else spread_entries(gradient, shape, index, ctx.dim % len(shape))
        for gradient, shape in zip(gradients, ctx.shapes, strict=True)
    ]
    return spread, None, None, None


torch.library.register_autograd(
    "prunevid::merge_to_budget", _merge_backward, setup_context=_keep_merge_plan
)
torch.library.register_autograd("prunevid::compact", _compact_backward, setup_context=_keep_index)
