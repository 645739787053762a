"""How sure a measured number is, and whether two methods differ on the same questions.

A benchmark's score is the plain mean of its tasks' means. For shares of right answers its interval
combines the tasks' Wilson intervals (Zou & Donner 2008, "MOVER"), which stay honest at 0 and 1 and
with few questions, where resampling would claim certainty; for one task it is Wilson's. For a
judge's scores, and for differences between two runs, which have no such form, questions are
resampled within their tasks; that says nothing where each task has a question or two. The seed is
fixed: the same run prints the same interval.

Both exact forms are a few lines, so there is no scipy here, which takes longer to load than a small
table takes to make.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]
RESAMPLES = 10_000


def wilson_interval(right: int, total: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share.

    Raises:
        ValueError: ``total`` below 1, or ``right`` not in [0, total].
    """
    if total < 1 or not 0 <= right <= total:
        raise ValueError(f"right must be in [0, total] and total >= 1, got {right} of {total}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / total
    middle = share + z**2 / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    scale = 1 + z**2 / total
    # With no or all right answers the formula gives the bound itself, but for rounding.
    low = (middle - half) / scale if right else 0.0
    high = (middle + half) / scale if right < total else 1.0
    return low, high


def macro_mean(values: Mapping[str, Sequence[float]]) -> float:
    """Mean over tasks of the mean over a task's questions.

    Raises:
        ValueError: no task, or a task without questions.
    """
    _require_questions(values)
    return float(np.mean([np.mean(task) for task in values.values()]))


def macro_share_interval(
    values: Mapping[str, Sequence[float]], confidence: float = 0.95
) -> Interval:
    """Interval of :func:`macro_mean` of right (1) and wrong (0) answers.

    Raises:
        ValueError: no task, or a task without questions.
    """
    mean = macro_mean(values)
    below = above = 0.0
    for task in values.values():
        low, high = wilson_interval(int(sum(task)), len(task), confidence)
        share = sum(task) / len(task)
        below += (share - low) ** 2
        above += (high - share) ** 2
    return mean - math.sqrt(below) / len(values), mean + math.sqrt(above) / len(values)


def macro_bootstrap_interval(
    values: Mapping[str, Sequence[float]], confidence: float = 0.95, *, seed: int = 0
) -> Interval:
    """Percentile interval of :func:`macro_mean`, questions resampled within their tasks.

    Raises:
        ValueError: no task, or a task without questions.
    """
    _require_questions(values)
    rng = np.random.default_rng(seed)
    means = np.zeros(RESAMPLES)
    for task in values.values():
        # How often each value is drawn, not which: thousands of questions have few values.
        distinct, counts = np.unique(np.asarray(task, dtype=np.float64), return_counts=True)
        drawn = rng.multinomial(len(task), counts / len(task), size=RESAMPLES)
        means += drawn @ distinct / len(task)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means / len(values), (tail, 1 - tail))
    return float(low), float(high)


def paired_difference(
    first: Mapping[str, Mapping[str, float]],
    second: Mapping[str, Mapping[str, float]],
    confidence: float = 0.95,
) -> tuple[float, Interval]:
    """How much better the second run is, and the interval of that, on the questions of both.

    Args:
        first, second: task -> question id -> value.

    Raises:
        ValueError: the runs share no question.
    """
    pairs = {
        task: [
            second[task][name] - value for name, value in answers.items() if name in second[task]
        ]
        for task, answers in first.items()
        if task in second
    }
    shared = {task: differences for task, differences in pairs.items() if differences}
    return macro_mean(shared), macro_bootstrap_interval(shared, confidence)


def mcnemar_p_value(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided McNemar test of two runs' answers to the same questions, in the same order.

    Only questions that one run got right and the other wrong say anything; without any, 1.

    Raises:
        ValueError: different lengths.
    """
    if len(first) != len(second):
        raise ValueError(f"both runs need the same questions, got {len(first)} and {len(second)}")
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    total, tail, ways = gained + lost, 0, 1  # ways: to choose k of total
    for k in range(min(gained, lost) + 1):
        tail += ways
        ways = ways * (total - k) // (k + 1)
    return min(1.0, 2 * tail / 2**total)


def _require_questions(values: Mapping[str, Sequence[float]]) -> None:
    if not values:
        raise ValueError("no task has questions")
    for name, task in values.items():
        if not len(task):
            raise ValueError(f"task {name!r} has no questions")
