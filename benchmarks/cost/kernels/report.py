"""Rows of the kernel benchmarks as Markdown tables and as a roofline plot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, groupby
from pathlib import Path

from ..ceilings import Ceilings, Cost
from ..harness import OURS, VariantResult
from ..timing import Quantiles

HEADER = (
    "| variant | call, ms (p10 - p90) | replay, ms (p10 - p90) | speedup | x floor | GB/s"
    " | TFLOP/s | launches: Triton / torch / to host | peak, MB | |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|\n"
)


def kernels_markdown(rows: Sequence[VariantResult]) -> str:
    """A table for each stage and case."""
    parts = []
    for (stage, case), group in groupby(rows, key=lambda row: (row.benchmark, row.case["name"])):
        lines = list(group)
        floor = lines[0].floor_ms
        needs = f"{lines[0].num_bytes / 1e6:.2f} MB, {lines[0].flops / 1e9:.2f} GFLOP"
        parts.append(f"### {stage}: {case} on {lines[0].device}\n")
        parts.append(f"At least {needs}" + (f": {floor:.4f} ms\n" if floor else "\n"))
        parts.append(HEADER + "".join(_line(row) for row in lines))
    return "\n".join(parts)


def floors_markdown(costs: Sequence[tuple[str, Cost]], ceilings: Ceilings) -> str:
    """The modelled floors of cases, whether or not they were run."""
    rates = (
        f"{ceilings.copy_bytes_per_s / 1e12:.2f} TB/s copy,"
        f" {ceilings.matmul_flops_per_s / 1e12:.0f} TFLOP/s product ({ceilings.source})"
    )
    lines = [
        f"### Modelled floors at {rates}\n",
        "| case | stage | MB | GFLOP | floor, us |",
        "|---|---|---:|---:|---:|",
    ]
    for case, cost in costs:
        floor_us = 1000 * cost.floor_ms(ceilings)
        sizes = f"{cost.num_bytes / 1e6:.2f} | {cost.flops / 1e9:.2f}"
        lines.append(f"| {case} | {cost.name} | {sizes} | {floor_us:.2f} |")
    return "\n".join(lines) + "\n"


def _line(row: VariantResult) -> str:
    launches = "-"
    if row.launches is not None:
        launches = " / ".join(str(row.launches[k]) for k in ("triton", "torch", "host_copies"))
    name = row.variant + (" (baseline)" if row.is_baseline else "")
    memory = None if row.peak_memory_bytes is None else row.peak_memory_bytes / 1e6
    cells = [
        name,
        _quantiles(row.latency_ms),
        _quantiles(row.replay_ms),
        _number(row.speedup, ".2f"),
        _number(row.over_floor, ".1f"),
        _number(row.gigabytes_per_s, ".1f"),
        _number(row.teraflops_per_s, ".2f"),
        launches,
        _number(memory, ".1f"),
        _note(row),
    ]
    return f"| {' | '.join(cells)} |\n"


def _note(row: VariantResult) -> str:
    notes = [] if row.status == "ok" else [f"**{row.status}**"]
    notes += [
        text.replace("|", "\\|") for text in (row.note, row.reason, row.replay_reason) if text
    ]
    return "; ".join(notes)


def _quantiles(value: Quantiles | None) -> str:
    return f"{value.median:.4f} ({value.p10:.4f} - {value.p90:.4f})" if value else "-"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


# ------------------------------------------------------------------------------------------------
# Plot
# ------------------------------------------------------------------------------------------------

_MARKERS = {"merge": "o", "score": "s", "compact": "D"}


def plot(rows: Sequence[VariantResult], ceilings: Ceilings, path: Path, *, title: str) -> None:
    """Write a PNG: left the roofline, right how far each variant is from its stage's floor.

    Only rows with a time appear. A stage's operations and bytes are those it needs, the same for
    all its variants, so that a slow variant is low and not to the right.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import colormaps, pyplot
    from matplotlib.lines import Line2D

    timed = [row for row in rows if row.best_ms is not None]
    variants = list(dict.fromkeys(row.variant for row in timed))
    colors = dict(zip(variants, cycle(colormaps["tab10"](range(10)))))
    colors |= {name: "black" for name in variants if name == OURS}
    colors |= {name: "dimgray" for name in variants if name.startswith(f"{OURS},")}
    timed.sort(key=lambda row: list(_MARKERS).index(row.benchmark))
    labels = list(dict.fromkeys((row.benchmark, row.case["name"]) for row in timed))
    height = max(5.0, 0.42 * len(labels) + 2.2)
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(15, height), width_ratios=(1, 1), layout="constrained"
    )
    figure.suptitle(title, fontsize=12)
    _draw_roofline(left, timed, ceilings, colors)
    _draw_distances(right, timed, labels, colors)
    used = dict.fromkeys((row.variant, row.benchmark) for row in timed)
    handles = [
        Line2D(
            [],
            [],
            marker=_MARKERS[stage],
            linestyle="",
            color=colors[variant],
            label=f"{stage}: {variant}",
        )
        for variant, stage in sorted(used, key=lambda item: list(_MARKERS).index(item[1]))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_roofline(axes, rows, ceilings, colors) -> None:  # type: ignore[no-untyped-def]
    peak = ceilings.matmul_flops_per_s
    ridge = peak / ceilings.copy_bytes_per_s
    points = [row for row in rows if row.flops and row.best_ms]
    intensities = [row.flops / row.num_bytes for row in points] or [ridge]
    first, last = min(*intensities, ridge) / 4, max(*intensities, ridge) * 4
    axes.plot(
        [first, ridge, last],
        [first * ceilings.copy_bytes_per_s / 1e12, peak / 1e12, peak / 1e12],
        color="black",
        linewidth=1.5,
    )
    axes.annotate(
        f"{peak / 1e12:.3g} TFLOP/s",
        (last, peak / 1e12),
        ha="right",
        va="bottom",
    )
    middle = (first * ridge) ** 0.5
    axes.annotate(
        f"{ceilings.copy_bytes_per_s / 1e9:.0f} GB/s copy",
        (middle, middle * ceilings.copy_bytes_per_s / 1e12),
        xytext=(-8, 6),
        textcoords="offset points",
        ha="right",
    )
    for row in points:
        axes.plot(
            row.flops / row.num_bytes,
            row.teraflops_per_s,
            marker=_MARKERS[row.benchmark],
            color=colors[row.variant],
            markersize=8,
            alpha=0.85,
        )
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel(
        "operations a byte that the stage needs, FLOP/byte (compaction: none)\n"
        f"ceilings: {ceilings.source}"
    )
    axes.set_ylabel("needed operations / measured time, TFLOP/s")
    axes.set_title("Roofline")
    axes.grid(True, which="major", alpha=0.3)


def _draw_distances(axes, rows, labels, colors) -> None:  # type: ignore[no-untyped-def]
    places = {label: index for index, label in enumerate(reversed(labels))}
    for row in rows:
        axes.plot(
            row.over_floor,
            places[row.benchmark, row.case["name"]],
            marker=_MARKERS[row.benchmark],
            color=colors[row.variant],
            markersize=8,
            alpha=0.85,
        )
    axes.axvline(1.0, color="black", linewidth=1.5)
    axes.set_yticks(list(places.values()), [f"{stage}: {case}" for stage, case in places])
    axes.set_ylim(-0.7, len(places) - 0.3)
    axes.set_xscale("log")
    axes.set_xlabel("measured time / modelled floor (1: nothing can be faster)")
    axes.set_title("Distance to the floor")
    axes.grid(True, axis="x", which="major", alpha=0.3)
    axes.grid(True, axis="y", alpha=0.15)
