"""``prunevid bench latency``: how long a model takes end to end, unpruned and pruned."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from prunevid_kernels.adapters.families import DEFAULT_SIZE, SIZES

from ...support.terminal import (
    AsJson,
    FrameCounts,
    LoraAlpha,
    Methods,
    fail,
    named_methods,
    print_summary,
    say,
)


def latency_command(
    model: Annotated[
        str | None,
        typer.Option(
            help=f"Published size with random weights ({', '.join(SIZES)}), or a checkpoint"
            f" folder.  [default: {DEFAULT_SIZE}; without a GPU the embedded model]"
        ),
    ] = None,
    method: Methods = None,
    frames: FrameCounts = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Batch size; may be repeated.  [default: 1, 4 and 8; without a GPU 1]"),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="One of bf16, fp16, fp32.  [default: bf16; without a GPU fp32]"),
    ] = None,
    output_tokens: Annotated[
        int, typer.Option(help="Number of tokens to generate, wherever the answer would end.")
    ] = 128,
    with_compile: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile", help="Measure the merge under torch.compile as well."
        ),
    ] = True,
    lora_alpha: LoraAlpha = None,
    out: Annotated[Path, typer.Option(help="Folder to write tables and JSON to.")] = Path(
        "latency"
    ),
    as_json: AsJson = None,
) -> None:
    """Time a model end to end, unpruned and pruned.

    Split by stage; each row is checked for correctness first.
    """
    from prunevid_kernels.adapters.families.video_model import ModelError, silence_transformers

    from ...cost.latency.bench import LatencyRequest, bench_latency

    silence_transformers()
    methods = tuple(named_methods(method) or ())
    request = LatencyRequest(
        model, methods, tuple(frames or ()), tuple(batch or ()), dtype, output_tokens,
        with_compile, lora_alpha,
    )  # fmt: skip
    try:
        results = bench_latency(request, out, progress=lambda line: say(line, file=sys.stderr))
    except (ModelError, ValueError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"--out: {error.filename or out}: {error.strerror or error}")
    say((out / "latency.md").read_text(encoding="utf-8"))
    summary = {key: results[key] for key in ("kind", "is_gpu", "environment")}
    print_summary({"results": str(out / "latency.json"), **summary}, as_json)
    if any(row["status"] in ("incorrect", "failed") for row in results["rows"]):
        raise typer.Exit(1)
