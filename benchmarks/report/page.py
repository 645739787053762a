"""A report's files: Markdown, one self-contained HTML page, pictures, and the same as JSON.

The page is one file like that of ``prunevid run``: style inline, pictures as data URIs, nothing
fetched. Everything is made in memory before the first file is written.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from prunevid_kernels import __version__

from ..cost.latency.tables import latency_markdown, method_name
from ..datasets.registry import DATASETS
from .frame_curves import TITLES as FRAME_TITLES
from .frame_curves import frame_cells
from .notes import device_name
from .plots import accuracy_plot, time_plot
from .published import FULL_SET
from .share_plots import frame_plot, share_plot
from .shares import TITLES as SHARE_TITLES
from .shares import share_cells
from .summary import SCALE
from .table import Column, Line, Table

HTML_NAME = "report.html"
MARKDOWN_NAME = "report.md"
JSON_NAME = "report.json"
FULL_SET_LEGEND = (
    "EgoSchema's organisers keep most answers, and score the full set from a submission"
    " (prunevid eval egoschema --export)."
)

INTERVAL_LEGEND = (
    "Intervals are of 95 %: of right answers Wilson's for each task, put together over tasks"
    " (MOVER); of judged answers and of all differences a stratified bootstrap: questions drawn"
    " anew within their tasks, 10,000 times."
)
SHARES_LEGEND = (
    "The share is of the visual tokens that the decoder's layers run on, the mean over layers;"
    " prunevid methods says how each method is set to it. (off): it kept another share, by more"
    " than 1 % of all tokens. Behind a slash: what was published for this model, method and share."
    " Times are medians over the questions, of single passes during the evaluation, vision tower"
    " included (it ran once for all methods and counts for each): the processor's where one thread"
    " of a CPU did all, else those that passed, which compare nothing on a machine with other work."
)
FRAMES_LEGEND = (
    "Each curve has one number of tokens: twice the frames at half the share. A video with fewer"
    " frames than were asked for gives each frame once; the tokens then say so."
)


@dataclass(frozen=True)
class Cell:
    """One score, ready to print; ``score`` is None where nothing was measured."""

    score: str | None
    interval: str | None
    count: str
    published: str | None


@dataclass(frozen=True)
class PairedLine:
    """One comparison with the unpruned model, ready to print."""

    model: str
    label: str
    benchmark: str
    difference: str
    interval: str
    p_value: str
    shared: str


def write_paper_report(table: Table, folder: Path) -> list[Path]:
    """Write the files into ``folder``, made if missing.

    Returns:
        Their paths, the page first.

    Raises:
        OSError: the folder cannot be written.
    """
    pictures = {
        "accuracy.png": accuracy_plot(table),
        "time.png": time_plot(table.latency),
        "shares.png": share_plot(table.shares),
        "frames.png": frame_plot(table.curves),
    }
    files = {
        HTML_NAME: _html(table, pictures).encode(),
        MARKDOWN_NAME: report_markdown(table).encode(),
        JSON_NAME: (json.dumps(asdict(table), indent=1) + "\n").encode(),
    }
    files |= {name: content for name, content in pictures.items() if content is not None}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def cell(line: Line, column: Column) -> Cell:
    """What stands where a line and a column meet."""
    digits = 1 if SCALE[DATASETS[column.benchmark].scoring] == 100 else 2
    value = line.published_score(column)
    published = None if value is None else f"{value:.{digits}f}"
    entry = line.entries.get(column.benchmark)
    if entry is None or entry.row.score is None:
        return Cell(None, None, "0", published)
    if column.part is not None:
        task = entry.row.tasks.get(column.part)
        if task is None:
            return Cell(None, None, "0", published)
        return Cell(f"{task.score:.{digits}f}", None, f"{task.count:,}", published)
    interval = None
    if entry.row.interval is not None:
        interval = " to ".join(f"{value:.{digits}f}" for value in entry.row.interval)
    score = f"{entry.row.score:.{digits}f}"
    return Cell(score, interval, f"{entry.row.questions:,}", published)


def paired_lines(table: Table) -> list[PairedLine]:
    """Every method beside the unpruned run of its model."""
    found = []
    for line in table.lines:
        for name, entry in line.entries.items():
            if entry.against_unpruned is not None:
                compared = entry.against_unpruned
                low, high = compared.interval
                p_value = "–" if compared.p_value is None else f"{compared.p_value:.3g}"
                found.append(
                    PairedLine(
                        model=line.model,
                        label=line.label,
                        benchmark=DATASETS[name].title,
                        difference=f"{compared.difference:+.2f}",
                        interval=f"{low:+.2f} to {high:+.2f}",
                        p_value=p_value,
                        shared=f"{entry.shared:,}",
                    )
                )
    return found


def summary(table: Table) -> str:
    """The report in one sentence."""
    runs = sum(len(line.entries) for line in table.lines)
    shapes = len(table.latency)
    parts = [f"{runs} evaluation run{'s' * (runs != 1)}"] if runs else []
    parts += [f"{shapes} latency measurement{'s' * (shapes != 1)}"] if shapes else []
    models = dict.fromkeys(
        [line.model for line in table.lines] + [str(row["model"]) for row in table.latency]
    )
    return f"{' and '.join(parts)} of {', '.join(models)}."


# ------------------------------------------------------------------------------------------------
# Markdown
# ------------------------------------------------------------------------------------------------


def report_markdown(table: Table) -> str:
    """The report as Markdown."""
    parts = [f"# PruneVid: measured beside published\n\n{summary(table)}\n"]
    if table.notes:
        parts.append(
            "\n".join(["## Before you believe a number\n", *map(_item, table.notes)]) + "\n"
        )
    if table.lines:
        parts.append("## Scores\n\n" + _scores(table))
    if by_type := _by_type(table):
        parts.append("## By type of question\n\n" + by_type)
    if paired := paired_lines(table):
        parts.append("## Against the unpruned model\n\n" + _paired(paired))
    if table.shares:
        cells = _table(SHARE_TITLES, share_cells(table.shares))
        parts.append(f"## At equal shares\n\n{cells}\n{SHARES_LEGEND}\n")
    if table.curves:
        cells = _table(FRAME_TITLES, frame_cells(table.curves))
        parts.append(f"## The same tokens from more frames\n\n{cells}\n{FRAMES_LEGEND}\n")
    if table.latency:
        parts.append("## Where the time goes\n\n" + latency_markdown(table.latency))
    if table.lines:
        parts.append(f"## Intervals\n\n{INTERVAL_LEGEND}\n")
    stamps = [f"{environment_line(item)}\n" for item in table.environments]
    parts.append("## Made with\n\n" + "\n".join(stamps))
    return "\n".join(parts)


def _item(note: str) -> str:
    return f"- {note}"


def _scores(table: Table) -> str:
    titles = ["Model", "Method", "Retained", "Cache", "FLOPs"]
    titles += [column.title for column in table.columns]
    rows = []
    for line in table.lines:
        paper = line.published
        rows.append(
            [
                line.model,
                line.label,
                _beside(_percent(line.retained), _percent(paper.retained) if paper else None),
                _percent(line.cached_ratio),
                _beside(_ratio(line.flops_ratio), _ratio(paper.flops_ratio) if paper else None),
                *(_in_words(cell(line, column)) for column in table.columns),
            ]
        )
    legend = "Each cell: measured [95% interval] of so many answers / published, with own options."
    if Column("egoschema", FULL_SET) in table.columns:
        legend += f" {FULL_SET_LEGEND}"
    return f"{_table(titles, rows)}\n{legend}\n"


def _by_type(table: Table) -> str:
    """Scores on generated clips by type, a table for each model and set of clips; "" without any.

    The types are made to need different things of a video; of other benchmarks the parts that
    papers report are columns of their own.
    """
    parts = []
    generated = [name for name, dataset in DATASETS.items() if dataset.scoring == "word"]
    for name in generated:
        for model in dict.fromkeys(line.model for line in table.lines):
            lines = [line for line in table.lines if line.model == model and name in line.entries]
            tasks = [line.entries[name].row.tasks for line in lines]
            types = list(dict.fromkeys(kind for scores in tasks for kind in scores))
            if not types:
                continue
            rows = [
                [line.label, *(f"{scores[k].score:.0f}" if k in scores else "–" for k in types)]
                for line, scores in zip(lines, tasks, strict=True)
            ]
            counts = [score.count for scores in tasks for score in scores.values()]
            parts.append(
                f"{DATASETS[name].title}, {model}: right answers, %, of {min(counts):,} to"
                f" {max(counts):,} each\n\n{_table(['Method', *types], rows)}"
            )
    return "\n".join(parts)


def _paired(lines: Sequence[PairedLine]) -> str:
    titles = [
        "Model",
        "Method",
        "Benchmark",
        "Difference",
        "95% interval",
        "McNemar p",
        "Questions",
    ]
    return _table(titles, [list(asdict(line).values()) for line in lines])


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    escaped = [[text.replace("|", "\\|") for text in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def _in_words(item: Cell) -> str:
    measured = "–"
    if item.score is not None:
        interval = f" [{item.interval}]" if item.interval else ""
        measured = f"{item.score}{interval} of {item.count}"
    return _beside(measured, item.published)


def _beside(measured: str, published: str | None) -> str:
    return measured if published is None else f"{measured} / {published}"


# ------------------------------------------------------------------------------------------------
# The page
# ------------------------------------------------------------------------------------------------


def _html(table: Table, pictures: Mapping[str, bytes | None]) -> str:
    # Everything that came from the user (names of models and folders, errors) is escaped.
    environment = Environment(
        loader=PackageLoader("prunevid_kernels.benchmarks.support"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "percent": _percent,
        "ratio": _ratio,
        "cell": cell,
        "environment": environment_line,
        "method_name": method_name,
        "token_share": _token_share,
    }
    shapes = [
        list(rows)
        for _, rows in groupby(table.latency, key=lambda r: (r["model"], r["frames"], r["batch"]))
    ]
    benchmarks = {column.benchmark for column in table.columns}
    return environment.get_template("paper_report.html.j2").render(
        table=table,
        summary=summary(table),
        full_set=FULL_SET_LEGEND if Column("egoschema", FULL_SET) in table.columns else None,
        choice=any(DATASETS[name].scoring == "choice" for name in benchmarks),
        paired=paired_lines(table),
        shapes=shapes,
        accuracy_uri=_data_uri(pictures["accuracy.png"]),
        time_uri=_data_uri(pictures["time.png"]),
        shares_uri=_data_uri(pictures["shares.png"]),
        frames_uri=_data_uri(pictures["frames.png"]),
        interval_legend=INTERVAL_LEGEND,
        share_titles=SHARE_TITLES,
        share_cells=share_cells(table.shares),
        shares_legend=SHARES_LEGEND,
        frame_titles=FRAME_TITLES,
        frame_cells=frame_cells(table.curves),
        frames_legend=FRAMES_LEGEND,
        version=__version__,
    )


def environment_line(environment: Mapping[str, Any]) -> str:
    """Device, versions, commit and date."""
    packages = environment.get("packages", {})
    versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    commit = str(environment.get("commit") or "unknown")[:10]
    changed = " with uncommitted changes" if environment.get("has_uncommitted_changes") else ""
    date = str(environment.get("date", "unknown date"))[:10]
    return f"{device_name(environment)}; {versions}; commit {commit}{changed}; {date}."


def _data_uri(png: bytes | None) -> str | None:
    if png is None:
        return None
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}x"


def _token_share(row: Mapping[str, Any], key: str) -> float:
    return float(sum(row[key]) / len(row[key]) / row["visual_tokens"])
