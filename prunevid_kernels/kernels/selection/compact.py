"""Gather the kept tokens out of many tensors at once: K and V of all layers, say.

Tensors of equal shape, strides and dtype are served by one launch. Each is seen as
[outer0, outer1, S, inner] with its own strides, and copied as plain words, so the kernel knows no
dtypes. Where up to ``MAX_TENSORS`` tensors lie travels with the launch, as its arguments; a program
finds its tensor's addresses there, and its row of the index, and copies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import ceil_div, config_for, in_memory
from prunevid_kernels.kernels._launch import MAX_INT32, alike, launch

WORDS = {8: tl.int64, 4: tl.int32, 2: tl.int16, 1: tl.int8}

MAX_PROGRAMS = MAX_INT32
"""The most programs along the first axis of a grid; the other two end at 65,535."""

MAX_TENSORS = 32
"""Tensors of one launch."""

_ADDRESSES = tuple(f"{end}{i}" for i in range(MAX_TENSORS) for end in "ab")


# A tree of branches, which all threads of a program take alike: a few instructions a program, where
# a table in memory would be a launch before and a wait for it.
# fmt: off
@triton.jit
def _of_4(place, a0, b0, a1, b1, a2, b2, a3, b3):
    if place < 2:
        if place < 1:
            a, b = a0, b0
        else:
            a, b = a1, b1
    else:
        if place < 3:
            a, b = a2, b2
        else:
            a, b = a3, b3
    return a, b


@triton.jit
def _of_16(
    place,
    a0, b0, a1, b1, a2, b2, a3, b3,
    a4, b4, a5, b5, a6, b6, a7, b7,
    a8, b8, a9, b9, a10, b10, a11, b11,
    a12, b12, a13, b13, a14, b14, a15, b15,
):
    if place < 8:
        if place < 4:
            a, b = _of_4(place, a0, b0, a1, b1, a2, b2, a3, b3)
        else:
            a, b = _of_4(place - 4, a4, b4, a5, b5, a6, b6, a7, b7)
    else:
        if place < 12:
            a, b = _of_4(place - 8, a8, b8, a9, b9, a10, b10, a11, b11)
        else:
            a, b = _of_4(place - 12, a12, b12, a13, b13, a14, b14, a15, b15)
    return a, b


# The sizes differ from prompt to prompt and by head, and decide nothing about the code.
@triton.jit(
    do_not_specialize=(
        "blocks_k",
        "outer",
        "outer1",
        "K",
        "S",
        "stride_index_b",
        "stride_0",
        "stride_1",
        "stride_s",
        "inner",
        *_ADDRESSES,
    )
)
def _compact_kernel(
    # Read: what to keep.
    index_ptr,
    # Sizes and strides.
    blocks_k,
    outer,
    outer1,
    K,
    S: tl.int64,
    stride_index_b: tl.int64,
    stride_0: tl.int64,
    stride_1: tl.int64,
    stride_s: tl.int64,
    inner: tl.int64,
    # Where tensors and their copies lie.
    a0: tl.int64, b0: tl.int64, a1: tl.int64, b1: tl.int64, a2: tl.int64, b2: tl.int64,
    a3: tl.int64, b3: tl.int64, a4: tl.int64, b4: tl.int64, a5: tl.int64, b5: tl.int64,
    a6: tl.int64, b6: tl.int64, a7: tl.int64, b7: tl.int64, a8: tl.int64, b8: tl.int64,
    a9: tl.int64, b9: tl.int64, a10: tl.int64, b10: tl.int64, a11: tl.int64, b11: tl.int64,
    a12: tl.int64, b12: tl.int64, a13: tl.int64, b13: tl.int64, a14: tl.int64, b14: tl.int64,
    a15: tl.int64, b15: tl.int64, a16: tl.int64, b16: tl.int64, a17: tl.int64, b17: tl.int64,
    a18: tl.int64, b18: tl.int64, a19: tl.int64, b19: tl.int64, a20: tl.int64, b20: tl.int64,
    a21: tl.int64, b21: tl.int64, a22: tl.int64, b22: tl.int64, a23: tl.int64, b23: tl.int64,
    a24: tl.int64, b24: tl.int64, a25: tl.int64, b25: tl.int64, a26: tl.int64, b26: tl.int64,
    a27: tl.int64, b27: tl.int64, a28: tl.int64, b28: tl.int64, a29: tl.int64, b29: tl.int64,
    a30: tl.int64, b30: tl.int64, a31: tl.int64, b31: tl.int64,
    WORD: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    """Program (entries of the index, outer index, tensor), entries fastest, on one axis."""
    row = tl.program_id(0) // blocks_k
    tensor = row // outer
    first, second = (row % outer // outer1).to(tl.int64), (row % outer1).to(tl.int64)
    k = tl.program_id(0) % blocks_k * BLOCK_K + tl.arange(0, BLOCK_K)
    chosen = tl.load(index_ptr + first * stride_index_b + k, mask=k < K, other=0)  # [BLOCK_K]
    exists = (chosen >= 0) & (chosen < S)

    if tensor < 16:
        source_address, target_address = _of_16(
            tensor,
            a0, b0, a1, b1, a2, b2, a3, b3, a4, b4, a5, b5, a6, b6, a7, b7,
            a8, b8, a9, b9, a10, b10, a11, b11, a12, b12, a13, b13, a14, b14, a15, b15,
        )
    else:
        source_address, target_address = _of_16(
            tensor - 16,
            a16, b16, a17, b17, a18, b18, a19, b19, a20, b20, a21, b21, a22, b22, a23, b23,
            a24, b24, a25, b25, a26, b26, a27, b27, a28, b28, a29, b29, a30, b30, a31, b31,
        )
    source_ptr = source_address.to(tl.pointer_type(WORD))
    target_ptr = target_address.to(tl.pointer_type(WORD))
    # Every row starts at a multiple of ALIGNMENT words, which the addresses cannot tell the
    # compiler.
    stride_s = tl.multiple_of(stride_s, ALIGNMENT)
    inner = tl.multiple_of(inner, ALIGNMENT)
    source_row = tl.multiple_of(first * stride_0 + second * stride_1, ALIGNMENT)
    source_ptr = tl.multiple_of(source_ptr, ALIGNMENT * 8) + source_row
    target_row = (row % outer).to(tl.int64) * K * inner
    target_ptr = tl.multiple_of(target_ptr, ALIGNMENT * 8) + target_row
    for start in range(0, inner, BLOCK_I):
        i = start + tl.arange(0, BLOCK_I)
        inside = (k < K)[:, None] & (i < inner)[None, :]  # [BLOCK_K, BLOCK_I]
        source = source_ptr + chosen[:, None] * stride_s + i[None, :]
        words = tl.load(source, mask=inside & exists[:, None], other=0)  # [BLOCK_K, BLOCK_I]
        target = k[:, None].to(tl.int64) * inner + i[None, :]
        tl.store(target_ptr + target, words, mask=inside)
# fmt: on


class _Alike(NamedTuple):
    """Tensors of one shape, stride and dtype, and where their entries go."""

    sources: list[Tensor]
    targets: list[Tensor]
    sizes: tuple[int, int, int, int]
    strides: tuple[int, int, int]


def compact(
    tensors: Sequence[Tensor], index: Tensor, dim: int, out: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """See :func:`prunevid_kernels.compact`."""
    if any(map(Tensor.is_neg, tensors)) or any(map(Tensor.is_conj, tensors)):
        tensors = [tensor.resolve_conj().resolve_neg() for tensor in tensors]
    by_kind: dict[object, list[int]] = {}
    last = None
    positions: list[int] = []
    for position, tensor in enumerate(tensors):
        kind = (tensor.shape, tensor.stride(), tensor.dtype)
        if kind != last:
            last, positions = kind, by_kind.setdefault(kind, [])
        positions.append(position)

    length, device = index.shape[-1], index.device
    compacted = dict(enumerate(out or ()))
    kinds = []
    for positions in by_kind.values():
        sources = [tensors[position] for position in positions]
        shape, dtype = sources[0].shape, sources[0].dtype
        axis = dim % len(shape)
        if out is None:
            gathered = (*shape[:axis], length, *shape[axis + 1 :])
            target = torch.empty(gathered, dtype=dtype, device=device)
            compacted[positions[0]] = target
            for position in positions[1:]:
                compacted[position] = torch.empty_like(target)
        if length and sources[0].numel():
            axes = _four_axes(sources[0], axis)
            if axes is None:
                sources = [source.contiguous() for source in sources]
                axes = _four_axes(sources[0], axis)
                assert axes is not None
            kinds.append(_Alike(sources, [compacted[position] for position in positions], *axes))
    _launch(kinds, in_memory(index))
    return [compacted[position] for position in range(len(tensors))]


def _launch(kinds: Sequence[_Alike], index: Tensor) -> None:
    """A launch for up to ``MAX_TENSORS`` tensors of each kind."""
    length = index.shape[-1]
    stride_index_b = index.stride(0) if index.ndim == 2 else 0
    if length > MAX_INT32:
        raise ValueError(f"index must have at most {MAX_INT32} entries a row, got {length}")
    config = config_for("compact", index.device)
    blocks_k = ceil_div(length, config["BLOCK_K"])
    for kind in kinds:
        addresses = [
            tensor.data_ptr()
            for source_and_target in zip(kind.sources, kind.targets, strict=True)
            for tensor in source_and_target
        ]
        # The widest word that every address and stride is a multiple of; two 8-byte words make a
        # 16-byte access.
        size = kind.sources[0].element_size()
        steps = [step * size for step in (*kind.strides, kind.sizes[3])]
        granule = math.gcd(16, *steps, *addresses)
        word = min(granule, 8)
        words = [step // word for step in steps]
        outer = kind.sizes[0] * kind.sizes[1]
        for first in range(0, len(addresses), 2 * MAX_TENSORS):
            some = addresses[first : first + 2 * MAX_TENSORS]
            programs = len(some) // 2 * outer * blocks_k
            if programs > MAX_PROGRAMS:
                raise ValueError(
                    f"tensors of one kind must take at most {MAX_PROGRAMS} blocks of "
                    f"{config['BLOCK_K']} entries, got {programs}"
                )
            launch(
                _compact_kernel,
                alike(index),
                (programs, 1, 1),
                (
                    index,
                    blocks_k,
                    outer,
                    kind.sizes[1],
                    length,
                    kind.sizes[2],
                    stride_index_b,
                    *words,
                    *some,
                    *(0,) * (2 * MAX_TENSORS - len(some)),
                ),
                {"WORD": WORDS[word], "ALIGNMENT": granule // word, **config},
            )


def _four_axes(
    tensor: Tensor, axis: int
) -> tuple[tuple[int, int, int, int], tuple[int, int, int]] | None:
    """The tensor as [first dimension, dimensions up to ``axis``, ``axis``, dimensions after]: the
    sizes of the four and the strides of the first three, the last of which lies dense. None where
    the strides allow no such view; those of attention keys and values do.
    """
    shape, strides = tensor.shape, tensor.stride()
    size_0, stride_0 = (shape[0], strides[0]) if axis > 0 else (1, 0)
    merged_1 = _merged(shape[1:axis], strides[1:axis])
    merged_3 = _merged(shape[axis + 1 :], strides[axis + 1 :])
    if merged_1 is None or merged_3 is None or (merged_3[0] > 1 and merged_3[1] != 1):
        return None
    sizes = (size_0, merged_1[0], shape[axis], merged_3[0])
    return sizes, (stride_0, merged_1[1], strides[axis])


def _merged(sizes: Sequence[int], strides: Sequence[int]) -> tuple[int, int] | None:
    """Size and stride of several dimensions seen as one; None where they are not equally spaced."""
    size, stride = 1, 0
    for inner_size, inner_stride in zip(reversed(sizes), reversed(strides), strict=True):
        if inner_size == 1:
            continue
        if size == 1:
            stride = inner_stride
        elif inner_stride != size * stride:
            return None
        size *= inner_size
    return size, stride
