"""Modelled time of a launch: programs on multiprocessors, and what they all share.

A program alone takes, block after block, the longer of what its warps occupy and what one of them
waits for. Programs are handed to the SMs in order, as many at once as registers, shared memory and
warps allow. An SM takes the longer of its programs one after the other on those places, and of all
that they occupy together; so programs hide each other's waits, and nothing hides an occupied pipe.
The launch takes the longest SM, or the time that its bytes need from L2 or from device memory.

Left out, and said in the report: :data:`LEFT_OUT`.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from . import gpus
from .compiled import Compiled
from .counts import count_blocks
from .gpus import Gpu
from .timing import Timing, Use
from .trace import Launch, Program

LEFT_OUT = (
    "no cache is simulated: L1 hits, instruction cache misses, address translation and the order "
    "of accesses in device memory are left out; a tensor is taken to be in L2 by its size and by "
    "what moved since",
    "latencies are those of an idle machine: queues before L2 and device memory count by their "
    "rates alone",
    "warps of a program take the same way through it; lanes that diverge and atomics that meet are "
    "left out",
    "the clock is constant; power limits and the first launch's compilation are left out",
    "counts of blocks come from the source's statements and group sizes from one generated video",
)


@dataclass(frozen=True)
class Traffic:
    """Bytes of one launch.

    Attributes:
        read_bytes, written_bytes: by all programs, in whole sectors.
        device_bytes: from and to device memory.
        floor_bytes: each tensor's bytes that are touched, once.
        hit_share: of what is read, what L2 has.
    """

    read_bytes: float
    written_bytes: float
    device_bytes: float
    floor_bytes: float
    hit_share: float

    @property
    def l2_bytes(self) -> float:
        return self.read_bytes + self.written_bytes


class Cache:
    """What L2 holds between the launches of one piece of work.

    No cache is simulated. A tensor that was moved before is found in L2 as far as there is room for
    it beside what moved since: ``max(0, room - since)`` of its bytes at most. What is written goes
    to device memory once, in its own time.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._room = gpu.l2_bytes * gpus.L2_SHARE
        self._moved = 0.0
        self._last: dict[str, float] = {}  # tensor -> bytes that had moved when it was used last

    def launch(self, launch: Launch) -> Traffic:
        """The traffic of a launch; from then on the cache holds what it moved."""
        read = _by_tensor(launch, "read")
        written = _by_tensor(launch, "written")
        touched_read = {key: min(n, _size(launch, key, n)) for key, n in read.items()}
        touched_written = {key: min(n, _size(launch, key, n)) for key, n in written.items()}
        missed = 0.0
        for key, num_bytes in touched_read.items():
            held = 0.0
            if key in self._last:
                since = self._moved - self._last[key]
                held = max(0.0, min(num_bytes, self._room - since))
            missed += num_bytes - held
        device = missed + sum(touched_written.values())
        self._moved += sum(touched_read.values()) + sum(
            n for key, n in touched_written.items() if key not in touched_read
        )
        for key in (*read, *written):
            self._last[key] = self._moved
        all_read = sum(read.values())
        return Traffic(
            read_bytes=all_read,
            written_bytes=sum(written.values()),
            device_bytes=device,
            floor_bytes=sum(touched_read.values()) + sum(touched_written.values()),
            hit_share=1.0 - missed / all_read if all_read else 1.0,
        )


def _by_tensor(launch: Launch, kind: str) -> dict[str, float]:
    totals: dict[str, float] = {}
    for program in launch.programs:
        for key, num_bytes in getattr(program, kind).items():
            totals[key] = totals.get(key, 0.0) + num_bytes * program.share
    return totals


def _size(launch: Launch, key: str, default: float) -> float:
    return float(launch.tensor_bytes.get(key, default))


@dataclass(frozen=True)
class Demand:
    """What one traced program needs. Cycles; ``alone``: of the program without others."""

    share: float
    alone: float
    use: Use
    num_bytes: float
    counts: dict[str, float]


@dataclass(frozen=True)
class LaunchEstimate:
    """One launch.

    Attributes:
        time_s: from its start to its end, and ``gap_s``, the gap to the next one.
        floor_s: its tensors' bytes, each counted once, from device memory, or its products.
        bound: what takes the time: a pipe, "latency", "L2", "device memory" or "start".
        programs: in the grid; ``working``: those that do more than leave at once.
        at_once: programs an SM holds; ``waves``: rounds over all SMs.
        occupancy: warps an SM holds, of those it could.
        instructions: of warps, in all, in millions.
        details: per program that works, on average: cycles alone and occupied, counts.
    """

    kernel: str
    time_s: float
    floor_s: float
    bound: str
    programs: int
    working: float
    warps: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    at_once: int
    occupancy: float
    waves: float
    instructions: float
    read_bytes: float
    written_bytes: float
    device_bytes: float
    flops: float
    gap_s: float = gpus.GRAPH_GAP_S
    notes: tuple[str, ...] = ()
    details: dict[str, float] = field(default_factory=dict)

    @property
    def over_floor(self) -> float:
        return self.time_s / self.floor_s if self.floor_s else float("inf")


def programs_at_once(compiled: Compiled, gpu: Gpu) -> int:
    """Programs that an SM holds; 0: not one."""
    threads = compiled.warps * gpus.WARP
    unit = gpus.REGISTER_UNIT
    of_a_warp = -(-compiled.registers * gpus.WARP // unit) * unit
    by_registers = gpu.registers // (of_a_warp * compiled.warps) if threads else 0
    by_shared = gpu.shared_bytes // (compiled.shared_bytes + gpus.SHARED_RESERVED)
    return min(gpu.programs, gpu.warps // compiled.warps, by_registers, by_shared)


def demand_of(compiled: Compiled, timing: Timing, program: Program) -> Demand:
    """Sum a program's blocks."""
    counts = count_blocks(compiled.structure, program)
    use, alone = Use(), 0.0
    kinds: dict[str, float] = {}
    for index, times in counts.of.items():
        block = timing.blocks[index]
        use.add(block.use, times)
        alone += times * max(block.use.longest_alone(compiled.warps), block.wait_cycles)
        for kind, number in block.counts.items():
            kinds[kind] = kinds.get(kind, 0.0) + times * number
    num_bytes = float(sum(program.read.values()) + sum(program.written.values()))
    alone = max(alone, num_bytes / gpus.L2_BYTES_PER_SM_CYCLE)
    return Demand(program.share, alone, use, num_bytes, kinds)


def estimate_launch(
    launch: Launch, compiled: Compiled, timing: Timing, traffic: Traffic, gpu: Gpu
) -> LaunchEstimate:
    """Put the programs of a launch on the SMs."""
    demands = [demand_of(compiled, timing, program) for program in launch.programs]
    at_once = programs_at_once(compiled, gpu)
    notes = _notes(compiled, timing, at_once)
    cycles, bound = _schedule(demands, max(1, at_once), gpu)
    sm_s = cycles / gpu.clock_hz
    l2_s = traffic.l2_bytes / gpu.l2_bytes_per_s
    device_s = traffic.device_bytes / gpu.copy_bytes_per_s
    busy_s, bound = max((sm_s, bound), (l2_s, "L2"), (device_s, "device memory"))
    start_s = gpus.GRAPH_GAP_S + gpus.RAMP_S
    total = sum(demand.share for demand in demands)
    longest = max(demand.alone for demand in demands)
    works = [demand for demand in demands if demand.alone > 0.1 * longest]
    working = sum(demand.share for demand in works)

    def mean(values: list[float]) -> float:
        return sum(v * d.share for v, d in zip(values, works, strict=True)) / max(working, 1e-9)

    issued = sum(demand.use.issue * demand.share for demand in demands) * gpus.SUB_CORES
    flops = sum(program.flops * program.share for program in launch.programs)
    floor_s = max(traffic.floor_bytes / gpu.copy_bytes_per_s, flops / gpu.tensor_flops_per_s)
    details = {"alone": mean([d.alone for d in works]), "bytes": mean([d.num_bytes for d in works])}
    for name in ("issue", "alu", "fp32", "special", "tensor", "shared"):
        details[name] = mean([getattr(d.use, name) for d in works])
    for name in works[0].counts if works else ():
        details[f"{name} instructions"] = mean([d.counts[name] for d in works])
    return LaunchEstimate(
        kernel=compiled.name,
        time_s=busy_s + start_s,
        floor_s=floor_s,
        bound=bound if busy_s > start_s else "start",
        programs=round(total),
        working=working,
        warps=compiled.warps,
        registers=compiled.registers,
        spill_bytes=compiled.spill_bytes,
        shared_bytes=compiled.shared_bytes,
        at_once=at_once,
        occupancy=at_once * compiled.warps / gpu.warps,
        waves=working / (max(1, at_once) * gpu.sms),
        instructions=issued / 1e6,
        read_bytes=traffic.read_bytes,
        written_bytes=traffic.written_bytes,
        device_bytes=traffic.device_bytes,
        flops=flops,
        notes=notes,
        details=details,
    )


def _schedule(demands: list[Demand], at_once: int, gpu: Gpu) -> tuple[float, str]:
    """Cycles of the longest SM, and what they go to."""
    places = [(0.0, place) for place in range(at_once * gpu.sms)]  # one an SM, then the second
    ends = [0.0] * gpu.sms
    used = [Use() for _ in range(gpu.sms)]
    moved = [0.0] * gpu.sms
    owed = 0.0
    for demand in demands:
        owed += demand.share
        whole = round(owed)
        owed -= whole
        for _ in range(whole):
            free, place = heapq.heappop(places)
            sm = place % gpu.sms
            end = free + demand.alone
            heapq.heappush(places, (end, place))
            ends[sm] = max(ends[sm], end)
            used[sm].add(demand.use)
            moved[sm] += demand.num_bytes
    best = (0.0, "latency")
    for end, use, num_bytes in zip(ends, used, moved, strict=True):
        l2 = (num_bytes / gpus.L2_BYTES_PER_SM_CYCLE, "L2 of one SM")
        best = max(best, (end, "latency"), use.largest(), l2)
    return best


def _notes(compiled: Compiled, timing: Timing, at_once: int) -> tuple[str, ...]:
    notes = []
    if at_once == 0:
        notes.append("does not fit an SM")
    if compiled.spill_bytes:
        notes.append(f"spills {compiled.spill_bytes} bytes a thread")
    if timing.unknown_accesses:
        notes.append(
            f"{timing.unknown_accesses} accesses to shared memory have addresses that were not"
            " followed; no bank conflict is assumed there"
        )
    if compiled.structure.unknown_loops:
        notes.append(
            f"{compiled.structure.unknown_loops} loops of the machine code are not matched with"
            " the source; counted once each time they are entered"
        )
    if timing.not_modelled:
        notes.append("instructions without a model: " + ", ".join(timing.not_modelled))
    return tuple(notes)
