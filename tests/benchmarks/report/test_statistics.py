"""Intervals and tests against published examples, brute force and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from prunevid_kernels.benchmarks.report.statistics import (
    macro_bootstrap_interval,
    macro_mean,
    macro_share_interval,
    mcnemar_p_value,
    paired_difference,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("right", "total", "expected"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_as_published(right: int, total: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(right, total) == pytest.approx(expected, abs=5e-5)


def test_macro_mean_counts_tasks_and_not_questions() -> None:
    assert macro_mean({"many": [1.0] * 9, "one": [0.0]}) == 0.5


def test_macro_interval_of_one_task_is_wilsons() -> None:
    assert macro_share_interval({"t": [1] * 7 + [0] * 5}) == pytest.approx(wilson_interval(7, 12))


def test_macro_interval_covers() -> None:
    """Over simulated benchmarks of three uneven tasks, 95% hold the truth."""
    rng = np.random.default_rng(0)
    shares, sizes = (0.2, 0.55, 0.97), (15, 40, 25)
    runs = 400
    covered = 0
    for _ in range(runs):
        values = {
            str(i): (rng.random(n) < p).tolist()
            for i, (p, n) in enumerate(zip(shares, sizes, strict=True))
        }
        low, high = macro_share_interval(values)
        covered += low <= np.mean(shares) <= high
    assert 0.92 <= covered / runs <= 0.985


def test_bootstrap_agrees_with_the_normal_interval() -> None:
    rng = np.random.default_rng(1)
    values = {"a": rng.integers(0, 6, 300).tolist(), "b": rng.normal(3, 1, 200).tolist()}
    low, high = macro_bootstrap_interval(values)
    deviation = np.sqrt(sum(np.var(v) / len(v) for v in values.values())) / 2
    mean = macro_mean(values)
    assert (low, high) == pytest.approx(
        (mean - 1.96 * deviation, mean + 1.96 * deviation), abs=0.02
    )
    assert macro_bootstrap_interval(values) == (low, high)


def test_paired_difference_uses_shared_questions_only() -> None:
    first = {"a": {"1": 0.0, "2": 0.0, "gone": 1.0}, "only-first": {"x": 1.0}}
    second = {"a": {"1": 1.0, "2": 1.0, "new": 0.0}}
    assert paired_difference(first, second) == (1.0, (1.0, 1.0))
    with pytest.raises(ValueError, match="no task has questions"):
        paired_difference(first, {"b": {"1": 1.0}})


def test_mcnemar_by_counting_all_outcomes() -> None:
    first = [True] * 5 + [False] * 6 + [True, False]
    second = [False] * 5 + [True, True] + [False] * 4 + [True, False]
    gained, lost = 2, 5  # questions that the runs disagree on: seven fair coins
    as_extreme = [
        sum(coins)
        for coins in itertools.product((0, 1), repeat=gained + lost)
        if abs(2 * sum(coins) - 7) >= abs(gained - lost)
    ]
    assert mcnemar_p_value(first, second) == pytest.approx(len(as_extreme) / 2**7)
    assert mcnemar_p_value([True, False], [True, False]) == 1.0


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(lambda: wilson_interval(0, 0), "total >= 1, got 0 of 0", id="none"),
        pytest.param(lambda: wilson_interval(3, 2), "got 3 of 2", id="too-many"),
        pytest.param(lambda: macro_mean({}), "no task has questions", id="no-task"),
        pytest.param(lambda: macro_mean({"t": []}), "task 't' has no questions", id="empty-task"),
        pytest.param(lambda: mcnemar_p_value([True], []), "got 1 and 0", id="lengths"),
    ],
)
def test_what_cannot_be_computed(call, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        call()
