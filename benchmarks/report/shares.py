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

from ..accuracy.run_log import Record, Run
from ..accuracy.terms import TOLERANCE
from ..datasets.registry import DATASETS
from .summary import Comparison, RunScore, compare, method_label, summarise

UNPRUNED, OURS = "full", "prunevid"


@dataclass(frozen=True)
class ShareRow:
    """One run.

    Attributes:
        benchmark, model, method: what ran.
        frames: of each video.
        asked: share of the visual tokens that was to be kept; None: the method has no knob.
        kept: what was kept, the mean over layers and questions; None in logs that do not say.
        entering: share that entered the decoder.
        flops_ratio: of the prefill, the paper's count, as a share of the unpruned model's.
        first_token_ms: 10th, 50th and 90th percentile over questions.
        clock: what those are of: "wall", or "processor" where one thread of a CPU ran everything.
        score: its scores.
        against_unpruned: question by question, beside the unpruned model.
        against_ours: the same beside PruneVid at the same share.
    """

    benchmark: str
    model: str
    method: str
    frames: int | None
    asked: float | None
    kept: float | None
    entering: float
    flops_ratio: float | None
    first_token_ms: tuple[float, float, float] | None
    clock: str
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
    """The runs of each model, benchmark and number of frames, the lowest first, that was run at
    shares, by share; first those without a knob."""
    rows: list[ShareRow] = []
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        key = tuple(run.settings.get(name) for name in ("model", "benchmark", "frames"))
        groups.setdefault(key, []).append(run)
    for group in sorted(groups.values(), key=lambda group: group[0].settings.get("frames") or 0):
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
        frames=settings.get("frames"),
        asked=share,
        kept=fmean(kept) if kept else None,
        entering=sum(record.tokens_merged for record in records) / before if before else 1.0,
        flops_ratio=score.flops_ratio.get("paper"),
        first_token_ms=percentiles(times),
        clock=clock_of(records),
        score=score,
        against_unpruned=beside(UNPRUNED, None),
        against_ours=None if share is None else beside(OURS, share),
    )


def _label(run: Run) -> str:
    return method_label(run.settings["method"], run.settings["options"])


def clock_of(records: Sequence[Record]) -> str:
    """What their times are of; "mixed" where a run was resumed in another way."""
    clocks = {record.clock for record in records}
    return clocks.pop() if len(clocks) == 1 else "mixed"


def percentiles(values: Sequence[float]) -> tuple[float, float, float] | None:
    """The 10th, 50th and 90th; None of nothing."""
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
    """The table below :data:`TITLES`, ready to print; what is published stands behind the score."""
    return [
        [
            asked_of(row, rows),
            "as it is" if row.asked is None else f"{row.asked:g}",
            row.method,
            _text(row.kept, lambda kept: f"{kept:.1%}") + (" (off)" if row.is_off else ""),
            f"{row.entering:.1%}",
            _text(row.flops_ratio, lambda value: f"{value:.2f}x"),
            _text(row.first_token_ms, lambda ms: f"{ms[1]:.1f} ({ms[0]:.1f} to {ms[2]:.1f})"),
            score_text(row.score),
            difference_text(row.against_unpruned),
            difference_text(row.against_ours),
        ]
        for row in rows
    ]


def asked_of(row: ShareRow, rows: Sequence[ShareRow]) -> str:
    """The benchmark, and of model and frames those that differ between the rows."""
    parts = [DATASETS[row.benchmark].title]
    parts += [row.model] if len({other.model for other in rows}) > 1 else []
    parts += [f"{row.frames} frames"] if len({other.frames for other in rows}) > 1 else []
    return ", ".join(parts)


def score_text(score: RunScore) -> str:
    """The score with its interval; behind a slash what was published at this share."""
    if score.score is None or score.interval is None:
        return "–"
    low, high = score.interval
    published = "" if score.published is None else f" / {score.published:.1f}"
    return f"{score.score:.1f} ({low:.1f} to {high:.1f}){published}"


def difference_text(compared: Comparison | None) -> str:
    """How much higher, with its interval; a dash where nothing was compared."""
    if compared is None:
        return "–"
    low, high = compared.interval
    return f"{compared.difference:+.1f} ({low:+.1f} to {high:+.1f})"


def _text(value: Any, show: Callable[[Any], str]) -> str:
    return "–" if value is None else show(value)
