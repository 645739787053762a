"""``prunevid bench estimate``: modelled kernel times, read from compiled code."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from prunevid_kernels.adapters.families import DEFAULT_SIZE

from ...support.terminal import FrameCounts, Shapes, fail

# As the other benchmarks call them -> as the model of times does.
STAGES = {
    "merge": "merge",
    "merge_budget": "merge, budget",
    "score": "score",
    "compact": "compact",
}


def estimate_command(
    gpu: Annotated[
        str,
        typer.Option(
            help="GPU to model: h100, h200, a100, b200 or rtx5090; it need not be present."
        ),
    ] = "h100",
    model: Shapes = None,
    frames: FrameCounts = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="bf16, fp16 or fp32; may be repeated.  [default: bf16]")
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(STAGES)}; may be repeated.  [default: all]"),
    ] = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option(
            help="Only kernels whose name contains this word (faster); may be repeated."
            "  [default: all]"
        ),
    ] = None,
    details: Annotated[
        bool,
        typer.Option(
            "--details", help="Also print cycles and counts for one program of each launch."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Model the time of every kernel launch, without a GPU.

    Times follow from the compiled code; they are not measured.
    """
    from ...cost.kernels.cases import real_cases
    from ...cost.kernels.estimate import GPUS, estimate, report

    if gpu not in GPUS:
        fail(f"--gpu: must be one of {', '.join(GPUS)}, got {gpu!r}")
    for name in stage or ():
        if name not in STAGES:
            fail(f"--stage: must be one of {', '.join(STAGES)}, got {name!r}")
    try:
        names = tuple(model or (DEFAULT_SIZE,))
        cases = list(
            real_cases(names, tuple(frames) if frames else None, tuple(dtype or ("bf16",)))
        )
    except ValueError as error:
        fail(str(error))
    works = [STAGES[name] for name in stage or STAGES]
    found = []
    for case in cases:
        # One piece of work that says nothing until it is done.
        typer.echo(f"{case.name}: tracing and compiling its launches, some minutes ...", err=True)
        found += estimate(case, GPUS[gpu], works, kernels=kernel)
    if as_json:
        print(json.dumps(report.as_json(found, GPUS[gpu])))
        return
    print(report.as_text(found, GPUS[gpu]))
    if details:
        print(f"\n{report.details(found)}")
