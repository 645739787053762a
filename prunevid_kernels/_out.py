"""The checks of tensors of the caller that results are written to.

A result may be written by a kernel, byte by byte, or by torch's ``copy_``, which broadcasts, casts
and follows strides. Both take the same tensors: whole ones of the result's shape and dtype, which
share no memory with what is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunevid_kernels._validate import as_list, compacted_shape, require_dense


def check_merge_out(out: Tensor, features: Tensor, budgets: Sequence[int]) -> None:
    """``out`` can take the merged tokens [sum of budgets, C] of features [F, N, C]."""
    _require_out("out", out, (sum(budgets), features.shape[2]), features.dtype, features)
    _require_apart([("out", out)], [("features", features)])


def check_scores_out(
    out: Tensor, query: Tensor, key: Tensor, key_mask: Tensor | None, num_visual: int
) -> None:
    """``out`` can take the scores [B, V] of queries [B, H, Q, D]."""
    _require_out("out", out, (query.shape[0], num_visual), torch.float32, query)
    taken = [("query", query), ("key", key)]
    _require_apart([("out", out)], taken if key_mask is None else [*taken, ("key_mask", key_mask)])


def check_compact_out(
    out: Sequence[Tensor], tensors: Sequence[Tensor], index: Tensor, dim: int
) -> list[Tensor]:
    """``out`` can take the entries of ``tensors``; returns it as a list."""
    if isinstance(out, Tensor):
        raise TypeError("out must be a sequence of tensors, got one tensor")
    out = as_list("out", out, "tensors")
    if len(out) != len(tensors):
        raise ValueError(f"out must have a tensor for each of {len(tensors)}, got {len(out)}")
    for position, (target, tensor) in enumerate(zip(out, tensors, strict=True)):
        shape = compacted_shape(tensor, index, dim)
        _require_out(f"out[{position}]", target, shape, tensor.dtype, index)
    taken = [*((f"tensors[{i}]", tensor) for i, tensor in enumerate(tensors)), ("index", index)]
    given = [(f"out[{i}]", target) for i, target in enumerate(out)]
    _require_apart(given, taken)
    return out


def _require_out(
    name: str, out: object, shape: Sequence[int], dtype: torch.dtype, like: Tensor
) -> None:
    """``out`` is a contiguous tensor that a result of this shape and dtype can be written to."""
    if not isinstance(out, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(out).__name__}")
    if out.is_nested or out.layout != torch.strided:
        require_dense(name, out)
    if out.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, got {out.dtype}")
    if out.shape != torch.Size(shape):
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(out.shape)}")
    if out.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, got {out.device}")
    if not out.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {list(out.stride())}")
    if not torch.compiler.is_compiling() and (out.is_neg() or out.is_conj()):
        raise ValueError(f"{name} must hold its values, got a negated or conjugated view of them")
    if out.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} must not require a gradient: it is written to")


def _require_apart(
    written: Sequence[tuple[str, Tensor]], read: Sequence[tuple[str, Tensor]]
) -> None:
    """No tensor that is written to shares memory with another of either list: programs run in any
    order, so what one still reads another might have overwritten. (A tracer's tensors have no
    addresses; what is traced writes to fresh memory and copies.)"""
    if torch.compiler.is_compiling():
        return
    spans = sorted(
        [(*_span(tensor), name, True) for name, tensor in written if tensor.numel()]
        + [(*_span(tensor), name, False) for name, tensor in read if tensor.numel()]
    )
    last_end: dict[bool, tuple[int, str]] = {True: (0, ""), False: (0, "")}
    for start, end, name, is_written in spans:
        for other_is_written, (other_end, other) in last_end.items():
            if start < other_end and (is_written or other_is_written):
                both = (name, other) if is_written else (other, name)
                raise ValueError(f"{both[0]} must not share memory with {both[1]}")
        last_end[is_written] = max(last_end[is_written], (end, name))


def _span(tensor: Tensor) -> tuple[int, int]:
    """Addresses of the first byte of a tensor and of the byte after its last."""
    last = sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()
