"""The command ``prunevid``: which subcommands there are.

Each is a function in a file of its own, which holds arguments in, exit codes and streams out, and
nothing else. Progress goes to stderr and results to stdout, whose last line is JSON where stdout is
no terminal (``--json`` and ``--no-json`` choose). What the user can put right (a file, an option)
ends in one line on stderr and exit code 2; anything else is a bug and may show its traceback.

The modules imported here hold names, types and help texts only. What does the work (torch,
transformers, matplotlib ...) takes seconds to load, so each command imports it when it runs.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from prunevid_kernels import __version__

from .app import app_command
from .bench import bench_app
from .evaluate import eval_app
from .flops import flops_command
from .models import methods_command, models_app
from .report import report_command
from .run import run_command
from .train_tiny import train_tiny_command

ORDER = ("run", "app", "eval", "report", "bench", "flops", "methods", "models", "train-tiny")


class _Ordered(TyperGroup):
    """Lists commands and groups together, what a newcomer wants first."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return [*(name for name in ORDER if name in names), *sorted({*names} - {*ORDER})]


app = typer.Typer(
    name="prunevid",
    cls=_Ordered,
    help="Prune the visual tokens of video language models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("run")(run_command)
app.command("app")(app_command)
app.add_typer(eval_app, name="eval")
app.command("report")(report_command)
app.command("flops")(flops_command)
app.add_typer(bench_app, name="bench")
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
