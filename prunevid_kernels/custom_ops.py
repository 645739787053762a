"""``torch.ops.prunevid.*``: budget-mode merge, scoring and compaction as opaque ops with known
output shapes.

torch.compile and torch.export cannot look into Triton launches that depend on the device, so they
see these ops instead, by their fake implementations. Eager calls go to the plain functions: torch's
dispatch of an op written in Python costs more host time than a kernel launch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunevid_kernels import reference
from prunevid_kernels._validate import Impl, resolve_impl
from prunevid_kernels.config import PruneVidConfig


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Merge the videos of ``frames`` frames that features [F, N, C] holds to exactly ``budgets``
    tokens.

    Returns:
        tokens [sum of budgets, C]; source_to_merged [F, N] int64; merged_anchor and merged_count
        [sum of budgets] int64; structure [3 F + 2 B] int32: the segment of each frame, static sizes
        at the segments' first frames, frame sizes (the three rows of :meth:`TokenLayout.deferred`),
        each video's merged tokens, each video's first bad frame (its frame count where there is
        none).
    """
    numbers = (tau, segment_ratio, cluster_ratio, num_neighbors, min_cluster_tokens)
    if resolve_impl(impl, features) == "triton":
        from prunevid_kernels.kernels import merge as kernel

        with torch.cuda.device_of(features):
            return kernel.merge_videos_to_budget(
                features, frames, budgets, kernel.MergeParameters(*numbers)
            )
    merged = []
    for video, (x, budget) in enumerate(zip(features.split(list(frames)), budgets, strict=True)):
        first_bad = reference.first_nonfinite_frame(x)
        if first_bad is not None:
            raise reference.nonfinite_error(video, first_bad)
        config = PruneVidConfig(
            tau=tau,
            segment_ratio=segment_ratio,
            cluster_ratio=cluster_ratio,
            num_neighbors=num_neighbors,
            min_cluster_tokens=min_cluster_tokens,
            budget=budget,
        )
        merged.append(reference.merge_video(x, config))
    layouts = [video.layout for video in merged]
    static_sizes = []
    for layout in layouts:
        first_frames = layout.segment_lengths.cumsum(0) - layout.segment_lengths
        sizes = torch.zeros(layout.num_frames, dtype=torch.int64)
        static_sizes.append(sizes.index_put((first_frames,), layout.static_sizes()))
    structure = torch.cat(
        [
            *(layout.frame_segments() for layout in layouts),
            *static_sizes,
            *(layout.group_sizes[~layout.group_is_static] for layout in layouts),
            torch.tensor([*budgets, *frames]),
        ]
    )
    return (
        torch.cat([video.tokens for video in merged]),
        torch.cat([layout.source_to_merged for layout in layouts]),
        torch.cat([layout.merged_anchor for layout in layouts]),
        torch.cat([layout.merged_count for layout in layouts]),
        structure.to(torch.int32).to(features.device),
    )


def score_visual_tokens(
    query: Tensor,
    key: Tensor,
    start: int,
    stop: int,
    scale: float,
    causal_offset: int | None = None,
    key_mask: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Scores [B, stop - start] float32 of keys [start, stop); see
    :func:`prunevid_kernels.score_visual_tokens`."""
    if resolve_impl(impl, query) == "reference":
        return reference.score_visual_tokens(
            query, key, slice(start, stop), scale, causal_offset, key_mask
        )
    from prunevid_kernels.kernels import token_score as kernel

    with torch.cuda.device_of(query):
        return kernel.score_visual_tokens(query, key, start, stop, scale, causal_offset, key_mask)


def compact(
    tensors: Sequence[Tensor], index: Tensor, dim: int, impl: Impl = "auto"
) -> list[Tensor]:
    """Entries ``index`` of each tensor along ``dim``; see :func:`prunevid_kernels.compact`."""
    if resolve_impl(impl, index) == "reference":
        return reference.compact(tensors, index, dim)
    from prunevid_kernels.kernels import compact as kernel

    with torch.cuda.device_of(index):
        return kernel.compact(tensors, index, dim)


torch.library.custom_op(
    "prunevid::merge_to_budget",
    merge_to_budget,
    mutates_args=(),
    schema="(Tensor features, int[] frames, int[] budgets, float tau, float segment_ratio, "
    "float cluster_ratio, int num_neighbors, int min_cluster_tokens, str impl='auto') "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.custom_op(
    "prunevid::score_visual_tokens",
    score_visual_tokens,
    mutates_args=(),
    schema="(Tensor query, Tensor key, SymInt start, SymInt stop, float scale, "
    "SymInt? causal_offset=None, Tensor? key_mask=None, str impl='auto') -> Tensor",
)
torch.library.custom_op(
    "prunevid::compact",
    compact,
    mutates_args=(),
    schema="(Tensor[] tensors, Tensor index, int dim, str impl='auto') -> Tensor[]",
)


@torch.library.register_fake("prunevid::merge_to_budget")
def _(features: Tensor, frames: list[int], budgets: list[int], *_: object) -> tuple[Tensor, ...]:
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
def _(query: Tensor, key: Tensor, start: int, stop: int, *_: object) -> Tensor:
    return query.new_empty((query.shape[0], stop - start), dtype=torch.float32)


@torch.library.register_fake("prunevid::compact")
def _(tensors: list[Tensor], index: Tensor, dim: int, *_: object) -> list[Tensor]:
    compacted = []
    for tensor in tensors:
        shape = list(tensor.shape)
        shape[dim] = index.shape[-1]
        compacted.append(tensor.new_empty(shape))
    return compacted
