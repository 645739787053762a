"""A picture of runs at equal terms: the score against the share that was kept, against FLOPs, and
against milliseconds to the first token, a line a method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..datasets.registry import DATASETS
from .plots import MARKERS, METHOD_COLORS
from .shares import ShareRow

AXES: dict[str, Callable[[ShareRow], float | None]] = {
    "visual tokens kept, mean over layers": lambda row: row.kept,
    "FLOPs of the prefill, share of the unpruned model": lambda row: row.flops_ratio,
    "ms to the first token (median)": lambda row: row.first_token_ms and row.first_token_ms[1],
}


def share_plot(rows: Sequence[ShareRow]) -> bytes | None:
    """PNG: three plots for each benchmark and model, with 95% intervals. None without a score."""
    scored = [row for row in rows if row.score.score is not None and row.score.interval is not None]
    if not scored:
        return None
    groups = list(dict.fromkeys((row.model, row.benchmark) for row in scored))
    methods = list(dict.fromkeys(row.method for row in scored))
    figure = Figure(figsize=(14, 1.2 + 4.2 * len(groups)), dpi=110, layout="constrained")
    grid = figure.subplots(len(groups), len(AXES), squeeze=False)
    for line, (model, benchmark) in zip(grid, groups, strict=True):
        own = [row for row in scored if (row.model, row.benchmark) == (model, benchmark)]
        for axes, (title, value) in zip(line, AXES.items(), strict=True):
            _draw(axes, own, methods, value)
            axes.set_xlabel(title)
        line[0].set_ylabel(f"{DATASETS[benchmark].title}, {model}", fontsize=9)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False, fontsize=8)
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _draw(
    axes: Axes,
    rows: Sequence[ShareRow],
    methods: Sequence[str],
    value: Callable[[ShareRow], float | None],
) -> None:
    others = [method for method in methods if method not in METHOD_COLORS]
    palette = colormaps["tab20"]
    for method in methods:
        points = []
        for row in rows:
            x, score, interval = value(row), row.score.score, row.score.interval
            if row.method == method and x is not None and score is not None and interval:
                points.append((x, score, *interval))
        if not points:
            continue
        xs, ys, low, high = zip(*sorted(points), strict=True)
        errors = [
            [max(0.0, y - a) for y, a in zip(ys, low, strict=True)],
            [max(0.0, b - y) for y, b in zip(ys, high, strict=True)],
        ]
        index = methods.index(method)
        color = METHOD_COLORS.get(method)
        axes.errorbar(
            xs, ys, yerr=errors, label=method, marker=MARKERS[index % len(MARKERS)], markersize=5,
            linewidth=0.9, elinewidth=0.8, capsize=2, alpha=0.9,
            color=color or palette(others.index(method) % palette.N),
        )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, alpha=0.25)
