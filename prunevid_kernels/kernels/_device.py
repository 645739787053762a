"""What every kernel file shares: the configs, the interpreter check, small device functions, and
the way of the host's integers to the device.

The block sizes lie in ``configs.json``, one entry by kernel and architecture (``sm_90``,
``gfx942``, ...), ``default`` for architectures without one, ``interpreter`` for Triton's
interpreter, where few large blocks are fastest. Nothing is tuned at import or on a first call.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Sequence
from importlib import resources
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._launch import launch


def is_interpreted() -> bool:
    """Whether the kernels were defined under Triton's interpreter, which runs them on a CPU."""
    return not isinstance(merged_size, triton.JITFunction)


def interpreter_fault() -> str | None:
    """What keeps the kernels from running under this Triton's interpreter; None: nothing known.

    3.9.0 gives ``block_mask & scalar_mask`` 32-bit integers, which its own loads then refuse.
    """
    if triton.__version__ != "3.9.0":
        return None
    return (
        "the interpreter of Triton 3.9.0 refuses its own masks, so the kernels cannot run on a CPU "
        "with it; 3.7.1, which they are tested with, can: pip install triton==3.7.1"
    )


@functools.cache
def config_table() -> dict[str, dict[str, dict[str, int]]]:
    """The shipped configs: kernel name -> architecture -> block sizes, num_warps, num_stages."""
    text = resources.files(__package__).joinpath("configs.json").read_text()
    table: dict[str, dict[str, dict[str, int]]] = json.loads(text)
    return table


@functools.cache
def architecture(device: torch.device) -> str:
    """The name of a device's architecture in the config table."""
    if device.type == "cpu":
        return "interpreter"
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def config_for(kernel: str, device: torch.device) -> dict[str, Any]:
    """Launch arguments of ``kernel`` on ``device``: its constexpr block sizes, warps and stages."""
    by_architecture = config_table()[kernel]
    return by_architecture.get(architecture(device), by_architecture["default"])


MAX_POINTS = 4096
"""The most points of a set: a row of its distance matrix has to fit a program's registers."""


def blocks_for(kernel: str, device: torch.device, n: int) -> dict[str, int]:
    """Launch arguments of a kernel that holds whole rows of up to ``n`` points.

    The config says how few columns a tile has (few widths, few variants to compile), to how many
    of them a warp is given, and how many elements of a tile a warp holds.

    Raises:
        ValueError: more than ``MAX_POINTS``.
    """
    if n > MAX_POINTS:
        raise ValueError(f"at most {MAX_POINTS} points can be clustered at once, got {n}")
    config = config_for(kernel, device)
    block_n = max(config["MIN_BLOCK_N"], 1 << (n - 1).bit_length())
    num_warps = min(16, max(1, block_n // config["WARP_COLUMNS"]))
    block_m = max(1, min(block_n, config["WARP_TILE"] * num_warps // block_n))
    return {"BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": num_warps}


# On the host, ``triton.cdiv`` and ``triton.next_power_of_2`` are jit functions' wrappers: they cost
# 150 times as much as the arithmetic.
def ceil_div(dividend: int, divisor: int) -> int:
    """``dividend / divisor``, rounded up."""
    return -(-dividend // divisor)


def power_of_2_from(count: int) -> int:
    """The smallest power of 2 that is at least ``count`` >= 1."""
    return 1 << (count - 1).bit_length()


def in_memory(x: Tensor) -> Tensor:
    """``x``, of no complex dtype, as bytes that lie one after the other. Kernels read addresses: a
    view of negated values, which torch computes as it reads them, is written out."""
    x = x.contiguous()
    return x.resolve_neg() if x.is_neg() else x


def double_bits(value: float) -> int:
    """A double's bit pattern: Triton passes float arguments as float32, which is too coarse where
    ``int(count * ratio)`` has to come out as in IEEE double precision."""
    bits: int = struct.unpack("<q", struct.pack("<d", value))[0]
    return bits


@triton.jit
def scaled_count(count, ratio_bits):
    """``max(1, int(count * ratio))``, the product in double precision as on the host."""
    ratio = ratio_bits.to(tl.float64, bitcast=True)
    return tl.maximum((count.to(tl.float64) * ratio).to(tl.int32), 1)


@triton.jit
def merged_size(count, ratio_bits, min_cluster_tokens):
    """Merged tokens of groups of ``count`` tokens: small groups are passed through."""
    return tl.where(count > min_cluster_tokens, scaled_count(count, ratio_bits), count)


@triton.jit
def dot(a, b, total, INTERPRETED: tl.constexpr):
    """``total + a @ b`` in float32, on the tensor cores, to float32's precision.

    Products of 16-bit floats are exact in the float32 accumulator. A float32 operand is the sum of
    three bfloat16 parts of 8 bits each; of the nine products of parts, six reach above the last
    bit. (The plain float32 product of Triton leaves the tensor cores for one fused multiply-add at
    a time, and tf32 keeps 11 bits.)

    A tensor core adds up a row's products in an order that does not depend on the row's place in
    the tile, so equal rows give equal results. The interpreter's BLAS promises no such thing (and
    knows no bfloat16); there the tile is computed in float64 and rounded once.
    """
    # a [M, K], b [K, N]; total and each product: [M, N]
    if INTERPRETED:
        tile = tl.dot(a.to(tl.float64), b.to(tl.float64), out_dtype=tl.float64)
        total += tile.to(tl.float32)
    elif a.dtype == tl.float32:
        a_high, a_middle, a_low = _bfloat16_parts(a)
        b_high, b_middle, b_low = _bfloat16_parts(b)
        total = tl.dot(a_low, b_high, total)
        total = tl.dot(a_high, b_low, total)
        total = tl.dot(a_middle, b_middle, total)
        total = tl.dot(a_middle, b_high, total)
        total = tl.dot(a_high, b_middle, total)
        total = tl.dot(a_high, b_high, total)
    else:
        total = tl.dot(a, b, total)
    return total


@triton.jit
def _bfloat16_parts(x):
    high = x.to(tl.bfloat16)
    rest = x - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
    return high, middle, low


NARROW, WIDE = 12, 64
"""Integers that one launch takes."""

_NAMES = tuple(f"v{i}" for i in range(WIDE))
INTEGER_NAMES = _NAMES[:NARROW]


@triton.jit
def _store_4(out_ptr, first: tl.constexpr, count, v0, v1, v2, v3):
    tl.store(out_ptr + first, v0.to(out_ptr.dtype.element_ty), mask=first < count)
    tl.store(out_ptr + first + 1, v1.to(out_ptr.dtype.element_ty), mask=first + 1 < count)
    tl.store(out_ptr + first + 2, v2.to(out_ptr.dtype.element_ty), mask=first + 2 < count)
    tl.store(out_ptr + first + 3, v3.to(out_ptr.dtype.element_ty), mask=first + 3 < count)


# No integer is specialised: whatever the values, there is one compiled kernel for each width and
# dtype. The first ``count`` values are stored.
# fmt: off
@triton.jit
def store_integers(out_ptr, count, v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11):
    """A launch's part in :func:`device_integers` where it takes the integers along."""
    _store_4(out_ptr, 0, count, v0, v1, v2, v3)
    _store_4(out_ptr, 4, count, v4, v5, v6, v7)
    _store_4(out_ptr, 8, count, v8, v9, v10, v11)


@triton.jit(do_not_specialize=("count", *INTEGER_NAMES))
def _narrow_kernel(
    out_ptr, count,
    v0: tl.int64, v1: tl.int64, v2: tl.int64, v3: tl.int64, v4: tl.int64, v5: tl.int64,
    v6: tl.int64, v7: tl.int64, v8: tl.int64, v9: tl.int64, v10: tl.int64, v11: tl.int64,
):
    store_integers(out_ptr, count, v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11)


@triton.jit(do_not_specialize=("count", *_NAMES))
def _wide_kernel(
    out_ptr, count,
    v0: tl.int64, v1: tl.int64, v2: tl.int64, v3: tl.int64, v4: tl.int64, v5: tl.int64,
    v6: tl.int64, v7: tl.int64, v8: tl.int64, v9: tl.int64, v10: tl.int64, v11: tl.int64,
    v12: tl.int64, v13: tl.int64, v14: tl.int64, v15: tl.int64, v16: tl.int64, v17: tl.int64,
    v18: tl.int64, v19: tl.int64, v20: tl.int64, v21: tl.int64, v22: tl.int64, v23: tl.int64,
    v24: tl.int64, v25: tl.int64, v26: tl.int64, v27: tl.int64, v28: tl.int64, v29: tl.int64,
    v30: tl.int64, v31: tl.int64, v32: tl.int64, v33: tl.int64, v34: tl.int64, v35: tl.int64,
    v36: tl.int64, v37: tl.int64, v38: tl.int64, v39: tl.int64, v40: tl.int64, v41: tl.int64,
    v42: tl.int64, v43: tl.int64, v44: tl.int64, v45: tl.int64, v46: tl.int64, v47: tl.int64,
    v48: tl.int64, v49: tl.int64, v50: tl.int64, v51: tl.int64, v52: tl.int64, v53: tl.int64,
    v54: tl.int64, v55: tl.int64, v56: tl.int64, v57: tl.int64, v58: tl.int64, v59: tl.int64,
    v60: tl.int64, v61: tl.int64, v62: tl.int64, v63: tl.int64,
):
    _store_4(out_ptr, 0, count, v0, v1, v2, v3)
    _store_4(out_ptr, 4, count, v4, v5, v6, v7)
    _store_4(out_ptr, 8, count, v8, v9, v10, v11)
    _store_4(out_ptr, 12, count, v12, v13, v14, v15)
    _store_4(out_ptr, 16, count, v16, v17, v18, v19)
    _store_4(out_ptr, 20, count, v20, v21, v22, v23)
    _store_4(out_ptr, 24, count, v24, v25, v26, v27)
    _store_4(out_ptr, 28, count, v28, v29, v30, v31)
    _store_4(out_ptr, 32, count, v32, v33, v34, v35)
    _store_4(out_ptr, 36, count, v36, v37, v38, v39)
    _store_4(out_ptr, 40, count, v40, v41, v42, v43)
    _store_4(out_ptr, 44, count, v44, v45, v46, v47)
    _store_4(out_ptr, 48, count, v48, v49, v50, v51)
    _store_4(out_ptr, 52, count, v52, v53, v54, v55)
    _store_4(out_ptr, 56, count, v56, v57, v58, v59)
    _store_4(out_ptr, 60, count, v60, v61, v62, v63)
# fmt: on


def device_integers(
    values: Sequence[int], device: torch.device, dtype: torch.dtype = torch.int32
) -> Tensor:
    """``values`` as a tensor [len(values)] on the device, without a wait, inside a capture or
    outside of one.

    A copy from ordinary memory makes the host wait for all that the stream still has to do. A copy
    from pinned memory does not, but has no place in a CUDA graph, whose replays would read that
    memory again and keep nothing of it alive. So the integers travel as the arguments of a launch
    that stores them: what a captured launch needs belongs to the graph. Two widths, because each
    argument costs the host a fifth of a microsecond.
    """
    count = len(values)
    out = torch.empty(count, dtype=dtype, device=device)
    for first in range(0, count, WIDE):
        some = values[first : first + WIDE]
        is_narrow = len(some) <= NARROW
        kernel = _narrow_kernel if is_narrow else _wide_kernel
        padding = (0,) * ((NARROW if is_narrow else WIDE) - len(some))
        target = out[first:] if first else out
        launch(
            kernel,
            (device, dtype),
            (1, 1, 1),
            (target, len(some), *some, *padding),
            {"num_warps": 1},
        )
    return out
