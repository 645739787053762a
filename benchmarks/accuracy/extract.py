"""Which option does an answer mean? Two readings of the same text.

``strict`` (the default) takes an answer that names exactly one option, by its letter or its text,
and counts everything else as unanswered, which is wrong. ``released`` is the reading that published
numbers were made with: the answer's first word is compared with "(a)", "(b)", ..., and either being
part of the other is a match, whatever follows. It accepts more than it should (a bare "(" is every
option), which is why it is not the default; an empty answer, which that reading counts as right and
other code fails on, is unanswered here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..datasets.sample import LETTERS

# Maps (answer, options) to the indices of the options that the answer is taken for.
Extractor = Callable[[str, Sequence[str]], list[int]]


def strict(answer: str, options: Sequence[str]) -> list[int]:
    """The one option that an answer names, or none.

    A letter counts where it stands as a label: in parentheses, alone or before punctuation at the
    start, behind "option" and "answer is". Letters go before texts. Where no letter stands, the
    options whose text is in the answer count, unless a longer option has them in it.
    """
    letters = LETTERS[: len(options)]
    text = answer.strip()
    end = r"(?=\s*(?:[).:,;]|$))"  # "the answer is A" is a label, "the answer is A man" is not
    labels = (
        rf"\(\s*([{letters}])\s*\)",
        rf"\A\(?\s*([{letters}]){end}",
        rf"\b[Oo]ption\s+\(?([{letters}])\b",
        rf"\b(?:[Aa]nswer|[Oo]ption)(?:\s+is)?\s*:?\s*\(?([{letters}]){end}",
    )
    named = {letter for label in labels for letter in re.findall(label, text, re.MULTILINE)}
    if named:
        return [letters.index(named.pop())] if len(named) == 1 else []
    return _named_texts(text, options)


def released(answer: str, options: Sequence[str]) -> list[int]:
    """Every option whose label is part of the answer's first word, or has it as a part."""
    words = answer.lower().split()
    if not words:
        return []
    word = words[0].replace(".", "")
    labels = [f"({letter})" for letter in LETTERS[: len(options)].lower()]
    return [i for i, label in enumerate(labels) if word and (word in label or label in word)]


EXTRACTORS: dict[str, Extractor] = {"strict": strict, "released": released}


def is_word(answer: str, gold: str) -> bool:
    """Whether a free answer is the right word, in any case and punctuation."""
    return _plain(answer) == _plain(gold)


def _named_texts(text: str, options: Sequence[str]) -> list[int]:
    padded = f" {_plain(text)} "
    found = {i: _plain(option) for i, option in enumerate(options)}
    found = {i: option for i, option in found.items() if option and f" {option} " in padded}
    longest = [
        i
        for i, option in found.items()
        if not any(option != other and f" {option} " in f" {other} " for other in found.values())
    ]
    return longest if len(longest) == 1 else []


def _plain(text: str) -> str:
    """Lower case, single spaces, no punctuation but inside words."""
    words = (word.strip(".,;:!?\"'()[]") for word in text.lower().split())
    return " ".join(word for word in words if word)
