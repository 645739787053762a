"""``prunevid bench estimate``: modelled kernel times, read from compiled code."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from prunevid_kernels.adapters.families import DEFAULT_SIZE

from ..support.terminal import fail


def estimate_command(
    gpu: Annotated[
        str, typer.Option(help="h100, h200, a100, b200 or rtx5090; none has to be here.")
    ] = "h100",
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"Shape of a model; may be repeated.  [default: {DEFAULT_SIZE}]"),
    ] = None,
    frames: Annotated[
        list[int] | None,
        typer.Option(help="Frame count; may be repeated.  [default: the model's own]"),
    ] = None,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32.")] = "bf16",
    work: Annotated[
        list[str] | None,
        typer.Option(help="merge, 'merge, budget', score or compact; repeat.  [default: all]"),
    ] = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option(help="Only kernels with this word in their name; faster.  [default: all]"),
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Cycles and counts of a program of each launch.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """Model the time of every kernel launch from its compiled code; needs no GPU."""
    from ..cost.kernels.cases import real_cases
    from ..cost.kernels.estimate import GPUS, WORKS, estimate, report

    if gpu not in GPUS:
        fail(f"--gpu: must be one of {', '.join(GPUS)}, got {gpu!r}")
    for name in work or ():
        if name not in WORKS:
            fail(f"--work: must be one of {', '.join(WORKS)}, got {name!r}")
    try:
        names = tuple(model or (DEFAULT_SIZE,))
        cases = list(real_cases(names, tuple(frames) if frames else None, (dtype,)))
    except ValueError as error:
        fail(str(error))
    found = []
    for case in cases:
        found += estimate(case, GPUS[gpu], work or WORKS, kernels=kernel)
    if as_json:
        print(json.dumps(report.as_json(found, GPUS[gpu])))
        return
    print(report.as_text(found, GPUS[gpu]))
    if details:
        print(f"\n{report.details(found)}")
