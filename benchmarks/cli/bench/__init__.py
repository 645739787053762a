"""``prunevid bench``: what measures kernels, models and servers, one file a subcommand or group."""

from __future__ import annotations

import typer

from .estimate import estimate_command
from .kernels import bench_kernels_command, cpu_command, tune_command
from .latency import latency_command
from .serve import serve_command

bench_app = typer.Typer(
    help="Measure kernels, whole models and servers.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
bench_app.command("kernels")(bench_kernels_command)
bench_app.command("cpu")(cpu_command)
bench_app.command("estimate")(estimate_command)
bench_app.command("tune")(tune_command)
bench_app.command("latency")(latency_command)
bench_app.command("serve", short_help="Time vLLM servers, unpruned and pruned.")(serve_command)

__all__ = ["bench_app"]
