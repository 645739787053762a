"""Pictures of runs at equal terms, a line a method: the score against the share that was kept,
against FLOPs, and against milliseconds to the first token; and against the frames that the same
tokens were spent on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, TypeVar

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from prunevid_kernels.adapters.methods.registry import METHODS

from ..datasets.registry import DATASETS
from .frame_curves import FrameRow
from .plots import MARKERS, METHOD_COLORS
from .shares import ShareRow
from .summary import RunScore

UNPRUNED = "full"
# For methods that have none in METHOD_COLORS, apart from those and from one another.
COLORS = (
    "#1f77b4", "#2ca02c", "#9467bd", "#17becf", "#d62728", "#8c564b",
    "#98df8a", "#c5b0d5", "#9edae5", "#f7b6d2", "#bcbd22", "#393b79",
)  # fmt: skip
Row = TypeVar("Row", ShareRow, FrameRow)


def _milliseconds(row: ShareRow) -> float | None:
    return row.first_token_ms and row.first_token_ms[1]


AXES: dict[str, Callable[[ShareRow], float | None]] = {
    "visual tokens kept, mean over layers": lambda row: row.kept,
    "FLOPs of the prefill, share of the unpruned model": lambda row: row.flops_ratio,
    "ms to the first token (median)": _milliseconds,
}


def share_plot(rows: Sequence[ShareRow]) -> bytes | None:
    """PNG: three plots for each benchmark and model, with 95% intervals. Of several numbers of
    frames the one with the most shares is drawn, the lowest of such. None without a score."""
    scored = [row for row in rows if row.score.score is not None and row.score.interval is not None]
    if not scored:
        return None
    groups = list(dict.fromkeys((row.model, row.benchmark) for row in scored))
    methods = _by_score(scored)
    figure = Figure(figsize=(15, 1.6 + 4.6 * len(groups)), dpi=110, layout="constrained")
    grid = figure.subplots(len(groups), len(AXES), squeeze=False)
    for line, (model, benchmark) in zip(grid, groups, strict=True):
        own = [row for row in scored if (row.model, row.benchmark) == (model, benchmark)]
        own = [row for row in own if row.frames == _drawn_frames(own)]
        for axes, (title, value) in zip(line, AXES.items(), strict=True):
            _draw_lines(axes, own, methods, value)
            if value is not _milliseconds:
                _cut_off(axes, own, value)
            is_time = value is _milliseconds
            clocks = {row.clock for row in own} if is_time else set()
            axes.set_xlabel(title + (", processor time" if clocks == {"processor"} else ""))
        line[0].set_ylabel(_axis_title(benchmark, model))
    return _with_legend(figure, grid[0])


def _cut_off(
    axes: Axes, rows: Sequence[ShareRow], value: Callable[[ShareRow], float | None]
) -> None:
    """End the axis where the shares end that were asked for; what lies beyond is written there, but
    for the unpruned model, which has a line."""
    told = [x for row in rows if row.asked is not None and (x := value(row)) is not None]
    if not told:
        return
    end = 1.08 * max(told)
    axes.set_xlim(0, end)
    beyond = [row for row in rows if (value(row) or 0.0) > end and row.method != UNPRUNED]
    texts = [f"{row.method}: {row.score.score:.1f} at {value(row):.2f} →" for row in beyond]
    axes.annotate(
        "\n".join(texts), (1, 1), (-2, 2), xycoords="axes fraction", textcoords="offset points",
        ha="right", va="bottom", fontsize=8,
    )  # fmt: skip


def _drawn_frames(rows: Sequence[ShareRow]) -> int | None:
    def shares_of(frames: int | None) -> int:
        return len({row.asked for row in rows if row.frames == frames})

    counts = sorted({row.frames for row in rows}, key=lambda frames: frames or 0)
    return max(counts, key=shares_of)


def _axis_title(benchmark: str, model: str) -> str:
    unit = "judge's score, 0 to 5" if DATASETS[benchmark].scoring == "judge" else "right answers, %"
    return f"{unit}\n{DATASETS[benchmark].title}, {model}"


def _by_score(rows: Sequence[Row]) -> list[str]:
    """Names of the methods: the unpruned model, then the best first, so that a legend reads as the
    lines lie."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.method, []).append(row.score.score or 0.0)
    order = sorted(found, key=lambda method: -sum(found[method]) / len(found[method]))
    return sorted(order, key=lambda method: method != UNPRUNED)


def _point(x: float | None, score: RunScore) -> tuple[float, float, float, float] | None:
    """(x, score, low, high); None where one of them is missing."""
    if x is None or score.score is None or score.interval is None:
        return None
    low, high = score.interval
    return x, score.score, low, high


def _draw_lines(
    axes: Axes, rows: Sequence[Row], methods: Sequence[str], value: Callable[[Row], float | None]
) -> None:
    for method in methods:
        found = [_point(value(row), row.score) for row in rows if row.method == method]
        points = [point for point in found if point is not None]
        if not points:
            continue
        xs, ys, low, high = zip(*sorted(points), strict=True)
        errors = [
            [max(0.0, y - a) for y, a in zip(ys, low, strict=True)],
            [max(0.0, b - y) for y, b in zip(ys, high, strict=True)],
        ]
        style = _style(method, methods)
        axes.errorbar(
            xs, ys, yerr=errors, label=method, markersize=5.5, elinewidth=0.7,
            capsize=2, alpha=0.9, markeredgecolor="white", markeredgewidth=0.5, **style,
        )  # fmt: skip
        if method == UNPRUNED and len(points) == 1:
            axes.axhline(ys[0], color=style["color"], linewidth=1.0, linestyle=":", zorder=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, alpha=0.25)


def _style(method: str, methods: Sequence[str]) -> dict[str, Any]:
    """Colour, mark and dash, the same in every picture for a method of the registry; those of
    others come after."""
    known = [*METHODS, *sorted(name for name in methods if name not in METHODS)]
    others = [name for name in known if name not in METHOD_COLORS]
    color = METHOD_COLORS.get(method)
    return {
        "color": color or COLORS[others.index(method) % len(COLORS)],
        "marker": MARKERS[known.index(method) % len(MARKERS)],
        "linewidth": 2.0 if method == "prunevid" else 1.1,
        "linestyle": "-" if color is None or method == "prunevid" else "--",
    }


def _with_legend(figure: Figure, grid: Sequence[Axes]) -> bytes:
    """PNG of the figure with one legend for all of these plots."""
    handles: dict[str, Any] = {}
    for axes in grid:
        own, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, own, strict=True))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center",
        ncols=min(1 + 2 * len(grid), len(handles)), frameon=False, fontsize=9,
    )  # fmt: skip
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def frame_plot(rows: Sequence[FrameRow]) -> bytes | None:
    """PNG: the score against the frames, a plot for each benchmark, model and number of tokens, a
    line a method, with 95% intervals. None without a score."""
    scored = [row for row in rows if row.score.score is not None and row.score.interval is not None]
    groups = list(
        dict.fromkeys(
            (row.benchmark, row.model, row.budget) for row in scored if row.budget is not None
        )
    )
    if not groups:
        return None
    methods = _by_score(scored)
    figure = Figure(figsize=(1.6 + 5 * len(groups), 5), dpi=110, layout="constrained")
    grid = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, (benchmark, model, budget) in zip(grid, groups, strict=True):
        own = [
            row
            for row in scored
            if (row.benchmark, row.model) == (benchmark, model) and row.budget in (budget, None)
        ]
        _draw_lines(axes, own, methods, lambda row: row.frames)
        counts = sorted({row.frames for row in own})
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, list(map(str, counts)))
        axes.minorticks_off()
        axes.set_title(f"tokens of {budget:g} whole frame{'s' * (budget != 1)}", fontsize=10)
        axes.set_xlabel("frames that they were spent on")
        axes.set_ylabel(_axis_title(benchmark, model))
    return _with_legend(figure, grid)
