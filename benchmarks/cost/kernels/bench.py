"""``prunevid bench kernels``: each stage at the models' shapes, ours beside what it replaces.

On a GPU every row is measured there. Without one the torch variants run on the CPU at reduced
shapes, this library's reference among them, which says whether they work and nothing about a GPU:
no row is held against a floor and nothing is drawn. The floors of the real shapes are printed with
the data sheet's rates; ``prunevid bench estimate`` models the kernels' times. (``prunevid bench
cpu`` measures a CPU for its own sake.) The results go to ``kernels.json``, ``kernels.md`` and, on a
GPU, ``kernels.png`` in one folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...support.environment import describe
from ..ceilings import H200_DATASHEET, Ceilings, Cost, measure_ceilings
from ..harness import OURS, Settings, VariantResult, measure
from .cases import MODELS, REDUCED, Case, real_cases
from .costs import GroupTokens, compact_cost, merge_cost, score_cost
from .report import floors_markdown, kernels_markdown, plot
from .stages import STAGES, stage_benchmarks

SCHEMA_VERSION = 1
NO_GPU = (
    "No GPU here: the torch variants ran on the CPU at reduced shapes. No time below says anything"
    " about a GPU; the floors are a model, at rates from a data sheet. `prunevid bench estimate`"
    " models the time of each of our kernels on a GPU."
)


def bench_kernels(
    *,
    models: Sequence[str] = tuple(MODELS),
    frames: Sequence[int] | None = None,
    dtypes: Sequence[str] = ("bf16",),
    stages: Sequence[str] = STAGES,
    with_compile: bool = True,
    settings: Settings | None = None,
    out: Path = Path("kernel-benchmarks"),
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure, write the three files, and return what ``kernels.json`` holds.

    Args:
        models, dtypes, stages: names of :data:`.cases.MODELS`, :data:`.cases.DTYPES` and
            :data:`.stages.STAGES`.
        frames: frame counts; default each model's published one.
        with_compile: measure under torch.compile too, which takes a minute or two a case.
        settings: default 10 warm-ups, 50 runs; on a CPU fewer.
        out: folder for the files.
        progress: gets a line for each row.

    Raises:
        ValueError: an unknown name, or a frame count below 1.
    """
    cases = list(real_cases(tuple(models), tuple(frames) if frames else None, tuple(dtypes)))
    for stage in stages:
        if stage not in STAGES:
            raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {stage!r}")
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    settings = settings or (Settings() if on_gpu else Settings(3, 10, 2.0))
    run_cases = cases if on_gpu else [Case(REDUCED, REDUCED.frames, name) for name in dtypes]
    # A CPU's time beside a floor that is a GPU's would be no quotient of anything.
    ceilings = measure_ceilings(device) if on_gpu else None
    rows: list[VariantResult] = []
    for case in run_cases:
        for benchmark in stage_benchmarks(
            case,
            device,
            stages=tuple(stages),
            ours="triton" if on_gpu else "reference",
            with_compile=with_compile,
        ):
            for row in measure(benchmark, device, settings, ceilings):
                rows.append(row)
                progress(summary_line(row))

    floor_ceilings = ceilings or H200_DATASHEET
    floors = modelled_floors(cases, tuple(stages))
    results = {
        "schema_version": SCHEMA_VERSION,
        "kind": "kernels",
        "is_gpu": on_gpu,
        "environment": describe(device),
        "ceilings": asdict(ceilings) if ceilings else None,
        "floor_ceilings": asdict(floor_ceilings),
        "floors": [{"case": case, **asdict(cost)} for case, cost in floors],
        "rows": [row.to_json() for row in rows],
    }
    _write(results, rows, floors, ceilings, floor_ceilings, out)
    return results


def modelled_floors(cases: Sequence[Case], stages: Sequence[str]) -> list[tuple[str, Cost]]:
    """What each stage of each case needs at least, from the shapes alone.

    The merge's group sizes hang on the data; here every segment has six frames, with 35% of the
    places static, and 0.4 of the tokens are left.
    """
    floors = []
    for case in cases:
        costs = {
            "merge": merge_cost(case, case.merged_tokens, GroupTokens.expected(case)),
            "score": score_cost(case),
            "compact": compact_cost(case),
        }
        floors += [(case.name, costs[stage]) for stage in stages]
    return floors


def summary_line(row: VariantResult) -> str:
    """One row in one line, for the screen."""
    what = f"{row.benchmark:8} {row.case['name']:38} {row.variant:36}"
    if row.best_ms is None:
        return f"{what} {row.status}{f': {row.reason}' if row.reason else ''}"
    over = f", {row.over_floor:.1f} x floor" if row.over_floor else ""
    bad = "" if row.status == "ok" else f"  {row.status}: {row.reason}"
    return f"{what} {row.best_ms:10.4f} ms{over}{bad}"


def has_failures(results: dict[str, Any]) -> bool:
    """Whether a row's result was wrong, or one of this library's own kernels could not run."""
    return any(
        row["status"].startswith("incorrect")
        or (row["status"] == "failed" and row["variant"].startswith(OURS))
        for row in results["rows"]
    )


def _write(
    results: dict[str, Any],
    rows: Sequence[VariantResult],
    floors: Sequence[tuple[str, Cost]],
    ceilings: Ceilings | None,
    floor_ceilings: Ceilings,
    out: Path,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "kernels.json").write_text(json.dumps(results, indent=1) + "\n")
    environment = results["environment"]
    device = environment["gpu"]["name"] if results["is_gpu"] else "CPU, reduced shapes"
    head = f"# Kernel benchmarks: {device}\n\n"
    if not results["is_gpu"]:
        head += f"{NO_GPU}\n\n"
    stamp = f"`{json.dumps(environment)}`\n\n"
    text = head + stamp + kernels_markdown(rows) + "\n" + floors_markdown(floors, floor_ceilings)
    (out / "kernels.md").write_text(text)
    title = f"prunevid_kernels on {device}, commit {(environment['commit'] or 'unknown')[:10]}"
    if ceilings is not None and any(row.best_ms is not None for row in rows):
        plot(rows, ceilings, out / "kernels.png", title=title)
