"""Cycles of a kernel's blocks: what they occupy, and what a warp waits for.

A block *occupies* the issue slots and pipes of a sub-core and the memory pipe of an SM; that is
what many warps share. A warp alone *waits*, by the scoreboards that the compiler wrote into the
instructions. A loop is walked through three times, and the third is what a trip takes, so loads
that the compiler hoisted into the trip before are seen as such.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from . import gpus
from .compiled import Compiled
from .gpus import SUB_CORES, WARP, Gpu
from .lanes import Access, shared_accesses
from .sass import Instruction, Region

_FP32 = {"FADD", "FMUL", "FFMA", "FADD2", "FMUL2", "FFMA2", "HFMA2", "HADD2", "HMUL2"}
_FP64 = {"DADD", "DMUL", "DFMA", "DSETP", "DMNMX"}
_SPECIAL = {"MUFU", "POPC", "FLO", "BREV"}
_CONVERSIONS = {"I2F", "F2I", "F2F", "FRND"}
_SHARED = {"LDS", "STS", "LDSM", "STSM", "ATOMS"}
_LOADS = {"LDG", "LD"}
_GLOBAL = {"LDG", "STG", "LD", "ST", "ATOMG", "ATOM", "RED", "LDGSTS", "LDL", "STL"}
_CROSS_LANE = {"SHFL", "REDUX", "CREDUX"}
_NO_PIPE = {"BRA", "EXIT", "NOP", "BAR", "BSSY", "BSYNC", "WARPSYNC", "RET", "CALL", "DEPBAR"}
_NO_PIPE |= {"LDGDEPBAR", "WARPGROUP", "FENCE", "MEMBAR", "ERRBAR", "CGAERRBAR", "CCTL", "SYNCS"}
_NO_PIPE |= {"WARPGROUPSET", "ELECT", "NANOSLEEP", "BREAK", "KILL", "BPT", "R2UR", "S2R", "S2UR"}
_NO_PIPE |= {"LDC", "LDCU", "ULDC", "CS2R", "YIELD", "BMOV", "RPCMOV", "VOTEU", "UVIRTCOUNT"}
_TENSOR_LATER = {"UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCBAR", "LDTM", "STTM", "UTCATOMSWS"}


@dataclass
class Use:
    """What something occupies. Cycles of a sub-core, the mean of an SM's four, but for ``shared``:
    cycles of an SM's memory pipe; ``bytes`` are not here, they come from the trace."""

    issue: float = 0.0
    alu: float = 0.0
    fp32: float = 0.0
    fp64: float = 0.0
    special: float = 0.0
    tensor: float = 0.0
    shared: float = 0.0

    def add(self, other: Use, times: float = 1.0) -> None:
        for name in _RESOURCES:
            setattr(self, name, getattr(self, name) + times * getattr(other, name))

    def largest(self) -> tuple[float, str]:
        """The resource that is occupied longest, in cycles of a program's SM."""
        return max((getattr(self, name), name) for name in _RESOURCES)

    def longest_alone(self, warps: int) -> float:
        """Cycles of a program without others on its SM: one of its sub-cores may have more of its
        ``warps`` than the mean, as where there are fewer warps than sub-cores."""
        uneven = -(-warps // SUB_CORES) * SUB_CORES / warps
        of_sub_cores = (getattr(self, name) for name in _RESOURCES if name != "shared")
        return max(self.shared, uneven * max(of_sub_cores))


_RESOURCES = tuple(item.name for item in fields(Use))


@dataclass(frozen=True)
class BlockTiming:
    """One run of a block by all warps of a program.

    Attributes:
        use: of the program's warps, on their sub-cores.
        wait_cycles: of a warp alone, from the block's start to its end, over and above memory.
        counts: instructions of a warp by kind, for the report.
    """

    use: Use
    wait_cycles: float
    counts: dict[str, float]


@dataclass(frozen=True)
class Timing:
    """A kernel's blocks. ``unknown_accesses``: to shared memory, with addresses not followed."""

    blocks: dict[int, BlockTiming]
    unknown_accesses: int
    not_modelled: tuple[str, ...]


def time_blocks(compiled: Compiled, gpu: Gpu, load_latency: float) -> Timing:
    """Cycles of each block of a kernel; ``load_latency``: of a load from global memory."""
    accesses = shared_accesses(compiled.ptx, compiled.warps)
    waits: dict[int, float] = {}
    for region in compiled.structure.graph.regions():
        waits |= _waits(compiled, region, gpu, load_latency, accesses)
    blocks = {}
    foreign: set[str] = set()
    unknown: set[int] = set()
    for index, block in compiled.structure.graph.blocks.items():
        use, counts = Use(), dict.fromkeys(("memory", "barrier", "tensor", "shuffle"), 0.0)
        for item in block.instructions:
            use.add(_use(item, gpu, compiled.warps, accesses))
            counts["memory"] += item.name in _GLOBAL
            counts["barrier"] += item.name == "BAR"
            counts["tensor"] += item.name in ("HMMA", "HGMMA", "UTCHMMA")
            counts["shuffle"] += item.name in _CROSS_LANE
            if item.name in _TENSOR_LATER:
                foreign.add(item.name)
            access = accesses.get(item.ptx_line)
            if item.name in ("LDS", "STS") and access is not None and not access.is_known:
                unknown.add(item.ptx_line)
        blocks[index] = BlockTiming(use, waits.get(index, 0.0), counts)
    return Timing(blocks, len(unknown), tuple(sorted(foreign)))


# ------------------------------------------------------------------------------------------------
# Occupied
# ------------------------------------------------------------------------------------------------


def _width(item: Instruction) -> int:
    """Bytes a lane of a memory access."""
    for part, size in (("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1)):
        if f".{part}" in item.opcode:
            return size
    return 4


def _use(item: Instruction, gpu: Gpu, warps: int, accesses: dict[int, Access]) -> Use:
    """Of all warps of a program, spread over the sub-cores: the programs of an SM take turns."""
    per_sub_core = warps / SUB_CORES
    use = Use(issue=per_sub_core)
    name = item.name
    if name in _GLOBAL:
        use.shared = warps * max(1.0, WARP * _width(item) / 128)
    elif name in _SHARED:
        use.shared = warps * _passes(item, accesses)
    elif name in _CROSS_LANE:
        use.shared = float(warps) * (1 if name == "SHFL" else 2)
    elif name == "HMMA":
        macs = 16 * 8 * (16 if "16816" in item.opcode else 8)
        use.tensor = per_sub_core * macs / (gpu.mma_macs * gpu.mma_sync_share)
    elif name == "HGMMA":
        rows, columns, depth = _wgmma_shape(item)
        use.tensor = per_sub_core * rows * columns * depth / SUB_CORES / gpu.mma_macs
        use.issue += per_sub_core
    elif name in _FP32:
        use.fp32 = per_sub_core * gpu.fp32_cycles
    elif name in _FP64:
        use.fp64 = per_sub_core * gpu.fp64_cycles
    elif name in _SPECIAL:
        use.special = per_sub_core * gpus.SPECIAL_CYCLES
    elif name in _CONVERSIONS:
        use.special = per_sub_core * gpu.conversion_cycles
    elif name.startswith("IMAD"):
        use.fp32 = per_sub_core * max(gpu.fp32_cycles, gpu.int_cycles)
    elif name not in _NO_PIPE and not name.startswith("U"):
        use.alu = per_sub_core * gpu.int_cycles
    return use


def _wgmma_shape(item: Instruction) -> tuple[int, int, int]:
    found = re.search(r"\.(\d+)x(\d+)x(\d+)", item.opcode)
    if found is None:
        raise RuntimeError(f"{item.opcode} does not say its shape")
    return int(found[1]), int(found[2]), int(found[3])


def _passes(item: Instruction, accesses: dict[int, Access]) -> float:
    if item.name == "LDSM":  # matrices of 8 rows of 16 bytes, laid out for it by the compiler
        return 4.0 if ".4" in item.opcode else 2.0 if ".2" in item.opcode else 1.0
    access = accesses.get(item.ptx_line)
    if access is not None:
        return access.wavefronts
    return max(1.0, WARP * _width(item) / 128)


# ------------------------------------------------------------------------------------------------
# Waited for
# ------------------------------------------------------------------------------------------------


def _latency(
    item: Instruction, gpu: Gpu, load_latency: float, accesses: dict[int, Access]
) -> float:
    """From issue to result."""
    name = item.name
    if name in _LOADS or name in ("LDGSTS",):
        return load_latency + max(0.0, WARP * _width(item) / 128 - 1)
    if name in ("ATOMG", "ATOM"):
        return gpu.l2_latency
    if name in _SHARED:
        return gpu.shared_latency + 2 * (_passes(item, accesses) - 1)
    if name == "SHFL":
        return gpus.SHUFFLE_LATENCY
    if name in ("REDUX", "CREDUX"):
        return gpus.REDUX_LATENCY
    if name in _SPECIAL or name in _CONVERSIONS or name in _FP64:
        return gpus.SPECIAL_LATENCY
    if name in ("LDC", "LDCU", "ULDC"):
        return gpus.CONSTANT_LATENCY
    if name in ("HMMA", "HGMMA"):
        return gpus.MMA_LATENCY
    return gpus.SPECIAL_REGISTER_LATENCY


class _Warp:
    """A warp alone, walking through instructions in order."""

    def __init__(self, gpu: Gpu, load_latency: float, accesses: dict[int, Access]) -> None:
        self.now = 0.0
        self._gpu, self._load_latency, self._accesses = gpu, load_latency, accesses
        self._boards = [0.0] * 6
        self._copies: list[float] = []  # when each group of asynchronous copies has come
        self._copy_end = 0.0
        self._products_end = 0.0

    def step(self, item: Instruction, warps: int) -> None:
        for board in range(6):
            if item.wait_mask >> board & 1:
                self.now = max(self.now, self._boards[board])
        latency = _latency(item, self._gpu, self._load_latency, self._accesses)
        if item.write_board < 6:
            self._boards[item.write_board] = max(self._boards[item.write_board], self.now + latency)
        if item.read_board < 6:
            read = self.now + gpus.SPECIAL_REGISTER_LATENCY
            self._boards[item.read_board] = max(self._boards[item.read_board], read)
        self._step_asynchronous(item, latency)
        if item.name == "BAR":
            self.now += gpus.BARRIER_LATENCY + warps
        self.now += max(1, item.stall)

    def _step_asynchronous(self, item: Instruction, latency: float) -> None:
        name = item.name
        if name == "LDGSTS":
            self._copy_end = max(self._copy_end, self.now + latency)
        elif name == "LDGDEPBAR":
            self._copies.append(self._copy_end)
        elif name == "DEPBAR" and item.operands.startswith("SB0"):
            found = re.search(r"SB0, 0x([0-9a-f]+)", item.operands)
            pending = int(found[1], 16) if found else 0
            if len(self._copies) > pending:
                self.now = max(self.now, self._copies[len(self._copies) - 1 - pending])
        elif name == "HGMMA":
            rows, columns, depth = _wgmma_shape(item)
            cycles = rows * columns * depth / SUB_CORES / self._gpu.mma_macs
            begin = max(self.now, self._products_end - gpus.MMA_LATENCY)
            self._products_end = begin + cycles + gpus.MMA_LATENCY
        elif name == "WARPGROUP" and "DEPBAR" in item.opcode:
            self.now = max(self.now, self._products_end)


def _waits(
    compiled: Compiled,
    region: Region,
    gpu: Gpu,
    load_latency: float,
    accesses: dict[int, Access],
) -> dict[int, float]:
    """Cycles from the start to the end of each of a region's own blocks."""
    graph = compiled.structure.graph
    warp = _Warp(gpu, load_latency, accesses)
    waits: dict[int, float] = {}
    for _ in range(1 if region.parent is None else 3):
        for index in region.own:
            start = warp.now
            for item in graph.blocks[index].instructions:
                warp.step(item, compiled.warps)
            waits[index] = warp.now - start
    return waits
