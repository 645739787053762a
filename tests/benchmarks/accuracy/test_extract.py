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
        pytest.param("The answer is A man.", [], id="article-after-answer"),
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
        pytest.param("b) put", [1], id="small-label"),
        pytest.param("a man put down", [], id="small-article-is-no-label"),
    ],
)
def test_strict(answer: str, expected: list[int]) -> None:
    assert strict(answer, OPTIONS) == expected


DOG = ("A man is running.", "The dog.", "Not sure.", "Option text D.")
REPLIES = [
    ("B", [1]),
    ("(B)", [1]),
    ("B) The dog.", [1]),
    ("B.", [1]),
    ("b", [1]),
    ("(b) the dog", [1]),
    ("The correct answer is (B).", [1]),
    ("The best option is B", [1]),
    ("Best option: B", [1]),
    ("Answer: B", [1]),
    ("**B**", [1]),
    ("**Answer:** B", [1]),
    ("The answer is **B**.", [1]),
    ("Answer:\n\nB", [1]),
    ("The answer is B because a car moves.", [1]),
    ("The answer is B. Note that A is a common distractor.", [1]),
    ("I would pick B - a safe choice.", [1]),
    ("ANSWER IS B", [1]),
    ("\\boxed{B}", [1]),
    ("<answer>B</answer>", [1]),
    ("Option B", [1]),
    ("B: The dog.", [1]),
    ("B\nExplanation: A man is not seen.", [1]),
    ("(A) or (B)", []),
    ("A man is running in the park", [0]),
    ("Based on the video, the dog.", [1]),
    ("E", []),
    ("", []),
    (" ", []),
    (")", []),
    ("(", []),
    ("A)(B)(C)(D", []),
    ("D", [3]),
    ("Option text D.", [3]),
    ("Ａ", [0]),
    ("B、", [1]),
    ("答案是B", [1]),
    ("B．", [1]),
    ("The answer is: B) The dog.", [1]),
    ("Answer is option B.", [1]),
    ("B and C", []),
    ("B, because the dog runs.", [1]),
    ("B - The dog.", [1]),
    ("B – The dog.", [1]),
    ("B]", [1]),
    ("[B]", [1]),
    ("B</s>", [1]),
    ("Choice B", [1]),
    ("B is correct", [1]),
    ("The correct option is: B", [1]),
    ("The correct choice is B.", [1]),
    ("A, B", []),
    ("A and B", []),
    ("The answer is A or B", []),
    ("The answer is not B", []),
    ("The answer isn't B", []),
    ("Option B is wrong", []),
    ("Neither (A) nor (B)", []),
    ("It is not (B), it is (C).", [2]),
    ("(A) is wrong, (B) is right", [1]),
    ("Option A shows a man, option C nothing. The answer is B.", [1]),
    ("Answer: A man", []),
    ("Answer: I think so", []),
    ("select A man", []),
    ("Vitamin D.", []),
    ("<think>B?</think>C", [2]),
    ("<think>B", []),
    ("$\\boxed{\\text{B}}$", [1]),
    ("A is more plausible than B", []),
]


@pytest.mark.parametrize(("answer", "expected"), REPLIES)
def test_strict_reads_what_models_write_and_misreads_nothing(
    answer: str, expected: list[int]
) -> None:
    assert strict(answer, DOG) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("Yes", [0]), ("No, it does not.", [1]), ("Not sure", [2]), ("No. I am not sure.", [])],
)
def test_strict_with_options_that_are_words(answer: str, expected: list[int]) -> None:
    assert strict(answer, ("Yes", "No", "Not sure")) == expected


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
