"""Everything that only a GPU can tell, in one command and in the order of its value.

    python -m prunevid_kernels.benchmarks.on_gpu --minutes 8

First what many warps at once can break (races, graphs, waits), then correctness, kernel timings,
the model's times beside measured ones, the end-to-end latency of a model of real size, the vLLM
plugin where vLLM is installed, and compute-sanitizer. Each section has a share of the time and
hands on what it leaves; the results file is rewritten after every row, so that a run that is cut
leaves what it has. ``--dry-run`` takes the same way with tiny shapes, on a CPU under Triton's
interpreter, and times nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prunevid_kernels.adapters.families import FAMILIES

from ..cost.harness import OURS
from ..support.environment import describe, stamp

if TYPE_CHECKING:
    from ..cost.timing import Quantiles
    from .modelled import Estimates

SCHEMA_VERSION = 2
RESULTS = Path(__file__).resolve().parents[1] / "results"

# Section -> the share of the time by whose end it has to stop.
SHARES = {
    "stress": 0.15,
    "correctness": 0.35,
    "kernels": 0.6,
    "modelled": 0.66,
    "end_to_end": 0.78,
    "serving": 0.94,
    "sanitizer": 1.0,
}

# What decides whether the targets are met comes first.
HEADLINE = tuple(family.sizes[0].name for family in FAMILIES.values())
BATCHES = (1, 4, 8)


@dataclass
class Report:
    """The results file under way.

    Attributes:
        path: where it is; every change is written at once, in one step.
        content: what it holds, see ``results/README.md``.
    """

    path: Path
    content: dict[str, Any] = field(default_factory=dict)

    def save(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n")
        os.replace(part, self.path)

    def section(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Run a section: save each of its rows, and how it ended."""
        section: dict[str, Any] = {"status": "running", "reason": None, "seconds": 0.0, "rows": []}
        self.content["sections"][name] = section
        start_s = time.monotonic()
        # The other sections are still of use, and the reason is kept; Ctrl-C ends the run.
        try:
            for row in rows:
                section["rows"].append(row)
                section["seconds"] = round(time.monotonic() - start_s, 3)
                print(_line(name, row), file=sys.stderr, flush=True)
                self.save()
            section["status"] = _status(section["rows"])
        except (ImportError, FileNotFoundError) as error:
            section["status"], section["reason"] = "skipped", str(error)
        except Exception as error:
            section["status"], section["reason"] = "failed", f"{type(error).__name__}: {error}"
        section["seconds"] = round(time.monotonic() - start_s, 3)
        self.save()


def _status(rows: list[dict[str, Any]]) -> str:
    """A section's, from its rows'. What others' variants cannot do is no failure of ours."""
    statuses = {
        row["status"]
        for row in rows
        if row["status"] != "failed" or row.get("variant", OURS).startswith(OURS)
    }
    if statuses & {"failed", "incorrect", "incorrect replay"}:
        return "failed"
    if "cut" in statuses or not rows:
        return "cut"
    return "skipped" if statuses == {"skipped"} else "passed"


def _line(section: str, row: dict[str, Any]) -> str:
    keys = ("group", "benchmark", "tool", "work", "kernel", "name", "variant", "method", "dtype")
    names = (row.get(key) for key in keys)
    case = row.get("case", {}).get("name")
    what = " ".join(str(name) for name in (*names, case) if name)
    if "batch" in row:
        what += f" batch {row['batch']}"
    best = row.get("replay_ms") or row.get("latency_ms") or row.get("first_token_ms")
    time_ms = f" {best['median']:.4f} ms" if best else ""
    if "modelled" in row:
        measured = row["measured_us"]
        time_ms = f" modelled {row['modelled']:.1f} us"
        time_ms += f", measured {measured:.1f} us" if measured else ""
    reason = f" {row['reason'][:200]}" if row.get("reason") else ""
    return f"[{section}] {row['status']:9} {what}{time_ms}{reason}"


class Clock:
    """The time that is left, for all and for each section."""

    def __init__(self, minutes: float) -> None:
        self._start_s = time.monotonic()
        self._total_s = 60 * minutes

    def left_s(self, section: str) -> float:
        """Seconds until the section has to stop."""
        return self._start_s + SHARES[section] * self._total_s - time.monotonic()

    def has_time(self, section: str) -> bool:
        return self.left_s(section) > 0


def correctness_rows(device: torch.device, is_tiny: bool, clock: Clock) -> Iterator[dict[str, Any]]:
    """Checks of every kernel; the golden ones in float32 first, since all stored results are."""
    from .checks import random_checks
    from .golden import golden_checks, require_data

    dtypes = ("fp32",) if is_tiny else ("fp32", "bf16", "fp16")
    checks = random_checks(device, is_tiny=is_tiny)
    try:
        require_data()
    except FileNotFoundError as error:
        yield {"status": "skipped", "group": "golden", "reason": str(error)}
    else:
        golden = (golden_checks(device, dtype, is_tiny=is_tiny) for dtype in dtypes)
        checks = chain(checks, *golden)
    num_left = 0
    for check in checks:
        if clock.has_time("correctness"):
            yield check.record()
        else:
            num_left += 1
    if num_left:
        yield {"status": "cut", "name": "time was up", "reason": f"{num_left} checks were not run"}


def stress_rows(device: torch.device, is_tiny: bool, clock: Clock) -> Iterator[dict[str, Any]]:
    """Races, other orders of warps, waits, graphs, massive channels."""
    from .stress import stress_checks

    num_left = 0
    for check in stress_checks(device, is_tiny=is_tiny):
        if clock.has_time("stress"):
            yield check.record()
        else:
            num_left += 1
    if num_left:
        yield {"status": "cut", "name": "time was up", "reason": f"{num_left} checks were not run"}


def start_estimates(device: torch.device, is_tiny: bool) -> Estimates | None:
    """The model's process, for the published shapes; None: it does not know this GPU."""
    from ..cost.kernels.cases import MODELS, REDUCED, Case
    from .modelled import Estimates, gpu_name

    gpu = gpu_name(device)
    if gpu is None:
        return None
    if is_tiny:
        tiny = Case(REDUCED, REDUCED.frames, "bf16")
        return Estimates([tiny], gpu, sample=2, works=("score", "compact"))
    cases = [Case(MODELS[name], MODELS[name].frames, "bf16") for name in HEADLINE[:3]]
    return Estimates(cases, gpu, sample=24)


def modelled_rows(
    device: torch.device, clock: Clock, estimates: Estimates | None
) -> Iterator[dict[str, Any]]:
    """Modelled beside measured, kernel by kernel."""
    if estimates is not None:
        yield from estimates.rows(device, lambda: clock.left_s("modelled"))
    elif clock.has_time("modelled"):
        yield {"status": "skipped", "reason": "the model knows no such GPU"}
    else:
        yield {"status": "cut", "name": "time was up", "reason": "the model was not run"}


def kernel_rows(
    device: torch.device, is_tiny: bool, clock: Clock, content: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Timings: the published shapes without torch.compile, with it, other frame counts, fp16."""
    from ..cost.ceilings import measure_ceilings
    from ..cost.harness import Settings, measure
    from ..cost.kernels.cases import FRAMES, MODELS, REDUCED, Case
    from ..cost.kernels.stages import stage_benchmarks

    ceilings = None if is_tiny else measure_ceilings(device)
    content["ceilings"] = asdict(ceilings) if ceilings else None
    settings = Settings(is_timed=not is_tiny)
    if is_tiny:
        plan = [(Case(REDUCED, REDUCED.frames, "fp32"), False)]
    else:
        published = [Case(MODELS[name], MODELS[name].frames, "bf16") for name in HEADLINE]
        onevision = MODELS[HEADLINE[0]]
        longer = [Case(onevision, count, "bf16") for count in FRAMES if count != onevision.frames]
        half = [Case(case.model, case.frames, "fp16") for case in published]
        plan = [(case, False) for case in published]
        plan += [(case, True) for case in published[:3]]
        plan += [(case, False) for case in (*longer, *half)]
    for case, is_compiled in plan:
        for benchmark in stage_benchmarks(case, device, with_compile=is_compiled):
            if not clock.has_time("kernels"):
                return
            if is_compiled:  # the others have their rows already; the baseline is for the speedup
                chosen = [v for v in benchmark.variants if v.is_baseline or v.is_compiled]
                benchmark = replace(benchmark, variants=chosen)
            for row in measure(benchmark, device, settings, ceilings):
                if not (is_compiled and row.is_baseline):
                    yield row.to_json()
                if not clock.has_time("kernels"):
                    return


def end_to_end_rows(device: torch.device, is_tiny: bool, clock: Clock) -> Iterator[dict[str, Any]]:
    """Latency of a model of real size, unpruned and pruned, batch after batch."""
    from ..cost.kernels.cases import REDUCED
    from ..cost.latency.rows import LatencySettings, latency_rows
    from ..cost.latency.subjects import load_subject

    if not clock.has_time("end_to_end"):
        return
    dtype = torch.float32 if is_tiny else torch.bfloat16
    subject = load_subject(HEADLINE[0], device, dtype, is_reduced=is_tiny)
    rows = latency_rows(
        subject,
        methods={"prunevid": subject.options("prunevid")},
        frames=(REDUCED.frames if is_tiny else subject.video_model.default_frames,),
        batches=BATCHES[:1] if is_tiny else BATCHES,
        settings=LatencySettings(decode_runs=3, read_runs=3, seconds=8.0, is_timed=not is_tiny),
        has_time=lambda: clock.has_time("end_to_end"),
    )
    for row in rows:
        yield row.to_json() | {"vision_share": vision_share(row.stages)}


def vision_share(stages: Mapping[str, Quantiles] | None) -> float | None:
    """The vision tower's part of the time to the first token; None: not timed."""
    if not stages or "vision" not in stages or "first_token" not in stages:
        return None
    return stages["vision"].median / stages["first_token"].median


def serving_rows(device: torch.device, clock: Clock) -> Iterator[dict[str, Any]]:
    """The vLLM plugin: no waits, graphs kept."""
    from .serving import run_serving

    if device.type != "cuda":
        yield {"status": "skipped", "reason": "no GPU"}
    else:
        yield run_serving(clock.left_s("serving"))


def sanitizer_rows(device: torch.device, clock: Clock) -> Iterator[dict[str, Any]]:
    """Each tool gets half of what is left."""
    from .sanitizer import TOOLS, run_sanitizer

    for position, tool in enumerate(TOOLS):
        if device.type != "cuda":
            yield {"tool": tool, "status": "skipped", "reason": "no GPU"}
        else:
            seconds = clock.left_s("sanitizer") / (len(TOOLS) - position)
            yield run_sanitizer(tool, seconds)


def run(
    device: torch.device, minutes: float, out: Path, commit: str | None, is_dry: bool
) -> Report:
    """All sections; returns the report as it was last saved."""
    environment = describe(device, commit=commit)
    out.mkdir(parents=True, exist_ok=True)
    report = Report(out / f"{'dry-run-' if is_dry else ''}{stamp(environment)}.json")
    report.content = {
        "schema_version": SCHEMA_VERSION,
        "kind": "on_gpu",
        "is_measured": device.type == "cuda" and not is_dry,
        "is_dry_run": is_dry,
        "minutes": minutes,
        "environment": environment,
        "ceilings": None,
        "sections": {},
    }
    report.save()
    # A dry run shows that all of it works, on machines of any speed: it is not cut.
    clock = Clock(60 * minutes if is_dry else minutes)
    estimates = start_estimates(device, is_dry) if clock.has_time("modelled") else None
    sections: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {
        "stress": lambda: stress_rows(device, is_dry, clock),
        "correctness": lambda: correctness_rows(device, is_dry, clock),
        "kernels": lambda: kernel_rows(device, is_dry, clock, report.content),
        "modelled": lambda: modelled_rows(device, clock, estimates),
        "end_to_end": lambda: end_to_end_rows(device, is_dry, clock),
        "serving": lambda: serving_rows(device, clock),
        "sanitizer": lambda: sanitizer_rows(device, clock),
    }
    for name, rows in sections.items():
        report.section(name, rows())
    return report


def summary(report: Report) -> dict[str, Any]:
    """The last line of output: how each section ended, and where the rows are."""
    sections = report.content["sections"]
    return {
        "results": str(report.path),
        "is_measured": report.content["is_measured"],
        "sections": {name: section["status"] for name, section in sections.items()},
        "near_ties": sum(row.get("near_ties", 0) for row in sections["correctness"]["rows"]),
        "environment": report.content["environment"],
    }


def main(arguments: list[str] | None = None) -> int:
    """The command. 0: nothing failed; 1: something did; 2: no GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m prunevid_kernels.benchmarks.on_gpu", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything [8]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results file")
    parser.add_argument("--commit", help="commit of this code, where git does not know it")
    parser.add_argument(
        "--dry-run", action="store_true", help="tiny shapes, nothing timed; works without a GPU"
    )
    parser.add_argument("--sanitize-target", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"--minutes must be more than 0, got {options.minutes}")
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.dry_run:
        print("on_gpu: error: torch sees no GPU; --dry-run works without one", file=sys.stderr)
        return 2
    if not has_gpu:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported
    device = torch.device("cuda" if has_gpu else "cpu")
    if options.sanitize_target:
        from .sanitizer import exercise_kernels

        exercise_kernels(device)
        return 0
    report = run(device, options.minutes, options.out, options.commit, options.dry_run)
    result = summary(report)
    if not report.content["is_measured"]:
        print("dry run: nothing was timed, and this says nothing about a GPU")
    print(json.dumps(result))
    return 1 if "failed" in result["sections"].values() else 0
