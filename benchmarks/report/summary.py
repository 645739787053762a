"""From the lines of runs to their scores: one for each model, method and benchmark.

A score is the mean of the tasks' means, as the published numbers are; with equally many questions
in each task that is the share of right answers. Unanswered counts as wrong. Questions that were
never asked, because their video is missing, count neither way: their number stands in the row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunevid_kernels.adapters.families import FAMILIES

from ..accuracy.run_log import Run, RunLogError
from ..datasets.registry import DATASETS
from ..datasets.vcgbench import DIMENSIONS
from .published import published_score
from .statistics import (
    Interval,
    macro_bootstrap_interval,
    macro_mean,
    macro_share_interval,
    mcnemar_p_value,
    paired_difference,
)

SCALE = {"judge": 1.0, "choice": 100.0, "word": 100.0}


@dataclass(frozen=True)
class TaskScore:
    """A task (or judged dimension): its score and how many answers that is of."""

    score: float
    count: int


@dataclass(frozen=True)
class RunScore:
    """What one run scored, and what it cost.

    Attributes:
        benchmark, model, family, method: what ran.
        options: of the method, where they are not its defaults.
        label: the method as tables call it, see :func:`run_label`.
        score: percent, or from 0 to 5 for judged answers; None while nothing is scored.
        interval: 95% interval of ``score``.
        published: the number that stands beside the score, see :func:`.published.published_score`.
        questions: answers that count in ``score``; a judged one counts once for each dimension.
        unanswered: those of them that name no option, counted as wrong.
        skipped: questions that were not asked, because their video could not be read.
        unjudged: replies of the judge without a score.
        retained: kept visual tokens as a share of all, over all questions.
        cached_ratio: what the caches hold of the prompts, as a share of the unpruned; mean.
        flops_ratio: form -> multiply-accumulates of all prompts as a share of the unpruned ones.
        seconds: mean over questions.
        readers: what read the videos -> of how many questions.
    """

    benchmark: str
    model: str
    family: str
    method: str
    options: dict[str, Any]
    label: str
    score: float | None
    interval: Interval | None
    published: float | None
    tasks: dict[str, TaskScore]
    questions: int
    unanswered: int
    skipped: int
    unjudged: int
    retained: float | None
    cached_ratio: float | None
    flops_ratio: dict[str, float]
    seconds: float | None
    readers: dict[str, int]


def summarise(run: Run, extractor: str) -> RunScore:
    """The row of one run; ``extractor`` says how answers to multiple-choice questions are read."""
    settings, answered = run.settings, run.answered
    benchmark = DATASETS[settings["benchmark"]]
    values = task_values(run, extractor)
    score = interval = None
    if values:
        scale = SCALE[benchmark.scoring]
        score = scale * macro_mean(values)
        is_judged = benchmark.scoring == "judge"
        find = macro_bootstrap_interval if is_judged else macro_share_interval
        low, high = find(values)
        interval = (scale * low, scale * high)
    before = sum(record.tokens_before for record in answered)
    kept = sum(record.tokens_kept for record in answered)
    unanswered = 0
    if benchmark.scoring == "choice":
        unanswered = sum(r.predictions.get(extractor) is None for r in answered if r.correct)
    return RunScore(
        benchmark=settings["benchmark"],
        model=settings["model"],
        family=settings["family"],
        method=settings["method"],
        options=settings["options"],
        label=run_label(settings),
        score=score,
        interval=interval,
        published=published_score(settings),
        tasks={
            task: TaskScore(SCALE[benchmark.scoring] * float(np.mean(list_)), len(list_))
            for task, list_ in values.items()
        },
        questions=sum(map(len, values.values())),
        unanswered=unanswered,
        skipped=len(run.skipped),
        unjudged=sum(item.score is None for item in run.judgements.values()),
        retained=kept / before if before else None,
        cached_ratio=_mean([record.cached_ratio for record in answered]),
        flops_ratio=_flops_ratio(run),
        seconds=_mean([sum(record.seconds.values()) for record in answered]),
        readers=dict(Counter(record.reader for record in answered if record.reader)),
    )


@dataclass(frozen=True)
class Comparison:
    """Two runs on the questions that both answered.

    Attributes:
        first, second: labels of the runs.
        difference: how much higher the second scores, in the unit of the score.
        interval: 95% interval of it, questions resampled.
        p_value: McNemar's exact test; None for judged answers, which are not right or wrong.
    """

    first: str
    second: str
    difference: float
    interval: Interval
    p_value: float | None


def compare(first: Run, second: Run, extractor: str) -> Comparison | None:
    """How the second run differs; None where the two share no scored question."""
    scoring = DATASETS[first.settings["benchmark"]].scoring
    ours, theirs = paired_values(first, extractor), paired_values(second, extractor)
    pairs = [
        (value, theirs[task][name])
        for task, values in ours.items()
        for name, value in values.items()
        if name in theirs.get(task, {})
    ]
    if not pairs:
        return None
    difference, (low, high) = paired_difference(ours, theirs)
    p_value = None
    if scoring != "judge":
        p_value = mcnemar_p_value([a == 1 for a, _ in pairs], [b == 1 for _, b in pairs])
    scale = SCALE[scoring]
    labels = [run_label(run.settings) for run in (first, second)]
    interval = (scale * low, scale * high)
    return Comparison(labels[0], labels[1], scale * difference, interval, p_value)


def task_values(run: Run, extractor: str) -> dict[str, list[float]]:
    """Task -> the value of each of its questions, in the order of their ids: 0 or 1, or a judge's
    score by dimension."""
    return {task: list(values.values()) for task, values in paired_values(run, extractor).items()}


def paired_values(run: Run, extractor: str) -> dict[str, dict[str, float]]:
    """Task -> question id -> value, for comparing runs question by question."""
    values: dict[str, dict[str, float]] = {}
    if DATASETS[run.settings["benchmark"]].scoring == "judge":
        for item in sorted(run.judgements.values(), key=lambda item: item.id):
            if item.score is not None:
                values.setdefault(item.dimension, {})[item.id] = item.score
        return {name: values[name] for name in DIMENSIONS if name in values}
    for record in sorted(run.answered, key=lambda record: record.id):
        if record.correct:
            key = extractor if extractor in record.correct else "word"
            if key not in record.correct:
                raise RunLogError(
                    f"{run.folder}: {record.id} was not read by the {extractor} extractor"
                )
            values.setdefault(record.task, {})[record.id] = float(record.correct[key])
    return values


def scores_markdown(rows: Sequence[RunScore]) -> str:
    """The table of all rows, and one of their tasks."""
    title = DATASETS[rows[0].benchmark].title
    lines = [
        f"| Model | Method | Retained | KV cache | FLOPs | {title} | 95% interval | Published |"
        " Questions | Unanswered | Skipped |",
        "|---" * 11 + "|",
    ]
    for row in rows:
        cells = [
            f"{row.model} ({FAMILIES[row.family].title})",
            row.label,
            _cell(row.retained, ".1%"),
            _cell(row.cached_ratio, ".1%"),
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
        lines += [
            "",
            f"| Task | {' | '.join(row.label for row in rows)} |",
        ]
        lines.append("|---" * (len(rows) + 1) + "|")
        for task in tasks:
            found = [row.tasks.get(task) for row in rows]
            cells = ["–" if item is None else f"{item.score:.2f} ({item.count})" for item in found]
            lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


def comparison_lines(comparisons: Sequence[Comparison]) -> str:
    """One sentence a pair."""
    lines = []
    for item in comparisons:
        low, high = item.interval
        test = "" if item.p_value is None else f", McNemar p = {item.p_value:.3g}"
        lines.append(
            f"{item.second} against {item.first}: {item.difference:+.2f}"
            f" (95% interval {low:+.2f} to {high:+.2f}{test})"
        )
    return "\n".join(lines)


def method_label(method: str, options: Mapping[str, Any], retain: float | None = None) -> str:
    """The method with the share that it was told to keep, from which its options follow, or with
    the options that were set."""
    if retain is not None:
        return f"{method} at {retain:g}"
    listed = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"{method} ({listed})" if listed else method


def run_label(settings: Mapping[str, Any]) -> str:
    """:func:`method_label` of a run."""
    return method_label(settings["method"], settings["options"], settings.get("retain"))


def _flops_ratio(run: Run) -> dict[str, float]:
    """Sum over questions before the division: FLOPs are averaged, not ratios."""
    totals: dict[str, list[float]] = {}
    for record in run.answered:
        for form, counts in record.flops.items():
            total = totals.setdefault(form, [0.0, 0.0])
            total[0] += counts["method"]
            total[1] += counts["unpruned"]
    return {form: method / unpruned for form, (method, unpruned) in totals.items()}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
