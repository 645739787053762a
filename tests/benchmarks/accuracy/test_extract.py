"""Two readings of an answer: what each takes it for."""

from __future__ import annotations

import pytest

from prunevid_kernels.benchmarks.accuracy.extract import is_word, released, strict

OPTIONS = ("Ate the medicine.", "Put down the cup.", "Took the box.", "Took the box away.")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param("A", [0], id="letter"),
        pytest.param("B)", [1], id="prefix-continued"),
        pytest.param("B) Put down the cup.", [1], id="prefix-continued-with-text"),
        pytest.param("(C) Took the box.", [2], id="label"),
        pytest.param("C. Took the box.", [2], id="letter-and-period"),
        pytest.param("D\nbecause of that", [3], id="letter-on-its-line"),
        pytest.param("The answer is (B).", [1], id="sentence"),
        pytest.param("The correct option is D", [3], id="option-is"),
        pytest.param("The answer is A man.", [], id="article-behind-answer"),
        pytest.param("Answer: D", [3], id="answer-colon"),
        pytest.param("Option C is right", [2], id="option"),
        pytest.param("took the box", [2], id="text"),
        pytest.param("He took the box away!", [3], id="longer-text-wins"),
        pytest.param("A man took the box.", [2], id="article-is-no-letter"),
        pytest.param("(A) or (B)", [], id="two-letters"),
        pytest.param("ate the medicine, put down the cup", [], id="two-texts"),
        pytest.param("E)", [], id="no-such-letter"),
        pytest.param("", [], id="empty"),
        pytest.param("  \n", [], id="blank"),
        pytest.param("I cannot tell.", [], id="none"),
        pytest.param("b) put", [], id="small-letter-is-no-label"),
    ],
)
def test_strict(answer: str, expected: list[int]) -> None:
    assert strict(answer, OPTIONS) == expected


def test_strict_with_options_that_are_numbers() -> None:
    assert strict("There are 2 of them.", ("0", "1", "2", "12")) == [2]
    assert strict("12", ("0", "1", "2", "12")) == [3]


def test_strict_with_equal_or_empty_options() -> None:
    assert strict("yes", ("yes", "yes")) == []
    assert strict("yes", ("", "yes")) == [1]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param("A) Ate the medicine.", [0], id="prefix-continued"),
        pytest.param("(b) whatever", [1], id="label"),
        pytest.param("C. Took", [2], id="period"),
        pytest.param("d", [3], id="small-letter"),
        pytest.param("(A)(B)", [0, 1], id="label-inside-the-word"),
        pytest.param("(", [0, 1, 2, 3], id="part-of-every-label"),
        pytest.param("A man took the box.", [0], id="article-counts"),
        pytest.param("took the box", [], id="text-does-not-count"),
        pytest.param("", [], id="empty-is-unanswered"),
        pytest.param("... A", [], id="periods-only"),
    ],
)
def test_released(answer: str, expected: list[int]) -> None:
    assert released(answer, OPTIONS) == expected


@pytest.mark.parametrize("answer", ["red", "Red.", " RED \n"])
def test_word(answer: str) -> None:
    assert is_word(answer, "red")


@pytest.mark.parametrize("answer", ["", "reddish", "red ball", "top left"])
def test_not_the_word(answer: str) -> None:
    assert not is_word(answer, "top-left" if answer.startswith("top") else "red")
