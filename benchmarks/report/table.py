"""Runs of ``prunevid eval`` and latency files put together: the paper's table, and what to doubt.

A line is a model with one method and its options; a cell is what that scored on a benchmark, with
its interval, how many questions that is of, and the published number of the same family and method.
Against the unpruned run of the same model every method is compared question by question. What would
mislead a reader does not stop the report but stands in its notes: runs that are not finished, that
asked different questions, or that were made by different versions. What cannot be right is an
error: a damaged file, or one cell measured twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from prunevid_kernels.adapters.checkpoint.json_text import parse_json, read_bytes, require_text

from ..accuracy.run_log import SETTINGS, Run, RunLogError, read_run
from ..cost.latency.stages import STAGES
from ..datasets.registry import DATASETS
from ..datasets.vcgbench import DIMENSIONS
from ..support.shapes import require_shape
from .frame_curves import FrameRow, frame_rows
from .notes import distinct, latency_notes, run_notes
from .published import FULL_SET, PublishedRow, published_row, published_rows
from .shares import ShareRow, share_rows
from .summary import Comparison, RunScore, compare, method_label, paired_values, summarise

UNPRUNED = "full"
LATENCY_FILE = "latency.json"
CELL_KEYS = ("benchmark", "model", "method", "options", "frames")

# What a report reads of a file; files have more.
_QUANTILES = {"median": float, "p10": float, "p90": float}
_SETTINGS = {
    "benchmark": str,
    "model": str,
    "method": str,
    "family": str,
    "options": {str: object},
    "questions": int,
}
_LATENCY_ROW = {
    "model": str,
    "method": str,
    "options": {str: object},
    "features": str,
    "device": str,
    "dtype": str,
    "attention": str,
    "frames": int,
    "batch": int,
    "output_tokens": int,
    "status": str,
    "reason": (None, str),
    "text_tokens": int,
    "visual_tokens": int,
    "merged_tokens": [int],
    "kept_tokens": [int],
    "runs": int,
    "cold_ms": (None, float),
    "read_ms": (None, _QUANTILES),
    "stages": {str: _QUANTILES},
    "first_token_ms": (None, _QUANTILES),
    "ms_per_token": (None, _QUANTILES),
    "tokens_per_s": (None, float),
    "peak_memory_bytes": (None, float),
    "kv_bytes": float,
    "flops": {str: float},
    "speedup": (None, float),
}
# Of a row whose status is "ok".
_TIMED_ROW = {
    "stages": dict.fromkeys(STAGES, _QUANTILES),
    "first_token_ms": _QUANTILES,
    "ms_per_token": _QUANTILES,
    "tokens_per_s": float,
}
# Of an environment, where it has these.
_ENVIRONMENT = {
    "packages": {str: (None, str)},
    "gpu": (None, {"name": str}),
    "commit": (None, str),
    "date": str,
    "device": str,
}


class ReportError(ValueError):
    """Runs that make no report; the message is one line."""


@dataclass(frozen=True)
class Column:
    """A column of scores: a benchmark, or a part of it.

    Attributes:
        part: a judged dimension, or EgoSchema's full set, which can be published but not measured:
            its answers are the organisers'. None: what the benchmark scores.
    """

    benchmark: str
    part: str | None = None

    @property
    def title(self) -> str:
        benchmark = DATASETS[self.benchmark]
        if self.part == FULL_SET:
            return f"EgoSchema ({FULL_SET})"
        if benchmark.scoring != "judge":
            return benchmark.title
        return f"{benchmark.title}, {self.part or 'mean'}"


@dataclass(frozen=True)
class Entry:
    """One run in the table.

    Attributes:
        row: its scores.
        against_unpruned: how it differs from the unpruned run of its model; None without one.
        shared: scored questions that both answered.
    """

    row: RunScore
    against_unpruned: Comparison | None = None
    shared: int = 0


@dataclass(frozen=True)
class Line:
    """A model with one method.

    Attributes:
        entries: by benchmark; empty for a method that was published but not run.
        retained, flops_ratio: over all questions of all benchmarks; None where nothing ran.
        cached_ratio: what the caches hold, as a share of the unpruned; mean over questions.
        published: the paper's row; None for a model that is not the paper's.
        retain: the share of the visual tokens that it was told to keep; None: none.
        frames: of each video; None: as many as in the model's other runs.
    """

    model: str
    family: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    retained: float | None = None
    flops_ratio: float | None = None
    cached_ratio: float | None = None
    published: PublishedRow | None = None
    retain: float | None = None
    frames: int | None = None

    @property
    def label(self) -> str:
        label = method_label(self.method, self.options, self.retain)
        return label if self.frames is None else f"{label}, {self.frames} frames"

    def published_score(self, column: Column) -> float | None:
        if self.published is not None:
            return self.published.score(column.benchmark, column.part)
        entry = self.entries.get(column.benchmark)
        return entry.row.published if entry and column.part is None else None


@dataclass(frozen=True)
class Table:
    """Everything that the report shows.

    Attributes:
        latency: rows of latency files, in the order given.
        shares: runs at equal terms; empty without any.
        curves: of those, runs that spend the same tokens on more and on fewer frames.
        notes: what a reader has to know before believing a number, a sentence each.
        environments: what the numbers were made with, each once.
    """

    columns: list[Column]
    lines: list[Line]
    latency: list[dict[str, Any]]
    notes: list[str]
    environments: list[dict[str, Any]]
    extractor: str
    shares: list[ShareRow] = field(default_factory=list)
    curves: list[FrameRow] = field(default_factory=list)


def build_table(paths: Sequence[Path], extractor: str) -> Table:
    """Read everything and put it together.

    Args:
        paths: run folders, folders of run folders, latency files or their folders.
        extractor: how answers to multiple-choice questions are read.

    Raises:
        ReportError: nothing there, something that is no result, one cell measured twice.
        RunLogError: a damaged run folder.
    """
    runs: list[Run] = []
    latency: list[dict[str, Any]] = []
    for path in paths:
        for found in _results(path):
            if isinstance(found, Run):
                runs.append(found)
            else:
                latency.append(found)
    _require_distinct(runs)
    lines = _lines(runs, extractor)
    names = [name for name in DATASETS if any(name in line.entries for line in lines)]
    rows = [row for content in latency for row in content["rows"]]
    environments = [content["environment"] for content in latency]
    return Table(
        columns=[column for name in names for column in _columns(name)],
        lines=lines,
        latency=rows,
        notes=[*run_notes(runs), *_unpaired(lines), *latency_notes(rows)],
        environments=distinct([run.environment for run in runs] + environments),
        extractor=extractor,
        shares=share_rows(runs, extractor),
        curves=frame_rows(runs, extractor),
    )


# ------------------------------------------------------------------------------------------------
# Reading
# ------------------------------------------------------------------------------------------------


def _results(path: Path) -> Iterator[Run | dict[str, Any]]:
    """The runs and latency files that a path stands for."""
    if path.is_file():
        yield read_latency(path)
    elif (path / SETTINGS).is_file():
        yield read_run(path)
    elif (path / LATENCY_FILE).is_file():
        yield read_latency(path / LATENCY_FILE)
    elif path.is_dir():
        folders = sorted(file.parent for file in path.glob(f"*/{SETTINGS}"))
        if not folders:
            raise ReportError(f"{path}: neither a run, nor runs, nor {LATENCY_FILE} in it")
        yield from map(read_run, folders)
    else:
        raise ReportError(f"{path}: no such file or folder")


def read_latency(path: Path) -> dict[str, Any]:
    """``environment`` and ``rows`` of a file of ``prunevid bench latency`` or ``on_gpu``.

    Raises:
        ReportError: the file is something else, or damaged.
    """
    try:
        content = parse_json(read_bytes(path))
        require_text(content)
        if content["kind"] == "on_gpu":
            content = {**content, **content["sections"]["end_to_end"], "kind": "latency"}
        if content["kind"] != "latency":
            raise ReportError(f"{path}: holds {content['kind']!r}, not latency")
        rows, environment = content["rows"], content["environment"]
        for row in rows:
            _require_row(row)
        _require_environment(environment)
        return {"environment": environment, "rows": rows}
    except ReportError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{path}: not a file of prunevid bench latency: {error}") from error


def _require_row(row: Any) -> None:
    require_shape(row, _LATENCY_ROW, "row")
    if row["status"] == "ok":
        require_shape(row, _TIMED_ROW, "row")
        if not row["merged_tokens"] or not row["kept_tokens"] or not row["visual_tokens"]:
            raise ValueError("a timed row has no visual tokens")
    elif row["stages"]:
        require_shape(row["stages"], _TIMED_ROW["stages"], "row.stages")


def _require_environment(environment: Any) -> None:
    require_shape(environment, {}, "environment")
    known = {name: shape for name, shape in _ENVIRONMENT.items() if name in environment}
    require_shape(environment, known, "environment")


def _require_distinct(runs: Sequence[Run]) -> None:
    seen: dict[str, Path] = {}
    for run in runs:
        settings = run.settings
        try:
            require_shape(settings, _SETTINGS, "settings")
            _require_environment(run.environment)
        except ValueError as error:
            raise RunLogError(f"{run.folder / SETTINGS}: {error}") from error
        cell = json.dumps([settings.get(key) for key in CELL_KEYS], sort_keys=True)
        if settings["benchmark"] not in DATASETS:
            raise RunLogError(f"{run.folder}: unknown benchmark {settings['benchmark']!r}")
        if cell in seen:
            raise ReportError(
                f"{seen[cell]} and {run.folder} are the same model, method and benchmark;"
                " leave one out"
            )
        seen[cell] = run.folder


# ------------------------------------------------------------------------------------------------
# Lines
# ------------------------------------------------------------------------------------------------


def _columns(benchmark: str) -> list[Column]:
    if benchmark == "egoschema":
        return [Column(benchmark), Column(benchmark, FULL_SET)]
    if DATASETS[benchmark].scoring != "judge":
        return [Column(benchmark)]
    return [*(Column(benchmark, name) for name in DIMENSIONS), Column(benchmark)]


def _lines(runs: Sequence[Run], extractor: str) -> list[Line]:
    """Models in the order given; of each the unpruned line first, then what was run, then what was
    only published."""
    groups: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        own = {key: run.settings.get(key) for key in ("method", "options", "retain", "frames")}
        by_line = groups.setdefault(run.settings["model"], {})
        by_line.setdefault(json.dumps(own, sort_keys=True), []).append(run)
    lines = []
    for by_line in groups.values():
        of_model = [run for group in by_line.values() for run in group]
        found = [_line(group, of_model, extractor) for group in by_line.values()]
        lines += sorted(found, key=lambda line: line.method != UNPRUNED)
        lines += _only_published(found)
    return lines


def _line(group: Sequence[Run], of_model: Sequence[Run], extractor: str) -> Line:
    settings = group[0].settings
    records = [record for run in group for record in run.answered]
    before = sum(record.tokens_before for record in records)
    unpruned = sum(record.flops["paper"]["unpruned"] for record in records if record.flops)
    method = sum(record.flops["paper"]["method"] for record in records if record.flops)
    return Line(
        model=settings["model"],
        family=settings["family"],
        method=settings["method"],
        options=settings["options"],
        entries={run.settings["benchmark"]: _entry(run, of_model, extractor) for run in group},
        retained=sum(record.tokens_kept for record in records) / before if before else None,
        flops_ratio=method / unpruned if unpruned else None,
        cached_ratio=fmean(record.cached_ratio for record in records) if records else None,
        published=published_row(settings),
        retain=settings.get("retain"),
        frames=settings["frames"] if _frames_differ(of_model) else None,
    )


def _frames_differ(runs: Sequence[Run]) -> bool:
    return len({run.settings.get("frames") for run in runs}) > 1


def _entry(run: Run, of_model: Sequence[Run], extractor: str) -> Entry:
    row = summarise(run, extractor)
    if run.settings["method"] == UNPRUNED:
        return Entry(row)
    for other in of_model:
        is_same = all(
            other.settings.get(key) == run.settings.get(key) for key in ("benchmark", "frames")
        )
        if other.settings["method"] == UNPRUNED and is_same:
            ours, theirs = paired_values(other, extractor), paired_values(run, extractor)
            shared = sum(len(ours[task].keys() & theirs.get(task, {}).keys()) for task in ours)
            return Entry(row, compare(other, run, extractor), shared)
    return Entry(row)


def _only_published(found: Sequence[Line]) -> list[Line]:
    """Lines of the paper's other methods for the model of these lines."""
    first, measured = found[0], {line.method for line in found if line.published}
    if not measured:
        return []
    return [
        Line(first.model, family, method, published=row)
        for (family, method), row in published_rows().items()
        if family == first.family and method not in measured
    ]


def _unpaired(lines: Sequence[Line]) -> list[str]:
    return [
        f"{line.model}, {line.label} on {name}: no scored questions in common with a run of the"
        " unpruned model, so no paired comparison."
        for line in lines
        for name, entry in line.entries.items()
        if line.method != UNPRUNED and entry.against_unpruned is None
    ]
