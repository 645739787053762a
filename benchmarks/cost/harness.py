"""A benchmark: inputs, variants, exactly one baseline, a check of each result, and a cost.

What is timed is a variant's closure and nothing else; inputs are made before. A variant whose
result fails its check is not timed: its row says so. A variant that cannot run here (memory, a
compiler that is missing) has a row that says that. So a table never has a number of something that
is wrong, and never lacks a line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .ceilings import Ceilings, Cost
from .launches import count_launches
from .timing import (
    KernelTime,
    Quantiles,
    capture,
    peak_memory_bytes,
    profile_kernels,
    rotation,
    time_replays,
    time_runs,
)

Inputs = TypeVar("Inputs")

OURS = "prunevid_kernels"
"""Name of this library's variants, or its beginning."""

KERNELS_LISTED = 16


class IncorrectResultError(Exception):
    """A variant computed something else than the benchmark asks for."""


@dataclass(frozen=True)
class Variant(Generic[Inputs]):
    """One way to do the work.

    Attributes:
        run: the closure that is timed.
        check: raises :class:`IncorrectResultError` for a wrong output.
        is_capturable: it never waits for the device, so a CUDA graph can hold it.
        is_compiled: by ``torch.compile``, whose launches :func:`count_launches` does not see.
        working_bytes: memory that it is known to need beyond its inputs; more than the device has
            left, and it is not run.
        cost: its own, where it does less or other work than the benchmark asks for.
        note: what it is, where its name does not say it.
    """

    name: str
    run: Callable[[Inputs], Any]
    check: Callable[[Inputs, Any], None]
    is_baseline: bool = False
    is_capturable: bool = False
    is_compiled: bool = False
    working_bytes: int = 0
    cost: Cost | None = None
    note: str | None = None


@dataclass(frozen=True)
class Benchmark(Generic[Inputs]):
    """The same work in several ways.

    Attributes:
        name: of the stage.
        case: what is worked on, as it goes into results files.
        make_inputs: a seed -> inputs on the device.
        input_bytes: size of one set of inputs.
        cost: the least that the work needs.

    Raises:
        ValueError: not exactly one baseline, or two variants of one name.
    """

    name: str
    case: dict[str, Any]
    make_inputs: Callable[[int], Inputs]
    input_bytes: int
    variants: Sequence[Variant[Inputs]]
    cost: Cost

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise ValueError(f"variants of {self.name} must have different names, got {names}")
        baselines = [variant.name for variant in self.variants if variant.is_baseline]
        if len(baselines) != 1:
            raise ValueError(f"{self.name} must have exactly one baseline, got {baselines}")


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        warmups, runs: calls before and while timing; fewer runs, but 5 at least, for a variant that
            would take longer than ``seconds_per_variant``.
        is_timed: False checks every variant and times none.
    """

    warmups: int = 10
    runs: int = 50
    seconds_per_variant: float = 8.0
    is_timed: bool = True


@dataclass
class VariantResult:
    """One variant's line.

    Attributes:
        status: ``"ok"``; ``"incorrect"`` (its check failed: no numbers); ``"incorrect replay"``
            (calls are right, replays of the graph are not: no ``replay_ms``); ``"failed"`` (it
            could not run); ``"not run"`` (too little memory); ``"not timed"`` (its check passed).
            ``reason`` says more.
        note: what the variant is, where its name does not say it.
        cold_ms: wall clock of the very first call, compilation included, if anything is timed.
        latency_ms: of a call as a program makes it, host work included.
        replay_ms: of a call in the replay of a CUDA graph; None where it cannot be captured.
        floor_ms: the modelled floor at ``Ceilings``; ``over_floor`` the best time divided by it.
        speedup: the baseline's best time divided by this one's.
        launches: see :class:`.launches.LaunchCounts`; None for compiled
            variants.
        kernels: the :data:`KERNELS_LISTED` slowest kernels of a call, by the profiler;
            ``kernel_launches`` and ``kernels_us`` the sums over all of them. GPU only.
    """

    benchmark: str
    case: dict[str, Any]
    variant: str
    is_baseline: bool
    device: str
    status: str = "not timed"
    reason: str | None = None
    note: str | None = None
    runs: int = 0
    input_sets: int = 0
    cold_ms: float | None = None
    latency_ms: Quantiles | None = None
    replay_ms: Quantiles | None = None
    replay_reason: str | None = None
    num_bytes: float = 0.0
    flops: float = 0.0
    floor_ms: float | None = None
    over_floor: float | None = None
    gigabytes_per_s: float | None = None
    teraflops_per_s: float | None = None
    speedup: float | None = None
    peak_memory_bytes: int | None = None
    launches: dict[str, int] | None = None
    kernel_launches: float | None = None
    kernels_us: float | None = None
    kernels: list[KernelTime] = field(default_factory=list)

    @property
    def best_ms(self) -> float | None:
        """The replay's median where there is one, else the call's."""
        best = self.replay_ms or self.latency_ms
        return best.median if best else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    benchmark: Benchmark[Inputs],
    device: torch.device,
    settings: Settings,
    ceilings: Ceilings | None,
) -> Iterator[VariantResult]:
    """Check and time the variants, baseline first; yields each row as it is done."""
    sets = rotation(benchmark.input_bytes, device) if settings.is_timed else 1
    inputs = [benchmark.make_inputs(seed) for seed in range(sets)]
    baseline_ms = None
    for variant in sorted(benchmark.variants, key=lambda variant: not variant.is_baseline):
        row = VariantResult(
            benchmark.name, benchmark.case, variant.name, variant.is_baseline, str(device.type)
        )
        row.note = variant.note
        cost = variant.cost or benchmark.cost
        row.num_bytes, row.flops = cost.num_bytes, cost.flops
        # The error is the row: the other variants are still of use, and the caller sees the status.
        try:
            _measure_variant(row, variant, inputs, device, settings)
        except IncorrectResultError as error:
            row.status, row.reason = "incorrect", str(error)
        except MemoryError as error:
            row.status, row.reason = "not run", str(error)
        except Exception as error:
            row.status, row.reason = "failed", _one_line(error)
        if row.status in ("incorrect", "failed", "not run"):
            row.cold_ms = row.latency_ms = row.replay_ms = None
        if variant.is_baseline:
            baseline_ms = row.best_ms
        _derive(row, cost, ceilings, baseline_ms)
        yield row


def _measure_variant(
    row: VariantResult,
    variant: Variant[Inputs],
    inputs: Sequence[Inputs],
    device: torch.device,
    settings: Settings,
) -> None:
    _require_memory(variant.working_bytes, device)
    start_s = time.perf_counter()
    output = variant.run(inputs[0])
    _synchronize(device)
    if settings.is_timed:
        row.cold_ms = 1000 * (time.perf_counter() - start_s)
    variant.check(inputs[0], output)
    if not variant.is_compiled:
        counts = count_launches(partial(variant.run, inputs[0]), device, _tensors(inputs[0]))
        row.launches = asdict(counts)
    if not settings.is_timed:
        return

    start_s = time.perf_counter()
    output = variant.run(inputs[0])
    _synchronize(device)
    seconds = time.perf_counter() - start_s
    del output
    affordable = int(settings.seconds_per_variant / max(seconds, 1e-9))
    runs = max(5, min(settings.runs, affordable))
    warmups = min(settings.warmups, runs)
    works = [partial(variant.run, item) for item in inputs[:runs]]
    row.runs, row.input_sets = runs, len(works)
    row.latency_ms = Quantiles.of(time_runs(works, device, warmups=warmups, runs=runs))
    row.peak_memory_bytes = peak_memory_bytes(works[0], device)
    kernels = profile_kernels(works[0], device)
    if kernels:
        row.kernel_launches = sum(kernel.launches for kernel in kernels)
        row.kernels_us = sum(kernel.time_us for kernel in kernels)
        row.kernels = kernels[:KERNELS_LISTED]
    row.status = "ok"
    if not variant.is_capturable:
        row.replay_reason = "it waits for the device"
    elif device.type != "cuda":
        row.replay_reason = "no GPU"
    else:
        _measure_replays(row, variant, inputs[:runs], device, warmups, runs)


def _measure_replays(
    row: VariantResult,
    variant: Variant[Inputs],
    inputs: Sequence[Inputs],
    device: torch.device,
    warmups: int,
    runs: int,
) -> None:
    """What goes wrong here costs the replay's number only, and is written down."""
    works = [partial(variant.run, item) for item in inputs]
    try:
        graph, outputs = capture(works)
    except RuntimeError as error:
        row.replay_reason = f"capture failed: {_one_line(error)}"
        torch.cuda.synchronize(device)
        return
    graph.replay()
    torch.cuda.synchronize(device)
    try:
        for position in (0, -1):
            variant.check(inputs[position], outputs[position])
    except IncorrectResultError as error:
        row.status, row.reason = "incorrect replay", str(error)
        return
    replays_ms = time_replays(graph, len(works), device, warmups=warmups, runs=runs)
    row.replay_ms = Quantiles.of(replays_ms)


def _derive(
    row: VariantResult, cost: Cost, ceilings: Ceilings | None, baseline_ms: float | None
) -> None:
    """The numbers that follow from others."""
    if ceilings is not None:
        row.floor_ms = cost.floor_ms(ceilings)
    best_ms = row.best_ms
    if best_ms is None:
        return
    row.gigabytes_per_s = cost.num_bytes / best_ms / 1e6
    row.teraflops_per_s = cost.flops / best_ms / 1e9
    if row.floor_ms:
        row.over_floor = best_ms / row.floor_ms
    if baseline_ms is not None:
        row.speedup = baseline_ms / best_ms


def _require_memory(working_bytes: int, device: torch.device) -> None:
    if device.type != "cuda" or not working_bytes:
        return
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0]
    if working_bytes > free:
        raise MemoryError(f"needs {working_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")


def _tensors(inputs: object) -> list[Tensor]:
    """The tensors in one set of inputs: itself, or a dataclass's fields."""
    if is_dataclass(inputs):
        inputs = [getattr(inputs, item.name) for item in fields(inputs)]
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
