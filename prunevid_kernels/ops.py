"""The stages one by one, on plain tensors: validate, choose the implementation, call it.

``impl`` is ``"auto"`` (the Triton kernel on a GPU tensor, the reference on any other), ``"triton"``
or ``"reference"``; an explicit choice never falls back to the other. Kernels are launched on
the tensors' own device, whichever is current. They are imported where they are called, so that
importing this module needs torch alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from prunevid_kernels import custom_ops, reference
from prunevid_kernels._out import check_compact_out, check_scores_out
from prunevid_kernels._validate import (
    MAX_INT32,
    Impl,
    as_list,
    as_scale,
    check_compact,
    require_float_tensor,
    require_lengths,
    require_no_empty_axis,
    require_no_gradient,
    require_untransformed,
    resolve_impl,
)
from prunevid_kernels.config import PruneVidConfig
from prunevid_kernels.custom_ops import is_tracing


class DpcKnn(NamedTuple):
    """Result of :func:`dpc_knn`.

    Attributes:
        labels: [B, N] int64 cluster of each point; -1 beyond a row's length.
        centers: [B, K] int64 point that is each cluster's centre, clusters in descending order of
            score.
        density: [B, N] float32; 0 beyond a row's length.
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
            its points.
        lengths: B host integers, the points of each row; default N.
        impl: see the module.

    Raises:
        TypeError, ValueError: an argument of a wrong type, shape, dtype or range; points that
            require a gradient, which the clustering does not have; on a CPU, points that are not
            finite. (On a GPU, where looking would mean waiting, their clusters mean nothing.)
    """
    require_float_tensor("x", x, "B, N, C")
    require_no_empty_axis("x", x, "B, N, C")
    require_untransformed(x=x)
    require_no_gradient("dpc_knn", x=x)
    batch, n, _ = x.shape
    if lengths is not None:
        lengths = require_lengths("lengths", lengths, count=batch, minimum=1, maximum=n)
    shortest = min(lengths) if lengths is not None else n
    (num_clusters,) = require_lengths("num_clusters", [num_clusters], minimum=1, maximum=shortest)
    (num_neighbors,) = require_lengths(
        "num_neighbors", [num_neighbors], minimum=1, maximum=MAX_INT32
    )
    _require_finite("x", x, lengths)
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
        TypeError, ValueError: an argument of a wrong type, shape, dtype or range; on a CPU,
            descriptors that are not finite.
    """
    require_float_tensor("frame_features", frame_features, "T, C")
    require_no_empty_axis("frame_features", frame_features, "T, C")
    require_untransformed(frame_features=frame_features)
    require_config(config)
    _require_finite("frame_features", frame_features, None)
    if resolve_impl(impl, frame_features) == "reference":
        return reference.segment_frames(frame_features, config)
    from prunevid_kernels.kernels import segments as kernel

    with torch.cuda.device_of(frame_features):
        return kernel.segment_frames(frame_features, config.segment_ratio, config.num_neighbors)


def _require_finite(name: str, points: Tensor, lengths: Sequence[int] | None) -> None:
    """Points [..., N, C] that the host can look at are finite, up to the length of each row."""
    if points.device.type != "cpu" or is_tracing():
        return
    bad = ~points.isfinite().all(dim=-1)
    if lengths is not None:
        bad &= (
            torch.arange(points.shape[-2], device="cpu")
            < torch.tensor(lengths, device="cpu")[:, None]
        )
    if bad.any():
        place = bad.nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite, got NaN or infinity at {place}")


def score_visual_tokens(
    query: Tensor,
    key: Tensor,
    visual_slice: slice,
    *,
    scale: float | None = None,
    causal_offset: int | None = None,
    key_mask: Tensor | None = None,
    impl: Impl = "auto",
    out: Tensor | None = None,
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
        out: [B, V] float32, contiguous: takes the scores, and is returned.

    Returns:
        [B, V] float32, V the length of the slice. 0 where no row sees the token. NaN for all tokens
        of a sample where a product of a question row and a key that it sees is not finite: such
        values would have to be read to raise an error, and the device's results are not waited for.

    Raises:
        TypeError, ValueError: an argument of a wrong type, shape, dtype, device or range; queries
            or keys that require a gradient, which scores do not have.
    """
    require_float_tensor("query", query, "B, H, Q, D")
    require_float_tensor("key", key, "B, Hkv, S, D")
    require_no_empty_axis("query", query, "B, H, Q, D")
    require_no_empty_axis("key", key, "B, Hkv, S, D")
    require_untransformed(query=query, key=key)
    require_no_gradient("score_visual_tokens", query=query, key=key)
    start, stop = visual_bounds(visual_slice, key.shape[2])
    scale = query.shape[3] ** -0.5 if scale is None else as_scale(scale)
    arguments = (query, key, start, stop, scale, causal_offset, key_mask, impl)
    if is_tracing():
        if out is not None:
            check_scores_out(out, query, key, key_mask, stop - start)
        scores: Tensor = torch.ops.prunevid.score_visual_tokens(*arguments)
        return scores if out is None else out.copy_(scores)
    return custom_ops.score_visual_tokens(*arguments, out)


def require_no_nan(ordered_scores: Tensor) -> None:
    """``ordered_scores`` [V] on the host, in descending order, which puts NaN first, hold none."""
    if ordered_scores.device.type == "cpu" and ordered_scores[:1].isnan().any():
        raise ValueError("scores must not be NaN: queries or keys were not finite")


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Host integers on the device, without waiting for it."""
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)


def compact(
    tensors: Sequence[Tensor],
    index: Tensor,
    *,
    dim: int,
    impl: Impl = "auto",
    out: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Take the entries ``index`` along ``dim`` out of many tensors at once, e.g. out of the K and V
    of many layers.

    On a GPU one kernel launch serves up to 32 tensors of equal shape, strides and dtype.
    Differentiable in the tensors.

    Args:
        tensors: any dtype and shape, all on one device and equally long along ``dim``.
        index: int64 [K], entries to take, in this order; or [B, K], a row for each entry of
            dimension 0 (then ``dim`` is not 0). Indices out of range are an error in the reference
            and give zeros in the kernel, which does not wait to say so.
        dim: the dimension to shorten.
        impl: see the module.
        out: contiguous tensors of the results' shapes and dtypes, apart from ``tensors``: take the
            results, and are returned.

    Returns:
        Contiguous tensors, in the order of ``tensors``; new ones without ``out``.

    Raises:
        TypeError, ValueError: an argument of a wrong type, shape, dtype, device or range.
    """
    if isinstance(tensors, Tensor):  # before it is taken for the sequence of its entries
        raise TypeError("tensors must be a sequence of tensors, got one tensor")
    if type(tensors) is not list:
        tensors = as_list("tensors", tensors, "tensors")
    if is_tracing() or (torch.is_grad_enabled() and _any_requires_grad(tensors)):
        if out is not None or not is_tracing():
            tensors = check_compact(tensors, index, dim)
        if out is not None:
            out = check_compact_out(out, tensors, index, dim)
        compacted: list[Tensor] = torch.ops.prunevid.compact(tensors, index, dim, impl)
        if out is None:
            return compacted
        return [target.copy_(entries) for target, entries in zip(out, compacted, strict=True)]
    return custom_ops.compact(tensors, index, dim, impl, out)


def _any_requires_grad(tensors: Sequence[Tensor]) -> bool:
    for tensor in tensors:  # any() of a generator takes twice as long
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            return True
    return False


def visual_bounds(visual_slice: slice, num_keys: int) -> tuple[int, int]:
    """Start and stop of the slice among ``num_keys`` keys; ValueError where it is empty or
    overruns."""
    if not isinstance(visual_slice, slice):
        raise TypeError(f"visual_slice must be a slice, got {type(visual_slice).__name__}")
    # Not slice.indices(), which a tracer cannot follow: lengths may be symbolic.
    start = 0 if visual_slice.start is None else visual_slice.start
    stop = num_keys if visual_slice.stop is None else visual_slice.stop
    for bound in (start, stop):
        if not isinstance(bound, (int, Integral, torch.SymInt)):
            raise TypeError(f"visual_slice must have integer bounds, got {visual_slice}")
    start = start + num_keys if start < 0 else start
    stop = stop + num_keys if stop < 0 else stop
    if visual_slice.step not in (None, 1) or not 0 <= start < stop <= num_keys:
        raise ValueError(
            f"visual_slice must select one or more of {num_keys} keys, with step 1, "
            f"got {visual_slice}"
        )
    return start, stop


def require_config(config: object) -> None:
    if not isinstance(config, PruneVidConfig):
        raise TypeError(f"config must be a PruneVidConfig, got {type(config).__name__}")
