"""A picture of ``prunevid bench serve``: throughput and waiting time against concurrency."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Told apart by people who see no red or no green as well.
COLORS = {"unpruned": "#20242c", "pruned": "#d55e00", "evs": "#0072b2", "vidcom2": "#009e73"}


def serve_plot(results: Mapping[str, Any]) -> bytes:
    """PNG of the results that ``serve.json`` holds, a line a server."""
    figure = Figure(figsize=(9.6, 3.9), dpi=130, layout="constrained")
    throughput, waiting = figure.subplots(1, 2)
    every_level = [row["concurrency"] for row in results["ratios"]]
    for name, loads in results["servers"].items():
        color = COLORS[name]
        death = results["deaths"].get(name)
        title = f"{name} (died at {death['concurrency']})" if death else name
        levels = [load["concurrency"] for load in loads]
        speed = [load["requests_per_s"] for load in loads]
        throughput.plot(levels, speed, color=color, marker="o", label=title)
        for percentile, line in (("p50", "-"), ("p99", ":")):
            seconds = [load[f"first_token_{percentile}_ms"] / 1000 for load in loads]
            label = f"{name}, {percentile}"
            waiting.plot(levels, seconds, line, color=color, marker="o", label=label)
    throughput.set_ylabel("requests per second")
    waiting.set_ylabel("time to the first token, s")
    for axes in (throughput, waiting):
        axes.set_xlabel("requests under way")
        axes.set_xscale("log", base=2)
        axes.set_xticks(every_level, [str(level) for level in every_level])
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, alpha=0.25)
    tokens = results["prompt_tokens"]
    figure.suptitle(
        f"{results['model']}: {tokens['visual']} visual tokens, {tokens['merged']} kept. "
        f"{results['note']}.",
        fontsize=10,
    )
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
