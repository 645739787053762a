"""``prunevid models check``: is a checkpoint folder whole, and which model is it?

Reads configs, indices and headers only, so it takes seconds and little memory for a model of any
size, and no GPU. What would be wrong on loading is printed in full; the last line is JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from prunevid_kernels.adapters.checkpoint.files import Checkpoint
    from prunevid_kernels.adapters.checkpoint.loading import LoadReport
    from prunevid_kernels.adapters.families.detect import Family

models_app = typer.Typer(help="Checkpoint folders.", no_args_is_help=True, rich_markup_mode=None)


@models_app.callback()
def _root() -> None:
    """Checkpoint folders."""


@models_app.command("check")
def check_command(
    folder: Annotated[Path, typer.Argument(help="Checkpoint folder.", show_default=False)],
) -> None:
    """Say which model a folder holds and whether all its weights are there; reads no weight."""
    from prunevid_kernels.adapters.checkpoint.files import open_checkpoint
    from prunevid_kernels.adapters.families.detect import FAMILIES, detect_family
    from prunevid_kernels.adapters.families.pllava.checkpoint import has_lora
    from prunevid_kernels.adapters.families.video_model import silence_transformers

    silence_transformers()
    summary: dict[str, object] = {"folder": str(folder), "family": None, "loadable": False}
    try:
        family = detect_family(folder)
        summary["family"] = family
        print(f"model      {FAMILIES[family]}")
        checkpoint = open_checkpoint(folder)
        stored = sorted({str(t.dtype).removeprefix("torch.") for t in checkpoint.tensors.values()})
        files = len(checkpoint.files)
        print(f"weights    {len(checkpoint.tensors)} tensors in {files} files, {', '.join(stored)}")
        if family == "pllava" and has_lora(checkpoint.tensors):
            summary["needs_lora_alpha"] = True
            print("LoRA       not merged: loading needs lora_alpha")
        report = _check(family, checkpoint)
    except ValueError as error:  # CheckpointErrors, and what a class says of a config
        print(f"error      {error}")
        summary["error"] = str(error)
    else:
        print(report)
        summary["loadable"] = report.is_loadable
        for kind in ("missing", "unexpected", "mismatched", "ambiguous"):
            summary[kind] = len(getattr(report, kind))
    print("loadable" if summary["loadable"] else "NOT loadable")
    print(json.dumps(summary))
    if not summary["loadable"]:
        raise typer.Exit(1)


def _check(family: Family, checkpoint: Checkpoint) -> LoadReport:
    if family == "llava_onevision":
        from prunevid_kernels.adapters.families.llava_onevision.checkpoint import (
            check_llava_onevision,
        )

        return check_llava_onevision(checkpoint)
    if family == "pllava":
        from prunevid_kernels.adapters.families.pllava.model import Pllava

        return Pllava.check_pretrained(checkpoint)
    from prunevid_kernels.adapters.families.st_llm.model import StLlm

    return StLlm.check_pretrained(checkpoint)
