"""Runs at equal terms, ``prunevid eval --retain``: what each method scores at the share of the
visual tokens that it was told to keep.

The share is the mean over the decoder's layers, so that it means the same for a method that drops
tokens before the decoder and one that drops them inside it; what was really kept stands beside it,
marked where the two differ by more than 1 %. Times to the first token are of single passes during
the evaluation, vision tower included: their medians compare methods on one machine that did nothing
else, and ``prunevid bench latency`` measures. Methods that cannot be told a share stand there as
they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Any

from ..accuracy.run_log import Run
from ..accuracy.terms import TOLERANCE
from ..datasets.registry import DATASETS
from .summary import Comparison, RunScore, compare, method_label, summarise

UNPRUNED, OURS = "full", "prunevid"


@dataclass(frozen=True)
class ShareRow:
    """One run.

    Attributes:
        benchmark, model, method: what ran.
        asked: share of the visual tokens that was to be kept; None: the method has no knob.
        kept: what was kept, the mean over layers and questions; None in logs that do not say.
        entering: share that entered the decoder.
        flops_ratio: of the prefill, the paper's count, as a share of the unpruned model's.
        first_token_ms: 10th, 50th and 90th percentile over questions.
        score: its scores.
        against_unpruned: question by question, beside the unpruned model.
        against_ours: the same beside PruneVid at the same share.
    """

    benchmark: str
    model: str
    method: str
    asked: float | None
    kept: float | None
    entering: float
    flops_ratio: float | None
    first_token_ms: tuple[float, float, float] | None
    score: RunScore
    against_unpruned: Comparison | None
    against_ours: Comparison | None

    @property
    def is_off(self) -> bool:
        """Whether it kept another share than was asked for."""
        if self.asked is None or self.kept is None:
            return False
        return abs(self.kept - self.asked) > TOLERANCE


def share_rows(runs: Sequence[Run], extractor: str) -> list[ShareRow]:
    """The runs of each model and benchmark that was run at shares, by share; first those without
    a knob."""
    rows: list[ShareRow] = []
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.settings["model"], run.settings["benchmark"]), []).append(run)
    for group in groups.values():
        if any("retain" in run.settings for run in group):
            found = [_row(run, group, extractor) for run in group if run.answered]
            rows += sorted(found, key=lambda row: row.asked or 0.0)
    return rows


def _row(run: Run, group: Sequence[Run], extractor: str) -> ShareRow:
    settings, records = run.settings, run.answered
    share = settings.get("retain")
    score = summarise(run, extractor)
    before = sum(record.tokens_before for record in records)
    kept = [record.layers_ratio for record in records if record.layers_ratio is not None]
    times = [record.first_token_ms for record in records if record.first_token_ms is not None]

    def beside(method: str, retain: float | None) -> Comparison | None:
        for other in group:
            is_it = other.settings["method"] == method and other.settings.get("retain") == retain
            if is_it and other is not run:
                return compare(other, run, extractor)
        return None

    return ShareRow(
        benchmark=settings["benchmark"],
        model=settings["model"],
        method=settings["method"] if share is not None else _label(run),
        asked=share,
        kept=fmean(kept) if kept else None,
        entering=sum(record.tokens_merged for record in records) / before if before else 1.0,
        flops_ratio=score.flops_ratio.get("paper"),
        first_token_ms=_percentiles(times),
        score=score,
        against_unpruned=beside(UNPRUNED, None),
        against_ours=None if share is None else beside(OURS, share),
    )


def _label(run: Run) -> str:
    return method_label(run.settings["method"], run.settings["options"])


def _percentiles(values: Sequence[float]) -> tuple[float, float, float] | None:
    if not values:
        return None
    if len(values) == 1:
        return values[0], values[0], values[0]
    tenths = quantiles(values, n=10, method="inclusive")
    return tenths[0], tenths[4], tenths[8]


TITLES = (
    "Benchmark",
    "Share asked",
    "Method",
    "Kept, mean over layers",
    "Into the decoder",
    "FLOPs",
    "First token, ms (p10 to p90)",
    "Score (95% interval)",
    "Beside full",
    "Beside prunevid at this share",
)


def share_cells(rows: Sequence[ShareRow]) -> list[list[str]]:
    """The table below :data:`TITLES`, ready to print."""
    several = len({row.model for row in rows}) > 1
    return [
        [
            DATASETS[row.benchmark].title + (f", {row.model}" if several else ""),
            "as it is" if row.asked is None else f"{row.asked:g}",
            row.method,
            _text(row.kept, lambda kept: f"{kept:.1%}")
            + (" (off by more than 1 %)" if row.is_off else ""),
            f"{row.entering:.1%}",
            _text(row.flops_ratio, lambda value: f"{value:.2f}x"),
            _text(row.first_token_ms, lambda ms: f"{ms[1]:.1f} ({ms[0]:.1f} to {ms[2]:.1f})"),
            _score(row.score),
            _difference(row.against_unpruned),
            _difference(row.against_ours),
        ]
        for row in rows
    ]


def _score(score: RunScore) -> str:
    if score.score is None or score.interval is None:
        return "–"
    low, high = score.interval
    return f"{score.score:.1f} ({low:.1f} to {high:.1f})"


def _difference(compared: Comparison | None) -> str:
    if compared is None:
        return "–"
    low, high = compared.interval
    return f"{compared.difference:+.1f} ({low:+.1f} to {high:+.1f})"


def _text(value: Any, show: Callable[[Any], str]) -> str:
    return "–" if value is None else show(value)
