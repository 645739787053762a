"""What there is: ``prunevid models check`` (is a checkpoint folder whole, and which model is it?)
and ``prunevid methods``.

The check reads configs, indices and headers only, so it takes seconds and little memory for a model
of any size, and no GPU. What would be wrong on loading is printed in full, but for values that only
reading the weights would show.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..support.terminal import AsJson, fail, is_folder, print_summary, say

if TYPE_CHECKING:
    from prunevid_kernels.adapters.methods.record import Method

models_app = typer.Typer(
    help="Check checkpoint folders before anything is loaded.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@models_app.callback()
def _root() -> None:
    """Check checkpoint folders before anything is loaded."""


@models_app.command("check")
def check_command(
    folder: Annotated[Path, typer.Argument(help="Checkpoint folder.", show_default=False)],
    as_json: AsJson = None,
) -> None:
    """Say which model a folder holds, and whether it is whole. Exit code 1 if it is not.

    Reads configs and headers of all weights, and the processor's files; needs no GPU.
    """
    from prunevid_kernels.adapters.checkpoint.files import (
        CheckpointError,
        open_checkpoint,
        refusing,
    )
    from prunevid_kernels.adapters.families.detect import detect_family
    from prunevid_kernels.adapters.families.video_model import silence_transformers

    silence_transformers()
    summary: dict[str, object] = {"folder": str(folder), "family": None, "loadable": False}
    try:
        family = detect_family(folder)
        summary["family"] = family.name
        say(f"model      {family.title}")
        checkpoint = open_checkpoint(folder)
        stored = sorted({str(t.dtype).removeprefix("torch.") for t in checkpoint.tensors.values()})
        files = f"{len(checkpoint.files)} file{'s' if len(checkpoint.files) > 1 else ''}"
        say(f"weights    {len(checkpoint.tensors)} tensors in {files}, {', '.join(stored)}")
        if family.needed_options is not None:
            for option in family.needed_options(checkpoint.tensors):
                summary[f"needs_{option}"] = True
                say(f"needs      {option}, which no file says")
        with refusing(folder):
            report = family.check(checkpoint)
    except CheckpointError as error:
        if not is_folder(folder):  # nothing was checked
            fail(str(error))
        say(f"error      {error}")
        summary["error"] = str(error)
    else:
        say(str(report))
        if report.is_loadable and report.loaded != len(checkpoint.tensors) - len(report.ignored):
            say("           (tensors of files are joined, folded or shared to make the model's)")
        summary["loadable"] = report.is_loadable
        for kind in ("missing", "unexpected", "mismatched", "ambiguous"):
            summary[kind] = len(getattr(report, kind))
        try:
            with refusing(folder):
                family.processor(folder)
            summary["processor_error"] = None
            say("processor  complete")
        except CheckpointError as error:
            summary["processor_error"] = " ".join(str(error).split())
            say(f"processor  {summary['processor_error']}")
    say("weights loadable" if summary["loadable"] else "NOT loadable")
    print_summary(summary, as_json)
    if not summary["loadable"]:
        raise typer.Exit(1)


def methods_command(as_json: AsJson = None) -> None:
    """List the pruning methods with their options.

    What each does and needs, and how it keeps a share of the tokens.
    """
    from prunevid_kernels.adapters.methods.record import CHANGES, NEEDS
    from prunevid_kernels.adapters.methods.registry import find_method, method_names

    try:
        methods = {name: find_method(name) for name in method_names()}
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        fail(f"a method of another package cannot be used: {error}")
    told: dict[tuple[str, str], str] = {}
    for name, method in methods.items():
        print(f"{name}: {method.summary}")
        print(f"    does: {'; '.join(CHANGES[word] for word in method.changes) or 'nothing'}")
        if method.needs:
            print(f"    needs: {'; '.join(NEEDS[word] for word in method.needs)}")
        print(f"    --retain: {method.knob_text}")
        _print_options(name, method, told)
    rows = {
        name: {
            "summary": method.summary,
            "changes": list(method.changes),
            "needs": list(method.needs),
            "knob": method.knob_text if method.knob is not None else None,
            "options": dict(method.defaults),
            "option_texts": dict(method.option_texts),
        }
        for name, method in methods.items()
    }
    print_summary({"methods": rows}, as_json)


def _print_options(name: str, method: Method, told: dict[tuple[str, str], str]) -> None:
    """Options with their defaults and what they mean; what an earlier method has told is not
    repeated.

    Args:
        told: (option, meaning) -> the method that told it first; is added to.
    """
    if not method.defaults:
        print("    options: none")
        return
    print("    options:")
    repeated: dict[str, list[str]] = {}
    for option, default in method.defaults.items():
        text = method.option_texts.get(option, "")
        first = told.setdefault((option, text), name)
        if text and first != name:
            repeated.setdefault(first, []).append(f"{option}={default}")
            continue
        line = f"{option}={default}" + (f": {text}" if text else "").replace("``", "")
        print(textwrap.fill(line, 100, initial_indent=" " * 8, subsequent_indent=" " * 12))
    for first, options in repeated.items():
        line = f"as {first}'s: {', '.join(options)}"
        print(textwrap.fill(line, 100, initial_indent=" " * 8, subsequent_indent=" " * 12))
