"""Two pictures of a report, as PNG: accuracy against FLOPs, and where the time goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..cost.latency.stages import STAGES
from ..cost.latency.tables import STAGE_TITLES
from ..datasets.registry import DATASETS
from .labels import Point, label_points
from .table import Line, Table

# Told apart by people who see no red or no green as well.
METHOD_COLORS = {
    "full": "#20242c",
    "prunevid": "#d55e00",
    "merge_only": "#e69f00",
    "select_only": "#8c6d1f",
    "fastv": "#0072b2",
    "prumerge": "#009e73",
    "look_m": "#cc79a7",
    "random_drop": "#7f8896",
    "drop_all": "#b9c0ca",
}
OTHER_COLOR = "#56b4e9"
MARKERS = "osD^vP*X"
STAGE_COLORS = {
    "vision": "#c3cbd7",
    "merge": "#e69f00",
    "prefill": "#2f6fbe",
    "scoring": "#d55e00",
    "gather": "#cc79a7",
    "first_token": "#59636f",
}
PLOTS_A_ROW = 2


def accuracy_plot(table: Table) -> bytes | None:
    """Score of every run against its multiply-accumulates, a plot a benchmark, 95% intervals, each
    point with its method's name; hollow marks are published. Runs at shares have a picture of their
    own (:mod:`.share_plots`). None without a run to draw."""
    own_options = [line for line in table.lines if line.retain is None]
    names = dict.fromkeys(column.benchmark for column in table.columns)
    drawn = [name for name in names if any(_point(line, name) for line in own_options)]
    if not drawn:
        return None
    columns = min(len(drawn), PLOTS_A_ROW)
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(1.2 + 4.6 * columns, 0.9 + 3.7 * rows), dpi=130, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, name in zip(grid, drawn, strict=False):
        _draw_benchmark(axes, own_options, name)
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    handles = _legend([line for line in own_options if _is_drawn(line, drawn)], drawn)
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9
        )
    figure.draw_without_rendering()  # names are placed in the finished layout
    for axes, name in zip(grid, drawn, strict=False):
        _label_benchmark(axes, own_options, name)
    return _png(figure)


def time_plot(rows: Sequence[dict[str, Any]]) -> bytes | None:
    """Time to the first token by stage, a bar a method, a plot for each shape. None without a row
    that was timed."""
    timed = [row for row in rows if row["stages"]]
    if not timed:
        return None
    shapes = [
        list(group)
        for _, group in groupby(timed, key=lambda r: (r["model"], r["frames"], r["batch"]))
    ]
    heights = [len(shape) + 1.6 for shape in shapes]
    figure = Figure(figsize=(9.2, 0.8 + 0.36 * sum(heights)), dpi=130, layout="constrained")
    grid = figure.subplots(len(shapes), 1, squeeze=False, height_ratios=heights).flatten()
    for axes, shape in zip(grid, shapes, strict=True):
        _draw_shape(axes, shape)
    grid[-1].set_xlabel("time to the first token, ms (medians of the stages)")
    handles = [
        Line2D([], [], marker="s", linestyle="", markersize=9, color=STAGE_COLORS[stage],
               label=STAGE_TITLES[stage])
        for stage in STAGES
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=6, frameon=False, fontsize=9)
    return _png(figure)


# ---- accuracy


def _point(line: Line, benchmark: str) -> tuple[float, float, tuple[float, float]] | None:
    """FLOPs ratio, score and interval of a line on a benchmark; None where nothing was scored."""
    entry = line.entries.get(benchmark)
    if entry is None or entry.row.score is None or entry.row.interval is None:
        return None
    if "paper" not in entry.row.flops_ratio:
        return None
    return entry.row.flops_ratio["paper"], entry.row.score, entry.row.interval


def _draw_benchmark(axes: Axes, lines: Sequence[Line], benchmark: str) -> None:
    markers = _markers(lines)
    drawn: list[tuple[float, float]] = []
    for (model, method), group in groupby(
        sorted(lines, key=lambda line: (line.model, line.method)),
        key=lambda line: (line.model, line.method),
    ):
        color = METHOD_COLORS.get(method, OTHER_COLOR)
        points = sorted(point for line in group if (point := _point(line, benchmark)))
        if not points:
            continue
        x, y = [point[0] for point in points], [point[1] for point in points]
        low, high = ([point[2][side] for point in points] for side in (0, 1))
        errors = [
            [max(0.0, a - b) for a, b in zip(y, low, strict=True)],
            [max(0.0, b - a) for a, b in zip(y, high, strict=True)],
        ]
        # A sweep of one method is a line through its points. What would lie under another point
        # is larger than it.
        under = sum(math.dist(x[:1] + y[:1], point) < 0.02 for point in drawn)
        drawn += zip(x, y, strict=True)
        axes.errorbar(
            x, y, yerr=errors, color=color, marker=markers[model], linewidth=0.9, zorder=3 + under,
            markersize=max(3.0, 8.5 - 3.5 * under), markeredgecolor="white", markeredgewidth=0.6,
            elinewidth=1.2, capsize=3, alpha=0.9,
        )  # fmt: skip
    for line in lines:
        published = line.published and line.published.score(benchmark)
        if line.published and published:
            axes.plot(
                line.published.flops_ratio, published, marker=markers[line.model], markersize=8,
                markerfacecolor="none", markeredgewidth=1.4, linestyle="",
                color=METHOD_COLORS.get(line.method, OTHER_COLOR),
            )  # fmt: skip
    axes.set_title(DATASETS[benchmark].title, fontsize=11)
    axes.set_xlabel("FLOPs of the prefill, share of the unpruned model")
    judged = DATASETS[benchmark].scoring == "judge"
    axes.set_ylabel("judge's score, 0 to 5" if judged else "right answers, %")
    axes.set_xlim(0, 1.06)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, alpha=0.25)


def _label_benchmark(axes: Axes, lines: Sequence[Line], benchmark: str) -> None:
    """The method's name at each measured point; of a sweep, at its cheapest."""
    points: dict[tuple[str, str], Point] = {}
    covered = []
    for line in lines:
        found = _point(line, benchmark)
        published = line.published and line.published.score(benchmark)
        if line.published and published:
            covered.append((line.published.flops_ratio, published))
        if found is None:
            continue
        covered.append(found[:2])
        known = points.get((line.model, line.method))
        if known is None or found[0] < known.x:
            points[line.model, line.method] = Point(found[0], found[1], line.method)
    label_points(axes, list(points.values()), covered)


def _markers(lines: Sequence[Line]) -> dict[str, str]:
    models = dict.fromkeys(line.model for line in lines)
    return {model: MARKERS[index % len(MARKERS)] for index, model in enumerate(models)}


def _is_drawn(line: Line, benchmarks: Sequence[str]) -> bool:
    return _has_published(line, benchmarks) or any(_point(line, name) for name in benchmarks)


def _has_published(line: Line, benchmarks: Sequence[str]) -> bool:
    return line.published is not None and any(map(line.published.score, benchmarks))


def _legend(lines: Sequence[Line], benchmarks: Sequence[str]) -> list[Line2D]:
    """A shape a model and a colour a method, where there are several models, whose names beside
    the points are crowded; what a hollow mark is."""
    handles = []
    markers = _markers(lines)
    if len(markers) > 1:
        handles += [
            Line2D([], [], marker="o", linestyle="", label=method,
                   color=METHOD_COLORS.get(method, OTHER_COLOR))
            for method in dict.fromkeys(line.method for line in lines)
        ]  # fmt: skip
        handles += [
            Line2D([], [], marker=marker, linestyle="", color="#667080", label=model)
            for model, marker in markers.items()
        ]
    if any(_has_published(line, benchmarks) for line in lines):
        handles.append(
            Line2D([], [], marker="o", linestyle="", color="#667080", markerfacecolor="none",
                   label="hollow: published")
        )  # fmt: skip
    return handles


# ---- time


def _draw_shape(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    places = list(range(len(rows)))[::-1]
    starts = [0.0] * len(rows)
    for stage in STAGES:
        widths = [row["stages"][stage]["median"] for row in rows]
        axes.barh(places, widths, left=starts, height=0.72, color=STAGE_COLORS[stage])
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for row, place, end in zip(rows, places, starts, strict=True):
        text = f"{row['first_token_ms']['median']:.1f} ms"
        if row["speedup"] and row["method"] != "full":
            text += f", {row['speedup']:.2f}x"
        axes.annotate(
            text, (end, place), (4, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(places, [row["method"] for row in rows])
    axes.set_xlim(0, 1.22 * max(starts))
    axes.set_ylim(-0.6, len(rows) - 0.4)
    first = rows[0]
    title = f"{first['model']}, {first['device']}: {first['frames']} frames, batch {first['batch']}"
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
