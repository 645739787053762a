"""``prunevid flops``: what a prefill costs under each method, from token counts alone.

Nothing runs and no weight is read. Where a count is not given, the share that the paper publishes
for the model and the method stands for it.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunevid_kernels.adapters.families import SIZES

from ..support.terminal import (
    AsJson,
    Methods,
    fail,
    is_folder,
    named_methods,
    print_summary,
    say,
)

if TYPE_CHECKING:
    from prunevid_kernels.adapters.families.shape import ModelShape

    from ..cost.flops.methods import PromptCounts, SampleFlops


def flops_command(
    model: Annotated[
        str | None,
        typer.Option(
            help=f"Published size ({', '.join(SIZES)}), or a checkpoint folder."
            "  [default: the one of the paper's ablations]"
        ),
    ] = None,
    method: Methods = None,
    frames: Annotated[
        int | None,
        typer.Option(
            help="Number of frames, as the decoder gets them: where the tower takes two frames as "
            "one, as the Qwen models' does, half of those that are read.  [default: as published]"
        ),
    ] = None,
    visual: Annotated[
        int | None,
        typer.Option(help="Number of visual tokens.  [default: frames times tokens per frame]"),
    ] = None,
    merged: Annotated[
        str | None,
        typer.Option(
            help="Visual tokens after merging: a count, or a share of them such as 0.36."
            "  [default: the published share]"
        ),
    ] = None,
    kept: Annotated[
        str | None,
        typer.Option(
            help="Visual tokens after selection: a count, or a share such as 0.15."
            "  [default: the published share]"
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(
            help="Decoder layer after which tokens are selected.  [default: as in the paper]"
        ),
    ] = None,
    text: Annotated[
        int | None,
        typer.Option(
            help="Number of text tokens.  [default: the one that gives the paper's ratios]"
        ),
    ] = None,
    paper_table: Annotated[
        bool,
        typer.Option(
            "--paper-table",
            help="Only compare the model's ratios with those that the paper prints.",
        ),
    ] = False,
    as_json: AsJson = None,
) -> None:
    """Count what a prefill costs under each method. Nothing runs.

    Multiply-accumulates by the paper's formula, exactly, and end to end.
    """
    from ..cost.flops.paper import published

    model = next(iter(published())) if model is None else model
    if paper_table:
        _print_paper_table(model, as_json)
        return
    from prunevid_kernels.adapters.methods.registry import METHODS

    from ..cost.flops.planned import NotCounted, TokenCounts, method_flops, note

    shape = _shape(model)
    merged_tokens, kept_tokens = _count("--merged", merged), _count("--kept", kept)
    given = TokenCounts(frames, visual, merged_tokens, kept_tokens, layer, text)
    results = {}
    named = named_methods(method)
    for name in named or METHODS:
        try:
            results[name] = method_flops(name, shape, given)
            if (needed := note(name, shape)) is not None:
                say(needed, file=sys.stderr)
        except NotCounted as error:
            if named:
                fail(str(error))
            print(error, file=sys.stderr)
        except ValueError as error:
            fail(str(error))
    _print_results(model, shape, results, as_json)


def _count(option: str, text: str | None) -> int | float | None:
    """A number of tokens, or a share of them: what is written with a point."""
    if text is None:
        return None
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        fail(f"{option} must be a number of tokens, or a share in [0, 1] such as 0.2, got {text!r}")


def _shape(model: str) -> ModelShape:
    if model in SIZES:
        return SIZES[model].shape
    if not is_folder(Path(model)):
        from ..support.options import unknown_model

        fail(f"--model {unknown_model(model)}")
    from prunevid_kernels.adapters.families.detect import read_shape

    try:
        return read_shape(Path(model))
    except ValueError as error:  # CheckpointErrors, and what a class says of a config
        fail(f"--model: {error}")


def _print_results(
    model: str,
    shape: ModelShape,
    results: dict[str, tuple[PromptCounts, SampleFlops]],
    as_json: bool | None,
) -> None:
    first = next(iter(results.values()))[0]
    say(
        f"{model}: {first.before:g} visual and {first.other:g} other tokens, "
        f"{shape.decoder.num_layers} layers; multiply-accumulates of the prefill (T = 10^12)\n"
    )
    say(f"{'':12} {'':>8} {'':>8} {'paper':>16} {'exact':>16} {'end to end':>16}")
    say(f"{'method':12} {'first':>8} {'last':>8} " + f"{'T':>9} {'ratio':>6} " * 3)
    for name, (counts, flops) in results.items():
        cells = "".join(
            f"{getattr(flops.method, form) / 1e12:9.4g} {flops.ratio(form):6.3f} "
            for form in ("paper", "exact", "end_to_end")
        )
        say(f"{name:12} {counts.per_layer[0]:8.0f} {counts.per_layer[-1]:8.0f} {cells}".rstrip())
    say(
        "\nfirst, last: visual tokens that the first and the last layer run on; where no count was"
        "\ngiven, the mean over videos that a published share stands for."
    )
    rows = {
        name: {
            "visual_tokens_per_layer": list(counts.per_layer),
            "are_means": any(count != int(count) for count in counts.per_layer),
            "flops": flops.as_dict(),
        }
        for name, (counts, flops) in results.items()
    }
    print_summary({"model": model, "other_tokens": first.other, "methods": rows}, as_json)


def _print_paper_table(model: str, as_json: bool | None) -> None:
    from ..cost.flops.paper import note, published

    if model not in published():
        known = ", ".join(published())
        fail(f"--paper-table: the paper prints ratios of {known} only, got --model {model!r}")
    paper = published()[model]
    say(f"{model}, {paper.text_tokens} text tokens, the paper's formula\n")
    say(f"{'method':16} {'layers':>7} {'first':>7} {'then':>7} {'paper':>7} {'ours':>7}")
    for row in paper.ratios:
        say(
            f"{row.method:16} {row.full_layers:7} {row.first:7.1%} {row.then:7.1%} "
            f"{row.published:>7} {row.ours():7.3f}{'' if row.is_reproduced() else '  differs'}"
        )
    say()
    for name in (model, *(name for name in published() if name != model)):
        say(note(name))
    ratios = [
        {**asdict(row), "ours": row.ours(), "is_reproduced": row.is_reproduced()}
        for row in paper.ratios
    ]
    print_summary({"model": model, "rows": ratios}, as_json)
