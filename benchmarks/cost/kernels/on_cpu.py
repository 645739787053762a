"""``prunevid bench cpu``: this library's reference beside what others run, on one thread of a CPU.

Where there is no GPU the reference is what runs, so it is measured for its own sake, at the models'
shapes. What is timed is processor time of this process, which other programs on the machine
disturb less than the wall clock; every round runs each variant once, so that a slow minute hits all
of them. A variant whose result fails its check has a row without a time. The results go to
``cpu.json`` and ``cpu.md`` in one folder. Compiled variants are left out: they are as fast as the
C++ compiler that happens to be installed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ...support.environment import describe
from ..harness import OURS, Benchmark, IncorrectResultError
from ..timing import Quantiles
from .cases import real_cases
from .stages import stage_benchmarks

SCHEMA_VERSION = 1
ROUNDS = 15


@dataclass
class CpuRow:
    """One variant's line.

    Attributes:
        status: ``"ok"``, or ``"incorrect"``: its check failed, ``reason`` says how.
        note: what the variant is, where its name does not say it.
        rounds: timed calls.
        cpu_ms: processor time of a call, user and system.
        speedup: the baseline's median divided by this one's.
    """

    benchmark: str
    case: dict[str, Any]
    variant: str
    is_baseline: bool
    note: str | None
    status: str = "ok"
    reason: str | None = None
    rounds: int = 0
    cpu_ms: Quantiles | None = None
    speedup: float | None = None


def bench_cpu(
    *,
    models: Sequence[str],
    dtypes: Sequence[str],
    frames: Sequence[int] | None = None,
    stages: Sequence[str] = ("merge",),
    rounds: int = ROUNDS,
    out: Path = Path("cpu-benchmarks"),
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure, write the two files, and return what ``cpu.json`` holds.

    Args:
        models: names of :data:`.cases.MODELS`.
        dtypes: names of :data:`.cases.DTYPES`.
        frames: frame counts; default each model's published one.
        stages: names of :data:`.stages.STAGES`.
        rounds: timed calls of each variant, 2 at least.
        out: folder for the files.
        progress: gets a line for each row.

    Raises:
        ValueError: an unknown name, a frame count below 1, or fewer than 2 rounds.
    """
    if rounds < 2:
        raise ValueError(f"rounds must be at least 2, got {rounds}")
    cases = list(real_cases(tuple(models), tuple(frames) if frames else None, tuple(dtypes)))
    device = torch.device("cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[CpuRow] = []
    try:
        environment = describe(device)
        for case in cases:
            for benchmark in stage_benchmarks(
                case, device, stages=tuple(stages), ours="reference", with_compile=False
            ):
                for row in measure_interleaved(benchmark, rounds):
                    rows.append(row)
                    progress(_summary(row))
    finally:
        torch.set_num_threads(threads)
    results = {
        "schema_version": SCHEMA_VERSION,
        "kind": "cpu",
        "environment": environment,
        "rows": [asdict(row) for row in rows],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "cpu.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "cpu.md").write_text(cpu_table(results))
    return results


def measure_interleaved(benchmark: Benchmark[Any], rounds: int) -> Iterator[CpuRow]:
    """Check every variant, then time those that are right, in turns; baseline first."""
    inputs = benchmark.make_inputs(0)
    variants = sorted(benchmark.variants, key=lambda variant: not variant.is_baseline)
    rows = [CpuRow(benchmark.name, benchmark.case, v.name, v.is_baseline, v.note) for v in variants]
    for variant, row in zip(variants, rows, strict=True):
        try:
            variant.check(inputs, variant.run(inputs))
        except IncorrectResultError as error:
            row.status, row.reason = "incorrect", str(error)
    right = [pair for pair in zip(variants, rows, strict=True) if pair[1].status == "ok"]
    times_ms: dict[str, list[float]] = {variant.name: [] for variant, _ in right}
    for _ in range(rounds):
        for variant, _ in right:
            start_s = time.process_time()
            output = variant.run(inputs)
            times_ms[variant.name].append(1000 * (time.process_time() - start_s))
            del output
    for variant, row in right:
        row.rounds, row.cpu_ms = rounds, Quantiles.of(times_ms[variant.name])
        if rows[0].cpu_ms is not None:
            row.speedup = rows[0].cpu_ms.median / row.cpu_ms.median
    yield from rows


def has_failures(results: dict[str, Any]) -> bool:
    """Whether a variant's result was wrong."""
    return any(row["status"] != "ok" for row in results["rows"])


def cpu_table(results: dict[str, Any]) -> str:
    """Markdown: what the numbers are from, and a line a row."""
    environment = results["environment"]
    commit, torch_version = environment["commit"] or "unknown", environment["packages"]["torch"]
    lines = [
        f"One thread of {environment['cpu'] or 'an unknown processor'}, processor time,"
        f" {environment['date'][:10]}, commit `{commit[:10]}`, torch {torch_version}.",
        "",
        "| stage | case | variant | ms (p10 - p90) | speedup | |",
        "|---|---|---|---:|---:|---|",
    ]
    for row in results["rows"]:
        name = row["variant"] + (" (baseline)" if row["is_baseline"] else "")
        name = f"**{name}**" if name.startswith(OURS) else name
        texts = [] if row["status"] == "ok" else [f"**{row['status']}**", row["reason"]]
        note = "; ".join([*texts, *filter(None, [row["note"]])])
        time_ms, speedup = "-", "-"
        if row["cpu_ms"]:
            time_ms = "{median:.1f} ({p10:.1f} - {p90:.1f})".format(**row["cpu_ms"])
            speedup = f"{row['speedup']:.2f}" if row["speedup"] else "-"
        cells = [row["benchmark"], row["case"]["name"], name, time_ms, speedup, note]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _summary(row: CpuRow) -> str:
    what = f"{row.benchmark:8} {row.case['name']:38} {row.variant:36}"
    return f"{what} {row.cpu_ms.median:10.1f} ms" if row.cpu_ms else f"{what} {row.reason}"
