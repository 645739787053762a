"""What every kernel file shares: the configs, the interpreter check, two small device functions.

The block sizes lie in ``configs.json``, one entry by kernel and architecture (``sm_90``,
``gfx942``, ...), ``default`` for architectures without one, ``interpreter`` for Triton's
interpreter, where few large blocks are fastest. Nothing is tuned at import or on a first call.
"""

from __future__ import annotations

import functools
import json
import struct
from importlib import resources
from typing import Any

import torch
import triton
import triton.language as tl


def is_interpreted() -> bool:
    """Whether the kernels were defined under Triton's interpreter, which runs them on a CPU."""
    return not isinstance(merged_size, triton.JITFunction)


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


# On the host, ``triton.cdiv`` and ``triton.next_power_of_2`` are jit functions' wrappers: they cost
# 150 times as much as the arithmetic.
def ceil_div(dividend: int, divisor: int) -> int:
    """``dividend / divisor``, rounded up."""
    return -(-dividend // divisor)


def power_of_2_from(count: int) -> int:
    """The smallest power of 2 that is at least ``count`` >= 1."""
    return 1 << (count - 1).bit_length()


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
