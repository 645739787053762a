"""The stages one by one, on plain tensors: validate, choose the implementation, call it.

``impl`` is ``"auto"`` (the Triton kernel on a GPU tensor, the reference on any other), ``"triton"``
or ``"reference"``; an explicit choice never falls back to the other. Kernels are launched on
the tensors' own device, whichever is current. They are imported where they are called, so that
importing this module needs torch alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from prunevid_kernels import custom_ops, reference
from prunevid_kernels._validate import (
    Impl,
    require_float_tensor,
    require_lengths,
    require_like,
    require_no_empty_axis,
    resolve_impl,
)
from prunevid_kernels.config import PruneVidConfig
from prunevid_kernels.custom_ops import is_tracing
from prunevid_kernels.layout import MergedVideo, TokenLayout


class DpcKnn(NamedTuple):
    """Result of :func:`dpc_knn`.

    Attributes:
        labels: [B, N] int64 cluster of each point; -1 beyond a row's length.
        centers: [B, K] int64 point that is each cluster's centre, clusters in descending order of
        score. density: [B, N] float32; 0 beyond a row's length.
        score: [B, N] float32, density times the distance to the nearest denser point; 0 beyond a
            row's length.
    """

    labels: Tensor
    centers: Tensor
    density: Tensor
    score: Tensor


def dpc_knn(
    x: Tensor,
    num_clusters: int,
    *,
    num_neighbors: int = 7,
    lengths: Sequence[int] | None = None,
    impl: Impl = "auto",
) -> DpcKnn:
    """Density-peak clustering with a k-nearest-neighbour density, for each row of a batch on its
    own.

    Distances are Euclidean, divided by ``sqrt(C)``; ties go to the lower index. Du et al., "Study
    on density peaks clustering based on k-nearest neighbors", 2016, as PruneVid uses it.

    Args:
        x: [B, N, C] points; float16, bfloat16 or float32, any strides.
        num_clusters: K, between 1 and the number of points of the shortest row.
        num_neighbors: points of a neighbourhood, the point itself included; a shorter row uses all
        its points. lengths: B host integers, the points of each row; default N.
        impl: see the module.

    Raises:
        TypeError, ValueError: an argument of a wrong type, shape, dtype or range.
    """
    require_float_tensor("x", x, "B, N, C")
    require_no_empty_axis("x", x, "B, N, C")
    batch, n, _ = x.shape
    if lengths is not None:
        lengths = require_lengths("lengths", lengths, count=batch, minimum=1, maximum=n)
    shortest = min(lengths) if lengths is not None else n
    require_lengths("num_clusters", [num_clusters], minimum=1, maximum=shortest)
    require_lengths("num_neighbors", [num_neighbors], minimum=1, maximum=2**31 - 1)
    if resolve_impl(impl, x) == "reference":
        return DpcKnn(*reference.dpc_knn(x, num_clusters, num_neighbors, lengths))
    from prunevid_kernels.kernels import dpc_knn as kernel

    with torch.cuda.device_of(x):
        return DpcKnn(*kernel.dpc_knn(x, num_clusters, num_neighbors, lengths))


def segment_frames(
    frame_features: Tensor, config: PruneVidConfig, *, impl: Impl = "auto"
) -> Tensor:
    """Cut a video into temporal segments by its frame descriptors.

    The frames are clustered into ``int(T * config.segment_ratio)`` clusters (at least one) and the
    labels refined into contiguous segments, section 3.2 of the paper.

    Args:
        frame_features: [T, C] descriptor of each frame; float16, bfloat16 or float32.
        config: uses ``segment_ratio`` and ``num_neighbors``.
        impl: see the module.

    Returns:
        [T] int64, the segment of each frame: 0, 0, 0, 1, 1, ...

    Raises:
        TypeError, ValueError: an argument of a wrong type, shape, dtype or range.
    """
    require_float_tensor("frame_features", frame_features, "T, C")
    require_no_empty_axis("frame_features", frame_features, "T, C")
    require_config(config)
    if resolve_impl(impl, frame_features) == "reference":
        return reference.segment_frames(frame_features, config)
    from prunevid_kernels.kernels import segments as kernel

    with torch.cuda.device_of(frame_features):
        return kernel.segment_frames(frame_features, config.segment_ratio, config.num_neighbors)


def score_visual_tokens(
    query: Tensor,
    key: Tensor,
    visual_slice: slice,
    *,
    scale: float | None = None,
    causal_offset: int | None = None,
    key_mask: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """The most attention that any head of any question row pays to each visual token.

    Section 3.4 of the paper: softmax over all keys, then the maximum over heads and question rows.
    The Triton kernel needs O(S) memory: no [H, Q, S] attention matrix is built.

    Args:
        query: [B, H, Q, D] the question rows' queries, and no others.
        key: [B, Hkv, S, D] the keys of all tokens; ``Hkv`` divides H (grouped-query attention).
        visual_slice: the visual tokens among the S keys: a slice of step 1 with at least one token.
        scale: multiplies the products; default ``D ** -0.5``.
        causal_offset: position of the first question row among the keys; row i then attends to the
            keys up to ``causal_offset + i``. Default: every row attends to all keys.
        key_mask: [B, S] bool, False for keys that are padding.
        impl: see the module.

    Returns:
        [B, V] float32, V the length of the slice. 0 where no row sees the token.

    Raises:
        TypeError, ValueError: an argument of a wrong type, shape, dtype, device or range.
    """
    require_float_tensor("query", query, "B, H, Q, D")
    require_float_tensor("key", key, "B, Hkv, S, D")
    require_no_empty_axis("query", query, "B, H, Q, D")
    require_no_empty_axis("key", key, "B, Hkv, S, D")
    require_like("key", key, "query", query)
    batch, heads, _, head_dim = query.shape
    if key.shape[0] != batch or key.shape[3] != head_dim or heads % key.shape[1]:
        raise ValueError(
            f"key [B, Hkv, S, D] must have the batch and head dim of query {list(query.shape)} "
            f"and a number of heads "
            f"that divides its {heads}, got shape {list(key.shape)}"
        )
    num_keys = key.shape[2]
    start, stop = visual_bounds(visual_slice, num_keys)
    if causal_offset is not None:
        require_lengths("causal_offset", [causal_offset], minimum=0, maximum=2**31 - 1)
    if key_mask is not None:
        if not isinstance(key_mask, Tensor) or key_mask.dtype != torch.bool:
            came = getattr(key_mask, "dtype", type(key_mask).__name__)
            raise TypeError(f"key_mask must be a bool tensor [B, S], got {came}")
        if key_mask.shape != (batch, num_keys):
            raise ValueError(
                f"key_mask must have shape {[batch, num_keys]}, got {list(key_mask.shape)}"
            )
        if key_mask.device != key.device:
            raise ValueError(
                f"key_mask must be on the device of key, {key.device}, got {key_mask.device}"
            )
    scale = head_dim**-0.5 if scale is None else float(scale)
    ops = torch.ops.prunevid
    op = ops.score_visual_tokens if is_tracing() else custom_ops.score_visual_tokens
    scores: Tensor = op(query, key, start, stop, scale, causal_offset, key_mask, impl)
    return scores


def merge(
    features: Tensor, frames: list[int], config: PruneVidConfig, *, impl: Impl
) -> list[MergedVideo]:
    """The merge in threshold mode of :func:`prunevid_kernels.merge_videos`, arguments validated."""
    if resolve_impl(impl, features) == "reference":
        return reference.merge_videos(features, frames, config)
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
            TokenLayout.deferred(
                video.segment_starts,
                video.static_sizes,
                video.frame_sizes,
                source_to_merged=video.source_to_merged,
                merged_anchor=video.merged_anchor,
                merged_count=video.merged_count,
            ),
        )
        for video in batch.videos
    ]


def merge_to_budget(
    features: Tensor, frames: list[int], budgets: list[int], config: PruneVidConfig, *, impl: Impl
) -> list[MergedVideo]:
    """The merge in budget mode, ``budgets[v] < frames[v] * N``, arguments validated."""
    is_triton = resolve_impl(impl, features) == "triton"
    op = torch.ops.prunevid.merge_to_budget if is_tracing() else custom_ops.merge_to_budget
    tokens, source_to_merged, anchor, count, structure = op(
        features, frames, budgets, *_merge_numbers(config), impl
    )
    starts, static_sizes, frame_sizes, _, first_bad = structure.split(
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
        strict=True,
    )
    return [
        MergedVideo(
            video_tokens,
            TokenLayout.deferred(
                *sizes,
                source_to_merged=video_map,
                merged_anchor=video_anchor,
                merged_count=video_count,
            ),
            first_bad[video] if is_triton else None,
        )
        for video, (video_tokens, video_map, video_anchor, video_count, *sizes) in enumerate(parts)
    ]


def _merge_numbers(config: PruneVidConfig) -> tuple[float, float, float, int, int]:
    """What the merge needs of a config, in the order of its custom op's arguments."""
    return (
        config.tau,
        config.segment_ratio,
        config.cluster_ratio,
        config.num_neighbors,
        config.min_cluster_tokens,
    )


def compact(tensors: Sequence[Tensor], index: Tensor, *, dim: int, impl: Impl) -> list[Tensor]:
    """See :func:`prunevid_kernels.compact`."""
    tensors = list(tensors)
    if not tensors:
        raise ValueError("tensors must hold at least one tensor, got none")
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        raise TypeError(
            f"index must be an int64 tensor, got {getattr(index, 'dtype', type(index).__name__)}"
        )
    if index.ndim not in (1, 2):
        raise ValueError(
            f"index must have the dimensions [K] or [B, K], got shape {list(index.shape)}"
        )
    length = None
    for position, tensor in enumerate(tensors):
        name = f"tensors[{position}]"
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if not -tensor.ndim <= dim < tensor.ndim:
            raise ValueError(f"dim must be a dimension of {name} {list(tensor.shape)}, got {dim}")
        if tensor.device != index.device:
            raise ValueError(
                f"{name} must be on the device of index, {index.device}, got {tensor.device}"
            )
        length = tensor.shape[dim] if length is None else length
        if tensor.shape[dim] != length:
            raise ValueError(
                f"{name} must have {length} entries along dim {dim}, got shape {list(tensor.shape)}"
            )
        if index.ndim == 2 and (dim % tensor.ndim == 0 or tensor.shape[0] != index.shape[0]):
            raise ValueError(
                f"an index [B, K] needs a dim other than 0 and {index.shape[0]} entries of "
                f"dimension 0 in {name}, "
                f"got dim {dim} and shape {list(tensor.shape)}"
            )
    op = torch.ops.prunevid.compact if is_tracing() else custom_ops.compact
    compacted: list[Tensor] = op(tensors, index, dim, impl)
    return compacted


def visual_bounds(visual_slice: slice, num_keys: int) -> tuple[int, int]:
    """Start and stop of the slice among ``num_keys`` keys; ValueError where it is empty or
    overruns."""
    if not isinstance(visual_slice, slice):
        raise TypeError(f"visual_slice must be a slice, got {type(visual_slice).__name__}")
    start, stop, step = visual_slice.indices(num_keys)
    overruns = visual_slice.stop is not None and visual_slice.stop > num_keys
    if step != 1 or start >= stop or overruns:
        raise ValueError(
            f"visual_slice must select 1 to {num_keys} keys with step 1, got {visual_slice}"
        )
    return start, stop


def require_config(config: object) -> None:
    if not isinstance(config, PruneVidConfig):
        raise TypeError(f"config must be a PruneVidConfig, got {type(config).__name__}")
