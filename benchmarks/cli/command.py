"""The command ``prunevid``: arguments in, exit codes and streams out, nothing else.

Progress goes to stderr and results to stdout, whose last line is JSON. What the user can put right
(a file, an option) ends in one line on stderr and exit code 2; anything else is a bug and may show
its traceback.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from prunevid_kernels import __version__

from ..support.terminal import fail
from .cpu import cpu_command
from .estimate import estimate_command
from .evaluate import eval_app
from .flops import flops_command
from .latency import latency_command
from .models import models_app
from .report import report_command
from .serve import serve_command
from .train_tiny import train_tiny_command

if TYPE_CHECKING:
    from ..run.run import RunResult

app = typer.Typer(
    name="prunevid",
    help="Prune the visual tokens of video language models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(
    help="Measure kernels, models and servers.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(bench, name="bench")
bench.command("cpu")(cpu_command)
bench.command("latency")(latency_command)
bench.command("estimate")(estimate_command)
bench.command("serve")(serve_command)
app.add_typer(eval_app, name="eval")
app.add_typer(models_app, name="models")
app.command("report")(report_command)
app.command("flops")(flops_command)
app.command("train-tiny")(train_tiny_command)
_console = Console(stderr=True, highlight=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"prunevid {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Prune the visual tokens of video language models."""


@app.command("run")
def run_command(
    video: Annotated[
        Path | None,
        typer.Option(help="Video file, or folder of png/jpg frames.  [default: a sample clip]"),
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="What to ask; needed together with --video.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Folder of LLaVA-OneVision, PLLaVA or ST-LLM.  [default: an embedded one]"
        ),
    ] = None,
    lora_alpha: Annotated[
        float | None,
        typer.Option(help="Of a PLLaVA checkpoint whose LoRA is not merged; 14 in the paper."),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames to sample.  [default: the model's own]")
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(help="FILE.json or key=value, such as keep_ratio=0.3; may be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("prunevid-report"),
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 16,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1 ...; auto takes a GPU where there is one.")
    ] = "auto",
) -> None:
    """Prune one video for one question, answer it, and write a report that shows what happened."""
    if out.exists() and not out.is_dir():
        fail(f"--out: {out} is not a folder")
    # Imported here and not above: transformers takes seconds, and --help should not.
    with _console.status("Starting ..."):
        from prunevid_kernels.adapters.families.video_model import ModelError, silence_transformers
        from prunevid_kernels.adapters.video.reader import VideoError

        from ..run.page import write_report
        from ..run.run import InputError, RunRequest, prepare, run

        silence_transformers()
    request = RunRequest(
        video=video,
        question=question,
        model=model,
        lora_alpha=lora_alpha,
        frames=frames,
        config=tuple(config or ()),
        max_new_tokens=max_new_tokens,
        device=device,
    )
    try:
        with _progress("Reading video and model"):
            inputs = prepare(request)
        result = run(inputs, _progress)
        with _progress("Drawing the report"):
            path = write_report(result, out)
    except (InputError, ModelError, VideoError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"--out: {error.filename or out}: {error.strerror or error}")
    _print_result(result, path)


@bench.command("kernels")
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
    print(json.dumps({"results": str(out / "kernels.json")} | {key: results[key] for key in keys}))
    if has_failures(results):
        raise typer.Exit(1)


@bench.command("tune")
def tune_command(
    kernel: Annotated[
        list[str] | None, typer.Option(help="May be repeated.  [default: every kernel]")
    ] = None,
) -> None:
    """Search block sizes on this GPU and write the fastest into the table that the kernels read."""
    from ..cost.kernels.tune import CONFIGS, GRIDS, tune

    try:
        tune(tuple(kernel or GRIDS))
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or CONFIGS}: {error.strerror or error}")
    print(json.dumps({"table": str(CONFIGS)}))


def main() -> None:
    """The console script."""
    app()


def _print_result(result: RunResult, report: Path) -> None:
    counts, model = result.counts, result.inputs.model
    taken, total = counts.frames, result.inputs.video.total_frames
    which = f"all {taken} frames" if taken == total else f"{taken} of {total} frames"
    visual, merged, kept = counts.visual_tokens, counts.merged_tokens, counts.kept_tokens
    where = "" if counts.layer is None else f", after layer {counts.layer} of {counts.num_layers}"
    print(f"model          {model.name}")
    if model.limits:
        print(f"               {model.limits}")
    print(f"video          {result.inputs.video.source} ({which}, {counts.segments} segments)")
    print(f"question       {result.inputs.question}")
    print(f"answer         {result.answer}")
    print(f"unpruned       {result.dense_answer}")
    print(
        f"visual tokens  {visual} -> {merged} merged ({merged / visual:.1%})"
        f" -> {kept} kept ({kept / visual:.1%}{where})"
    )
    if kept == visual:
        print("               WARNING: nothing was pruned with this config")
    print(
        f"FLOPs          {result.flops_ratio_exact:.3f}x of the unpruned prompt"
        f" ({result.flops_ratio_paper:.3f}x by the paper's formula)"
    )
    for stage, seconds in result.seconds.items():
        dense = result.dense_seconds.get(stage)
        beside = "" if dense is None else f"   (unpruned {dense:.3f} s)"
        print(f"  {stage:<28}{seconds:8.3f} s{beside}")
    print(f"report         {report}")
    print(json.dumps(result.summary() | {"report": str(report)}))


@contextmanager
def _progress(text: str) -> Iterator[None]:
    """A spinner while the block runs; a line with its time once it is done."""
    start = time.perf_counter()
    with _console.status(f"{text} ..."):
        yield
    _console.print(f"{text}: {time.perf_counter() - start:.1f} s", style="dim")
