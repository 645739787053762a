"""How a closure is timed: events on a GPU, the wall clock on a CPU, rotating inputs, graph replay.

The caller hands over closures that differ in their inputs alone and together read more than the
second-level cache holds, so that no run finds its inputs there. On a GPU two times exist, and both
are of use: of a *call*, with whatever the host needs to launch it, and of a *replay*, which is what
the device needs: one CUDA graph holds a call on each set of inputs, and its time is divided by
their number. Before replays the device is kept busy for a moment, so that the host is ahead of it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Work = Callable[[], object]


@dataclass(frozen=True)
class Quantiles:
    """Milliseconds over all runs."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values_ms: Sequence[float]) -> Quantiles:
        """Of at least two values."""
        tenths = statistics.quantiles(values_ms, n=10, method="inclusive")
        return cls(statistics.median(values_ms), tenths[0], tenths[8])


def time_runs(
    works: Sequence[Work], device: torch.device, *, warmups: int, runs: int
) -> list[float]:
    """Milliseconds of each of ``runs`` calls, taking turns through ``works``.

    Every work is called at least once before, whatever ``warmups``.
    """
    for index in range(max(warmups, len(works))):
        works[index % len(works)]()
    if device.type != "cuda":
        times_ms = []
        for index in range(runs):
            start_s = time.perf_counter()
            works[index % len(works)]()
            times_ms.append(1000 * (time.perf_counter() - start_s))
        return times_ms
    torch.cuda.synchronize(device)
    return _time_on_gpu([works[index % len(works)] for index in range(runs)], device)


def time_replays(
    graph: torch.cuda.CUDAGraph, calls: int, device: torch.device, *, warmups: int, runs: int
) -> list[float]:
    """Milliseconds a call in each of ``runs`` replays of a graph of ``calls`` calls."""
    for _ in range(warmups):
        graph.replay()
    torch.cuda.synchronize(device)
    _keep_busy(device)
    return [replay_ms / calls for replay_ms in _time_on_gpu([graph.replay] * runs, device)]


def _time_on_gpu(works: Sequence[Work], device: torch.device) -> list[float]:
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in works]
    for work, (start, stop) in zip(works, events, strict=True):
        start.record()
        work()
        stop.record()
    torch.cuda.synchronize(device)
    return [start.elapsed_time(stop) for start, stop in events]


def _keep_busy(device: torch.device) -> None:
    """Some milliseconds of work for the device; the host does not wait for it."""
    scratch = torch.empty(2**28, dtype=torch.int8, device=device)
    for value in range(64):
        scratch.fill_(value)


def capture(works: Sequence[Work]) -> tuple[torch.cuda.CUDAGraph, list[object]]:
    """Capture one call of each work, one after the other, in one CUDA graph.

    Returns:
        The graph, and the outputs that each replay fills anew.

    Raises:
        RuntimeError: a call waits for the device or allocates in a way that cannot be captured.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles kernels and fills caches, which capture forbids
        for work in works:
            work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = [work() for work in works]
    return graph, outputs


def peak_memory_bytes(work: Work, device: torch.device) -> int | None:
    """Most memory that one call holds beyond its inputs, outputs included; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    output = work()
    torch.cuda.synchronize(device)
    del output
    return torch.cuda.max_memory_allocated(device) - before


@dataclass(frozen=True)
class KernelTime:
    """What one call spends in the launches of one kernel, or in copies of one kind."""

    name: str
    launches: float
    time_us: float


def profile_kernels(work: Work, device: torch.device, *, runs: int = 5) -> list[KernelTime]:
    """Launches and device time in one call of each GPU kernel, slowest first; empty on a CPU."""
    if device.type != "cuda":
        return []
    work()
    torch.cuda.synchronize(device)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(runs):
            work()
        torch.cuda.synchronize(device)
    totals: dict[str, tuple[int, float]] = {}
    for event in profile.events() or ():
        # Compiled functions mark whole regions, which would count their kernels twice.
        if event.device_type.name == "CUDA" and not event.is_user_annotation:
            count, time_us = totals.get(event.name, (0, 0.0))
            totals[event.name] = count + 1, time_us + event.time_range.elapsed_us()
    kernels = [
        KernelTime(name, count / runs, time_us / runs) for name, (count, time_us) in totals.items()
    ]
    return sorted(kernels, key=lambda kernel: -kernel.time_us)


def rotation(input_bytes: int, device: torch.device) -> int:
    """How many sets of inputs to rotate through, so that they are four times the second-level cache
    (of a CPU: two sets)."""
    if device.type != "cuda":
        return 2
    cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size
    return min(64, max(2, math.ceil(4 * cache_bytes / max(1, input_bytes))))


def num_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes that the tensors' elements take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
