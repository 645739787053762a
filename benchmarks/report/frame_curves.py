"""Runs that spend the same visual tokens on more frames, ``prunevid eval --more-frames``: does a
method see more in twice the frames at half the share?

A curve is a method with one product of share and frames. What it really kept stands beside it: a
video with fewer frames than were asked for has no more tokens to give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ..accuracy.run_log import Run
from ..datasets.registry import DATASETS
from .shares import clock_of, difference_text, percentiles, score_text
from .summary import Comparison, RunScore, compare, summarise

UNPRUNED = "full"


@dataclass(frozen=True)
class FrameRow:
    """A point of a curve.

    Attributes:
        benchmark, model, method: what ran.
        budget: share times frames, how many whole frames would be as many tokens; None: the
            unpruned model, whose tokens grow with the frames.
        frames: of each video, as asked for.
        share: of the visual tokens that was to be kept.
        tokens: that a layer of the decoder ran on, the mean over layers and questions.
        first_token_ms: 10th, 50th and 90th percentile over questions.
        clock: what those are of, see :class:`.shares.ShareRow`.
        score: its scores.
        against_fewest: question by question, beside the same method with the fewest frames.
    """

    benchmark: str
    model: str
    method: str
    budget: float | None
    frames: int
    share: float
    tokens: float | None
    first_token_ms: tuple[float, float, float] | None
    clock: str
    score: RunScore
    against_fewest: Comparison | None


def frame_rows(runs: Sequence[Run], extractor: str) -> list[FrameRow]:
    """The points of every curve of at least two, by frames; the unpruned model's where there is one
    of a method."""
    curves: dict[tuple[str, str, str, float | None], list[Run]] = {}
    for run in runs:
        settings = run.settings
        share, frames = settings.get("retain"), settings.get("frames")
        is_point = share is not None or settings["method"] == UNPRUNED
        if is_point and frames is not None and run.answered:
            budget = None if share is None else round(share * frames, 6)
            key = (settings["benchmark"], settings["model"], settings["method"], budget)
            curves.setdefault(key, []).append(run)
    found = {key: curve for key, curve in curves.items() if len(curve) > 1}
    told = {key[:2] for key in found if key[3] is not None}
    rows = []
    for key, curve in sorted(found.items(), key=lambda item: item[0][2] != UNPRUNED):
        if key[:2] in told:
            points = sorted(curve, key=lambda run: run.settings["frames"])
            rows += [_row(run, points[0], key[3], extractor) for run in points]
    return rows


def _row(run: Run, fewest: Run, budget: float | None, extractor: str) -> FrameRow:
    settings, records = run.settings, run.answered
    tokens = [
        record.layers_ratio * record.tokens_before
        for record in records
        if record.layers_ratio is not None
    ]
    times = [record.first_token_ms for record in records if record.first_token_ms is not None]
    return FrameRow(
        benchmark=settings["benchmark"],
        model=settings["model"],
        method=settings["method"],
        budget=budget,
        frames=settings["frames"],
        share=settings.get("retain", 1.0),
        tokens=fmean(tokens) if tokens else None,
        first_token_ms=percentiles(times),
        clock=clock_of(records),
        score=summarise(run, extractor),
        against_fewest=None if run is fewest else compare(fewest, run, extractor),
    )


TITLES = (
    "Benchmark",
    "Model",
    "Method",
    "Frames",
    "Share",
    "Tokens, mean over layers",
    "First token, ms (p10 to p90)",
    "Score (95% interval)",
    "Beside the fewest frames",
)


def frame_cells(rows: Sequence[FrameRow]) -> list[list[str]]:
    """The table below :data:`TITLES`, ready to print."""
    cells = []
    for row in rows:
        ms = row.first_token_ms
        cells.append(
            [
                DATASETS[row.benchmark].title,
                row.model,
                row.method,
                str(row.frames),
                f"{row.share:.3g}",
                "–" if row.tokens is None else f"{row.tokens:.1f}",
                "–" if ms is None else f"{ms[1]:.1f} ({ms[0]:.1f} to {ms[2]:.1f})",
                score_text(row.score),
                difference_text(row.against_fewest),
            ]
        )
    return cells
