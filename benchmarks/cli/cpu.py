"""``prunevid bench cpu``: the reference beside what others run, on one thread."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from prunevid_kernels.adapters.families import DEFAULT_SIZE

from ..support.terminal import AsJson, fail, print_summary


def cpu_command(
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"Shape of a model; may be repeated.  [default: {DEFAULT_SIZE}]"),
    ] = None,
    frames: Annotated[
        list[int] | None,
        typer.Option(help="Frame count; may be repeated.  [default: each model's own]"),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="bf16, fp16 or fp32; may be repeated.  [default: fp32 and bf16]"),
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="merge, score or compact; may be repeated.  [default: merge]"),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Timed calls of each variant.")] = 15,
    out: Annotated[Path, typer.Option(help="Folder for table and JSON.")] = Path("cpu-benchmarks"),
    as_json: AsJson = False,
) -> None:
    """Time the reference beside eager PyTorch and the engines' pruning, on one thread of a CPU.

    Processor time, at the models' shapes; each round runs every variant once.
    """
    from ..cost.kernels.on_cpu import bench_cpu, has_failures

    try:
        results = bench_cpu(
            models=model or (DEFAULT_SIZE,),
            frames=frames,
            dtypes=dtype or ("fp32", "bf16"),
            stages=stage or ("merge",),
            rounds=rounds,
            out=out,
            progress=lambda line: print(line, file=sys.stderr),
        )
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"--out: {error.filename or out}: {error.strerror or error}")
    print((out / "cpu.md").read_text())
    keys = ("kind", "environment")
    found = {"results": str(out / "cpu.json")} | {key: results[key] for key in keys}
    print_summary(found, as_json)
    if has_failures(results):
        raise typer.Exit(1)
