"""From the lines of runs to the paper's table: a row for each model and method.

A score is the mean of the tasks' means, as the published numbers are; with equally many questions
in each task that is the share of right answers. Unanswered counts as wrong. Questions that were
never asked, because their video is missing, count neither way: their number stands in the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .datasets.registry import BENCHMARKS
from .datasets.vcgbench import DIMENSIONS
from .published import FAMILY_TITLES, published_rows
from .run_log import Run
from .statistics import Interval, macro_bootstrap_interval, macro_mean, macro_share_interval

SCALE = {"judge": 1.0, "choice": 100.0, "word": 100.0}


@dataclass(frozen=True)
class TaskScore:
    """A task (or judged dimension): its score and how many answers that is of."""

    score: float
    count: int


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        benchmark, model, family, method: what ran.
        options: of the method, where they are not its defaults.
        score: percent, or from 0 to 5 for judged answers; None while nothing is scored.
        interval: 95% interval of ``score``.
        published: the paper's number for this family, method and benchmark, if it has one.
        questions: answers that count in ``score``; a judged one counts once for each dimension.
        unanswered: those of them that name no option, counted as wrong.
        skipped: questions that were not asked, because their video could not be read.
        unjudged: replies of the judge without a score.
        retained: kept visual tokens as a share of all, over all questions.
        flops_ratio: form -> multiply-accumulates of all prompts as a share of the unpruned ones.
        seconds: mean over questions.
    """

    benchmark: str
    model: str
    family: str
    method: str
    options: dict[str, Any]
    score: float | None
    interval: Interval | None
    published: float | None
    tasks: dict[str, TaskScore]
    questions: int
    unanswered: int
    skipped: int
    unjudged: int
    retained: float | None
    flops_ratio: dict[str, float]
    seconds: float | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def summarise(run: Run, extractor: str) -> Row:
    """The row of one run; ``extractor`` says how answers to multiple-choice questions are read."""
    settings, answered = run.settings, run.answered
    benchmark = BENCHMARKS[settings["benchmark"]]
    values = task_values(run, extractor)
    score = interval = None
    if values:
        scale = SCALE[benchmark.scoring]
        score = scale * macro_mean(values)
        find = macro_bootstrap_interval if benchmark.scoring == "judge" else macro_share_interval
        low, high = find(values)  # type: ignore[operator]
        interval = (scale * low, scale * high)
    published = published_rows().get((settings["family"], settings["method"]))
    before = sum(record.tokens_before for record in answered)
    kept = sum(record.tokens_kept for record in answered)
    unanswered = 0
    if benchmark.scoring == "choice":
        unanswered = sum(r.predictions[extractor] is None for r in answered if r.correct)
    return Row(
        benchmark=settings["benchmark"],
        model=settings["model"],
        family=settings["family"],
        method=settings["method"],
        options=settings["options"],
        score=score,
        interval=interval,
        published=published.score(settings["benchmark"]) if published else None,
        tasks={
            task: TaskScore(SCALE[benchmark.scoring] * float(np.mean(list_)), len(list_))
            for task, list_ in values.items()
        },
        questions=sum(map(len, values.values())),
        unanswered=unanswered,
        skipped=len(run.skipped),
        unjudged=sum(item.score is None for item in run.judgements.values()),
        retained=kept / before if before else None,
        flops_ratio=_flops_ratio(run),
        seconds=float(np.mean([sum(r.seconds.values()) for r in answered])) if answered else None,
    )


def task_values(run: Run, extractor: str) -> dict[str, list[float]]:
    """Task -> the value of each of its questions, in the order of their ids: 0 or 1, or a judge's
    score by dimension."""
    return {task: list(values.values()) for task, values in paired_values(run, extractor).items()}


def paired_values(run: Run, extractor: str) -> dict[str, dict[str, float]]:
    """Task -> question id -> value, for comparing runs question by question."""
    values: dict[str, dict[str, float]] = {}
    if BENCHMARKS[run.settings["benchmark"]].scoring == "judge":
        for item in sorted(run.judgements.values(), key=lambda item: item.id):
            if item.score is not None:
                values.setdefault(item.dimension, {})[item.id] = item.score
        return {name: values[name] for name in DIMENSIONS if name in values}
    for record in sorted(run.answered, key=lambda record: record.id):
        if record.correct:
            key = extractor if extractor in record.correct else "word"
            values.setdefault(record.task, {})[record.id] = float(record.correct[key])
    return values


def markdown(rows: Sequence[Row]) -> str:
    """The table of all rows, and one of their tasks."""
    title = BENCHMARKS[rows[0].benchmark].title
    lines = [
        f"| Model | Method | Retained | FLOPs | {title} | 95% interval | Published | Questions |"
        " Unanswered | Skipped |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            f"{row.model} ({FAMILY_TITLES[row.family]})",
            method_label(row),
            _cell(row.retained, ".1%"),
            "–" if not row.flops_ratio else f"{row.flops_ratio['paper']:.2f}x",
            _cell(row.score, ".2f"),
            "–" if row.interval is None else f"{row.interval[0]:.2f} to {row.interval[1]:.2f}",
            _cell(row.published, "g"),
            str(row.questions),
            str(row.unanswered),
            str(row.skipped),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    tasks = list(dict.fromkeys(task for row in rows for task in row.tasks))
    if len(tasks) > 1:
        lines += ["", f"| Task | {' | '.join(method_label(row) for row in rows)} |"]
        lines.append("|---" * (len(rows) + 1) + "|")
        for task in tasks:
            found = [row.tasks.get(task) for row in rows]
            cells = ["–" if item is None else f"{item.score:.2f} ({item.count})" for item in found]
            lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


def method_label(row: Row) -> str:
    """The method, with the options that were set."""
    options = ", ".join(f"{name}={value}" for name, value in row.options.items())
    return f"{row.method} ({options})" if options else row.method


def _flops_ratio(run: Run) -> dict[str, float]:
    """Sum over questions before the division: FLOPs are averaged, not ratios."""
    totals: dict[str, list[float]] = {}
    for record in run.answered:
        for form, counts in record.flops.items():
            total = totals.setdefault(form, [0.0, 0.0])
            total[0] += counts["method"]
            total[1] += counts["dense"]
    return {form: method / dense for form, (method, dense) in totals.items()}


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
