"""The command ``prunevid``: which subcommands there are.

Each is a function in a file of its own, which holds arguments in, exit codes and streams out, and
nothing else. Progress goes to stderr and results to stdout, whose last line is JSON where stdout is
no terminal (``--json`` and ``--no-json`` choose). What the user can put right (a file, an option)
ends in one line on stderr and exit code 2; anything else is a bug and may show its traceback.

The modules imported here hold names, types and help texts only. What does the work (torch,
transformers, matplotlib ...) takes seconds to load, so each command imports it when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from prunevid_kernels import __version__

from .estimate import estimate_command
from .evaluate import eval_app
from .flops import flops_command
from .kernels import bench_kernels_command, cpu_command, tune_command
from .latency import latency_command
from .models import methods_command, models_app
from .report import report_command
from .run import run_command
from .serve import serve_command
from .train_tiny import train_tiny_command

app = typer.Typer(
    name="prunevid",
    help="Prune the visual tokens of video language models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
bench_app = typer.Typer(
    help="Measure kernels, models and servers.", no_args_is_help=True, rich_markup_mode=None
)
app.command("run")(run_command)
app.add_typer(eval_app, name="eval")
app.command("report")(report_command)
app.command("flops")(flops_command)
app.add_typer(bench_app, name="bench")
bench_app.command("cpu")(cpu_command)
bench_app.command("estimate")(estimate_command)
bench_app.command("kernels")(bench_kernels_command)
bench_app.command("latency")(latency_command)
bench_app.command("serve")(serve_command)
bench_app.command("tune")(tune_command)
app.add_typer(models_app, name="models")
app.command("methods")(methods_command)
app.command("train-tiny")(train_tiny_command)


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


def main() -> None:
    """The console script."""
    app()
