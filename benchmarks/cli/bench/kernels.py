"""``prunevid bench kernels``, ``bench cpu``, ``bench tune``: the stages alone, timed and tuned."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from prunevid_kernels.adapters.families import DEFAULT_SIZE

from ...support.terminal import AsJson, FrameCounts, Shapes, fail, print_summary


def bench_kernels_command(
    model: Shapes = None,
    frames: FrameCounts = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="bf16, fp16 or fp32; may be repeated.  [default: bf16]")
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="merge, score or compact; may be repeated.  [default: all]"),
    ] = None,
    with_compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Measure torch.compile as well.")
    ] = True,
    out: Annotated[Path, typer.Option(help="Folder to write tables, JSON and plot to.")] = Path(
        "kernel-benchmarks"
    ),
    as_json: AsJson = None,
) -> None:
    """Time every stage on a GPU; without one, PyTorch on the CPU.

    Each of the stages merge, scoring and compaction beside what it replaces. Without a GPU no
    kernel is timed: the PyTorch variants run on the CPU at reduced shapes, the floors are modelled,
    and the tables say so.
    """
    from ...cost.kernels.bench import NO_GPU, bench_kernels, has_failures
    from ...cost.kernels.stages import STAGES

    try:
        results = bench_kernels(
            models=model or (DEFAULT_SIZE,),
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


def cpu_command(
    model: Shapes = None,
    frames: FrameCounts = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="bf16, fp16 or fp32; may be repeated.  [default: fp32 and bf16]"),
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="merge, score or compact; may be repeated.  [default: merge]"),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Number of timed calls per variant.")] = 15,
    out: Annotated[Path, typer.Option(help="Folder to write table and JSON to.")] = Path(
        "cpu-benchmarks"
    ),
    as_json: AsJson = None,
) -> None:
    """Time the reference on one thread of a CPU.

    It stands beside eager PyTorch and what engines run in place of a merge. Processor time, at the
    models' shapes; each round runs every variant once.
    """
    from ...cost.kernels.on_cpu import bench_cpu, has_failures

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


def tune_command(
    kernel: Annotated[
        list[str] | None, typer.Option(help="Kernel to tune; may be repeated.  [default: all]")
    ] = None,
    by_model: Annotated[
        str | None,
        typer.Option(help="Choose by modelled times for this GPU (h100 ...) instead of measuring."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --by-model: print the choice and write nothing.")
    ] = False,
    as_json: AsJson = None,
) -> None:
    """Search block sizes on this GPU and keep the fastest.

    They are written into the table that the kernels read.
    """
    from ...cost.kernels.tune import CONFIGS, GRIDS, tune

    kernels = tuple(kernel or GRIDS)
    if dry_run and by_model is None:
        fail("--dry-run: only together with --by-model")
    try:
        if by_model is None:
            tune(kernels)
        else:
            from ...cost.kernels.estimate.tune_by_model import tune_by_model

            tune_by_model(by_model, kernels, is_dry=dry_run)
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or CONFIGS}: {error.strerror or error}")
    print_summary({"table": None if dry_run else str(CONFIGS)}, as_json)
