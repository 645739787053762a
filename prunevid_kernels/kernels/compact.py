"""Gather the kept tokens out of many tensors in one launch: K and V of all layers, say.

Each tensor is seen as [outer0, outer1, S, inner] with its own strides, and copied as plain words,
so one launch serves every dtype. Where the tensors lie is a table of addresses on the device; a
program looks up its tensor, its row of the index, and copies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import config_for

WORDS = {8: tl.int64, 4: tl.int32, 2: tl.int16, 1: tl.int8}

# A CUDA graph copies its tables anew at each replay, and nothing says when a graph is gone.
_CAPTURED_TABLES: list[Tensor] = []


@triton.jit
def _compact_kernel(
    table_ptr,
    index_ptr,
    K,
    stride_index_b,
    WORD: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    """Program (entries of the index, outer index, tensor)."""
    entry = table_ptr + tl.program_id(2) * 8  # the eight columns read here
    source_ptr = tl.load(entry).to(tl.pointer_type(WORD))
    target_ptr = tl.load(entry + 1).to(tl.pointer_type(WORD))
    outer0, outer1 = tl.load(entry + 2), tl.load(entry + 3)
    stride_0, stride_1 = tl.load(entry + 4), tl.load(entry + 5)
    stride_s, inner = tl.load(entry + 6), tl.load(entry + 7)
    outer = tl.program_id(1).to(tl.int64)
    if outer < outer0 * outer1:
        first, second = outer // outer1, outer % outer1
        k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
        chosen = tl.load(index_ptr + first * stride_index_b + k, mask=k < K, other=0)
        # Every row starts at a multiple of ALIGNMENT words, which the table cannot tell the
        # compiler.
        source_row = tl.multiple_of(first * stride_0 + second * stride_1, ALIGNMENT)
        stride_s = tl.multiple_of(stride_s, ALIGNMENT)
        inner = tl.multiple_of(inner, ALIGNMENT)
        source_ptr = tl.multiple_of(source_ptr, ALIGNMENT * 8) + source_row
        target_ptr = tl.multiple_of(target_ptr, ALIGNMENT * 8) + outer * K * inner
        for start in range(0, inner, BLOCK_I):
            i = start + tl.arange(0, BLOCK_I)
            inside = (k < K)[:, None] & (i < inner)[None, :]
            words = tl.load(source_ptr + chosen[:, None] * stride_s + i[None, :], mask=inside)
            target = k[:, None].to(tl.int64) * inner + i[None, :]
            tl.store(target_ptr + target, words, mask=inside)


def compact(tensors: Sequence[Tensor], index: Tensor, dim: int) -> list[Tensor]:
    """See :func:`prunevid_kernels.compact`."""
    length = index.shape[-1]
    index = index.contiguous()
    views = [_four_axes(tensor, dim % tensor.ndim) for tensor in tensors]
    compacted = []
    for tensor in tensors:
        shape = list(tensor.shape)
        shape[dim % tensor.ndim] = length
        compacted.append(torch.empty(shape, dtype=tensor.dtype, device=tensor.device))
    if length == 0:
        return compacted

    # The widest word that every address and stride is a multiple of; two 8-byte words make a
    # 16-byte access.
    granule = 16
    for view, target in zip(views, compacted, strict=True):
        size = view.element_size()
        for step in (*view.stride()[:3], view.shape[3]):
            granule = math.gcd(granule, step * size)
        granule = math.gcd(granule, view.data_ptr(), target.data_ptr())
    word = min(granule, 8)
    table = []
    for view, target in zip(views, compacted, strict=True):
        steps = (*view.stride()[:3], view.shape[3])
        words = [step * view.element_size() // word for step in steps]
        table += [view.data_ptr(), target.data_ptr(), view.shape[0], view.shape[1], *words]
    on_gpu = index.is_cuda
    host_table = torch.tensor(table, dtype=torch.int64)
    if on_gpu:
        host_table = host_table.pin_memory()
        if torch.cuda.is_current_stream_capturing():
            _CAPTURED_TABLES.append(host_table)
    config = config_for("compact", index.device)
    outer = max(view.shape[0] * view.shape[1] for view in views)
    _compact_kernel[(triton.cdiv(length, config["BLOCK_K"]), outer, len(views))](
        host_table.to(index.device, non_blocking=True),
        index,
        length,
        index.stride(0) if index.ndim == 2 else 0,
        WORD=WORDS[word],
        ALIGNMENT=granule // word,
        **config,
    )
    return compacted


def _four_axes(tensor: Tensor, dim: int) -> Tensor:
    """The tensor as [first dimension, dimensions up to dim, dim, dimensions after].

    A view where the strides allow it, as those of attention keys and values do; else a contiguous
    copy.
    """
    shape = tensor.shape
    outer0 = shape[0] if dim > 0 else 1
    outer1 = math.prod(shape[1:dim])
    axes = (outer0, outer1, shape[dim], math.prod(shape[dim + 1 :]))
    view = tensor.reshape(axes)
    return view if view.stride(3) == 1 or axes[3] == 1 else view.contiguous()
