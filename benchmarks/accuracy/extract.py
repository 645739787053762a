"""Which option does an answer mean? Two readings of the same text.

``strict`` (the default) takes an answer that names exactly one option, by its letter or its text,
and counts everything else as unanswered, which is wrong. ``released`` is the reading that published
numbers were made with: the answer's first word is compared with "(a)", "(b)", ..., and either being
part of the other is a match, whatever follows. It accepts more than it should (a bare "(" is every
option), which is why it is not the default; an empty answer, which that reading counts as right and
other code fails on, is unanswered here.

Letters are also words ("A man", "I"), so ``strict`` takes a letter for a label only where a label
can stand, and where it cannot be told which option is meant it takes none: better unread than
misread.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache

from ..datasets.sample import LETTERS

# Maps (answer, options) to the indices of the options that the answer is taken for.
Extractor = Callable[[str, Sequence[str]], list[int]]


def strict(answer: str, options: Sequence[str]) -> list[int]:
    """The one option that an answer names, or none.

    A letter counts where it stands as a label. What follows "the answer is", or "answer:" or
    "option is", decides alone; otherwise labels are letters in parentheses or brackets, at the
    start and before punctuation, after "option", "choice" or "I choose", and before "is correct".
    "not (B)" and "B is wrong" name nothing. Letters go before texts. Where no letter stands, the
    options whose text is in the answer count, unless a longer option has them in it.

    Args:
        answer: the model's words; markup around them (bold type, boxes, tags, thoughts, an end of
            text left over) is taken off first.
        options: texts of the options, which are lettered in this order.
    """
    letters = LETTERS[: len(options)]
    text = _without_markup(answer)
    for patterns in _label_patterns(letters):
        named = {
            letter
            for pattern in patterns
            for match in pattern.finditer(text)
            if not _is_denied(text, match)
            for letter in re.findall(rf"\b[{letters}]\b", match["labels"].upper())
        }
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


@cache
def _label_patterns(letters: str) -> tuple[tuple[re.Pattern[str], ...], ...]:
    """Where labels stand: the places that decide alone, then all others.

    Each pattern has a group ``labels``: a letter, and those that are named in one breath with it.
    """
    small = letters.lower()
    # After a label comes punctuation, the end of a line, a dash, a reason or a verdict ...
    end = (
        r"(?=\s*(?:[\])}.:,;!?、。]|$)|\s+[-–—]\s|\s+(?:because|since|as|so)\b|\s+is\s+(?:the\s+)?"
    )
    end += rf"(?:correct|right|best)\b|\s*(?:/|&|and\b|or\b)\s*\(?[{letters}]\b)"
    # ... or anything, where the letter is no word of its own: "A" is one, and so is "I".
    unmistakable = "".join(letter for letter in letters if letter not in "AI")
    label = rf"[{letters}]{end}" + (rf"|[{unmistakable}]\b" if unmistakable else "")
    more = rf"(?:\)?\s*(?:,\s*(?:and|or)?|/|&|and|or)\s*\(?(?:{label}))*"
    labels = rf"[(\[]?(?P<labels>(?:{label}){more})"
    is_ = r"\s*(?:(?i:is|was|should\s+be|would\s+be|must\s+be)\b|是|为)?\s*:?\s*"
    deciding = (
        rf"(?:\b(?i:answer)|答案){is_}(?i:(?:option|choice)\s+)?{labels}",
        rf"\b(?i:option|choice)\s*(?:(?i:is)\b\s*:?|:)\s*{labels}",
    )
    others = (
        rf"[(\[]\s*(?P<labels>[{letters}{small}])\s*[)\]]",
        rf"\A[(\[]?(?P<labels>[{letters}]{end}{more})",
        rf"\A[(\[]?(?P<labels>[{small}])(?:\)|\s*[.:]?\s*\Z)",
        rf"\b(?i:option|choice)\s+\(?(?P<labels>[{letters}]\b{more})",
        rf"\b(?i:pick|choose|chose|select|selected|go\s+with)\s+{labels}",
        rf"\b(?P<labels>[{letters}])\s+is\s+(?:the\s+)?(?:correct|right|best)\b",
    )
    return tuple(
        tuple(re.compile(pattern, re.MULTILINE) for pattern in patterns)
        for patterns in (deciding, others)
    )


def _is_denied(text: str, match: re.Match[str]) -> bool:
    """Whether the words around a label say that it is not the one."""
    before, after = text[: match.start("labels")], text[match.end("labels") :]
    said_before = (
        r"(?i:\bnot|n't|\bneither|\bnor|\bexcept)\s+(?:(?i:option|choice|answer)\s+)?[(\[]?\s*\Z"
    )
    said_after = r"\s*[)\]]?\s*(?i:(?:is|are|was)(?:\s+not\b|n't\b|\s+(?:wrong|incorrect|false)\b))"
    return bool(re.search(said_before, before) or re.match(said_after, after))


def _without_markup(answer: str) -> str:
    text = unicodedata.normalize("NFKC", answer)  # letters and punctuation of full width
    text = re.sub(r"<think>.*?(?:</think>|\Z)", "", text, flags=re.DOTALL)
    text = re.sub(r"<\|?/?\w+\|?>", "\n", text)  # </s>, <|im_end|>, <answer>
    text = re.sub(r"\\(?:boxed|text)\{([^{}]*)\}", r"(\1)", text)
    return re.sub(r"[*`$]|(?<!\w)_+|_+(?!\w)", "", text).strip()


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
