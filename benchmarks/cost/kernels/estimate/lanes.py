"""Bank conflicts: how many passes a warp's access to shared memory takes.

The address of such an access is arithmetic on the thread's number, which stands in the PTX text. It
is carried out here for the 32 lanes of a warp; what an address owes to loaded values or to a loop's
counter is the same for all lanes of most accesses and counts as zero. A warp's access takes a pass
(wavefront) for each different word that its lanes want from the busiest of 32 banks; wide accesses
are served a half or a quarter of the warp at a time. Where the arithmetic cannot be followed, no
conflict is assumed, and the access counts as unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

BANKS = 32
_LANES = 32
_DEFINITION = re.compile(r"^\s*(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s+(.*?);")
_ACCESS = re.compile(
    r"^\s*(?:@(!?)(%p\d+)\s+)?(ld|st)\.shared(\.v[248])?\.[busf](8|16|32|64)\s+(.*?);"
)
_ADDRESS = re.compile(r"\[\s*(%r\d+|%rd\d+|global_smem)\s*(?:\+\s*(-?\d+))?\s*\]")
_TYPE_BITS = re.compile(r"\.(?:[busf])(8|16|32|64)$")


@dataclass(frozen=True)
class Access:
    """One access of a warp. ``wavefronts``: averaged over the program's warps."""

    wavefronts: float
    is_known: bool


def shared_accesses(ptx: str, warps: int) -> dict[int, Access]:
    """Line of the PTX text, counted from 1, -> the access to shared memory in it."""
    lines = ptx.splitlines()
    lanes = _Lanes(lines, warps)
    found = {}
    for number, line in enumerate(lines, start=1):
        match = _ACCESS.match(line)
        if match is None:
            continue
        negated, predicate, _, vector, bits, operands = match.groups()
        width = int(bits) // 8 * int((vector or ".v1")[2:])
        address = _ADDRESS.search(operands)
        value = lanes.value(address[1]) if address else None
        active = lanes.value(predicate) if predicate else np.ones(warps * _LANES, np.int64)
        if value is None or active is None:
            found[number] = Access(max(1.0, width / 4), False)
        else:
            mask = (active != 0) != bool(negated)
            found[number] = Access(wavefronts(value, mask, width) / warps, True)
    return found


def wavefronts(addresses: np.ndarray, active: np.ndarray, width: int) -> float:
    """Passes that all warps take together for accesses of ``width`` bytes a lane."""
    passes = 0
    at_once = _LANES if width <= 4 else _LANES * 4 // width
    for first in range(0, len(addresses), at_once):
        here = addresses[first : first + at_once][active[first : first + at_once]]
        if here.size:
            words = np.unique((here[:, None] + np.arange(0, max(width, 4), 4)[None, :]) // 4)
            passes += int(np.bincount(words % BANKS).max())
    return float(passes)


class _Lanes:
    """Values of registers for every thread of a program; a register's first definition counts."""

    def __init__(self, lines: list[str], warps: int) -> None:
        self._definitions: dict[str, str] = {}
        for line in lines:
            match = _DEFINITION.match(line)
            if match and not match[3].startswith(("st.", "bar.", "bra")):
                target = match[4].split(",")[0].strip()
                if target.startswith("%") and not match[2]:
                    self._definitions.setdefault(target, line)
        self._threads = np.arange(warps * _LANES, dtype=np.int64)
        self._known: dict[str, np.ndarray | None] = {}

    def value(self, name: str) -> np.ndarray | None:
        """int64 of every thread; None where it cannot be followed."""
        if name not in self._known:
            self._known[name] = np.zeros_like(self._threads)  # a circle: a loop's counter starts
            self._known[name] = self._compute(name)
        return self._known[name]

    def _constant(self, value: int) -> np.ndarray:
        return np.full_like(self._threads, value)

    def _operand(self, text: str) -> np.ndarray | None:
        text = text.strip()
        if text == "%tid.x":
            return self._threads
        if text == "%laneid":
            return self._threads % _LANES
        if re.fullmatch(r"-?\d+", text):
            return self._constant(int(text))
        if re.fullmatch(r"0[xX][0-9a-fA-F]+", text):
            return self._constant(int(text, 16))
        if re.fullmatch(r"%(r|rd|rs|p)\d+", text):
            return self.value(text)
        if text.startswith(("%ctaid", "%nctaid", "global_smem", "%ntid")):
            return self._constant(0)
        return None

    def _compute(self, name: str) -> np.ndarray | None:
        line = self._definitions.get(name)
        match = line and _DEFINITION.match(line)
        if not match:
            return None
        opcode = match[3]
        operation = opcode.split(".")[0]
        if operation == "ld":  # of an argument or of a value from memory: the same for all lanes
            return self._constant(0) if ".param" in opcode else None
        arguments = [self._operand(part) for part in match[4].split(",")[1:]]
        if any(argument is None for argument in arguments):
            return None
        values = [argument for argument in arguments if argument is not None]
        return _apply(operation, opcode, values)


def _apply(operation: str, opcode: str, v: list[np.ndarray]) -> np.ndarray | None:
    """The integer operations that addresses are made of."""
    bits = _TYPE_BITS.search(opcode)
    mask = (1 << min(int(bits[1]), 62)) - 1 if bits else (1 << 32) - 1
    if operation in ("mov", "cvt", "cvta"):
        return v[0]
    if operation == "add":
        return v[0] + v[1]
    if operation == "sub":
        return v[0] - v[1]
    if operation == "mul":
        return v[0] * v[1]
    if operation in ("mad",):
        return v[0] * v[1] + v[2]
    if operation == "and":
        return v[0] & v[1]
    if operation == "or":
        return v[0] | v[1]
    if operation == "xor":
        return v[0] ^ v[1]
    if operation == "not":
        return (v[0] == 0).astype(np.int64) if opcode.endswith("pred") else ~v[0] & mask
    if operation == "shl":
        return (v[0] << v[1]) & mask
    if operation == "shr":
        return v[0] >> v[1]
    if operation == "bfe":
        return (v[0] >> v[1]) & ((1 << v[2]) - 1)
    if operation == "min":
        return np.minimum(v[0], v[1])
    if operation == "max":
        return np.maximum(v[0], v[1])
    if operation == "selp":
        return np.where(v[2] != 0, v[0], v[1])
    if operation == "setp":
        return _compare(opcode.split(".")[1], v[0], v[1])
    return None


def _compare(kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    results = {
        "eq": a == b,
        "ne": a != b,
        "lt": a < b,
        "le": a <= b,
        "gt": a > b,
        "ge": a >= b,
    }
    return results[kind].astype(np.int64) if kind in results else None
