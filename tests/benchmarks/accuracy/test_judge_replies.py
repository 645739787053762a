"""The score in a judge's reply, as judges write it."""

from __future__ import annotations

import pytest

from prunevid_kernels.benchmarks.accuracy.judge_replies import parse_score

REPLIES = [
    ('{"score": 3.5}', 3.5),
    ("{'pred': 'yes', 'score': 4.8}", 4.8),
    ("{'score': 4}", 4.0),
    ('```json\n{"score": 3}\n```', 3.0),
    ('{"score": "4"}', 4.0),
    ('{"Score": 3.5}', 3.5),
    ('{"score": 4/5}', 4.0),
    ('{"score":5.0}\n\nExplanation: the answer is right.', 5.0),
    ("Score: 4", 4.0),
    ("score=4", 4.0),
    ("**Score:** 4", 4.0),
    ("**Score**: 4", 4.0),
    ("The score is 4.", 4.0),
    ("4", 4.0),
    ("4.5", 4.5),
    ("I would rate your answer as 10.", None),
    ('{"score": 6}', None),
    ('{"score": -1}', None),
    (
        '<think>Between 3 and 4. Perhaps score: 3?</think>\n{"score": 4}',
        4.0,
    ),
    (
        '<think>\nThe format is {"score": 3.5}.\n</think>\n\n{"score": 4}',
        4.0,
    ),
    ('{"score": 4, "max_score": 5}', 4.0),
    ('{"reason": "score 5 would need more detail", "score": 3}', 3.0),
    ('{"score": 4.}', 4.0),
    ('{"score": .5}', 0.5),
    ('{"score": 3,5}', None),
    ('{"score": "3.5/5"}', 3.5),
    ('{"score": five}', None),
    ("", None),
    ('{"score": 4.5}{"score": 4.5}', 4.5),
    ("Overall score (0-5): 4", 4.0),
    ('{"scores": 4}', None),
    ('{"final_score": 4}', 4.0),
    ('{"score": 1.2.3}', None),
    ('{"score": 1} or {"score": 2}', None),
    ('{"score": 4, "score": 5}', None),
    ('{"score": 1e9}', None),
    ('{"score": 3/5}', 3.0),
    ("Score: 8/10", None),
    ("Score: 40%", None),
    ('{"score": NaN}', None),
    ('{"score": true}', None),
    ("<think>score: 3", None),
    ("Score: 5.", 5.0),
]
HUGE = '{"score": 1' + "0" * 400 + "}"
NESTED = '{"score": ' + "[" * 100_000


@pytest.mark.parametrize(("reply", "expected"), REPLIES)
def test_scores_in_replies(reply: str, expected: float | None) -> None:
    assert parse_score(reply) == expected


@pytest.mark.parametrize(
    "reply", [HUGE, NESTED, NESTED + "]" * 100_000 + "}"], ids=["huge", "cut", "whole"]
)
def test_numbers_and_nesting_without_end_are_no_score(reply: str) -> None:
    assert parse_score(reply) is None
