"""``prunevid bench kernels`` and ``prunevid bench tune``: the kernels alone, timed and tuned."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..support.terminal import AsJson, fail, print_summary


def bench_kernels_command(
    model: Annotated[
        list[str] | None, typer.Option(help="Shape of a model; may be repeated.  [default: all]")
    ] = None,
    frames: Annotated[
        list[int] | None,
        typer.Option(help="Frame count; may be repeated.  [default: each model's own]"),
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="bf16, fp16 or fp32; may be repeated.  [default: bf16]")
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="merge, score or compact; may be repeated.  [default: all]"),
    ] = None,
    with_compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Measure under torch.compile as well.")
    ] = True,
    out: Annotated[Path, typer.Option(help="Folder for tables, JSON and plot.")] = Path(
        "kernel-benchmarks"
    ),
    as_json: AsJson = False,
) -> None:
    """Time merge, scoring and compaction beside what they replace; needs a GPU to mean something.

    Without one the torch variants run on the CPU at reduced shapes, and the floors are modelled.
    """
    from ..cost.kernels.bench import NO_GPU, bench_kernels, has_failures
    from ..cost.kernels.cases import MODELS
    from ..cost.kernels.stages import STAGES

    try:
        results = bench_kernels(
            models=model or tuple(MODELS),
            frames=frames,
            dtypes=dtype or ("bf16",),
            stages=stage or STAGES,
            with_compile=with_compile,
            out=out,
            progress=lambda line: print(line, file=sys.stderr),
        )
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"--out: {error.filename or out}: {error.strerror or error}")
    print((out / "kernels.md").read_text())
    if not results["is_gpu"]:
        print(NO_GPU, file=sys.stderr)
    keys = ("kind", "is_gpu", "environment")
    found = {"results": str(out / "kernels.json")} | {key: results[key] for key in keys}
    print_summary(found, as_json)
    if has_failures(results):
        raise typer.Exit(1)


def tune_command(
    kernel: Annotated[
        list[str] | None, typer.Option(help="May be repeated.  [default: every kernel]")
    ] = None,
    by_model: Annotated[
        str | None,
        typer.Option(help="Do not measure: choose by the modelled times of this GPU (h100 ...)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --by-model: print the choice, write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search block sizes on this GPU and write the fastest into the table that the kernels read."""
    from ..cost.kernels.tune import CONFIGS, GRIDS, tune

    kernels = tuple(kernel or GRIDS)
    if dry_run and by_model is None:
        fail("--dry-run: only together with --by-model")
    try:
        if by_model is None:
            tune(kernels)
        else:
            from ..cost.kernels.estimate.tune_by_model import tune_by_model

            tune_by_model(by_model, kernels, is_dry=dry_run)
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or CONFIGS}: {error.strerror or error}")
    print_summary({"table": None if dry_run else str(CONFIGS)}, as_json)
