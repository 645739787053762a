"""The score in a judge's reply.

A judge is asked for one JSON object, and many write something near it: single quotes, a sentence
around it, bold type, a whole thought before it. What is read here is a reply that gives exactly one
number from 0 to 5 as its score, however it is dressed. Everything else has no score: two different
ones, a number out of range, a decimal comma, which could be meant as ``3.5`` or as the end of 3.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

_NUMBER = r"-?(?:\d+\.?\d*|\.\d+)"
# "4" and "4/5"; nothing may go on as the same number in another notation: 3,5 1e9 40% 4/10
_VALUE = rf"({_NUMBER})(?:\s*/\s*5)?(?![\w%/]|[.,]\d)"
_NAME = r"(?<![a-z_])(?:final[_ ]|overall[_ ])?score"
_NAMED_VALUE = re.compile(
    rf"{_NAME}[\"']?\s*(?:\(?0\s*(?:-|to)\s*5\)?)?\s*(?:[:=]|\bis\b)\s*[\"']?{_VALUE}",
    re.IGNORECASE,
)


def parse_score(reply: str) -> float | None:
    """The score in a judge's reply; None unless it holds exactly one, from 0 to 5."""
    # A model's thoughts are no reply, and thoughts that never end have none after them.
    text = re.sub(r"<think>.*?(?:</think>|\Z)", "", reply, flags=re.DOTALL | re.IGNORECASE)
    text = text.rpartition("</think>")[2]
    given = _in_objects(text)
    if given is None:
        plain = re.sub(r"[*`#]", "", text).strip()
        bare = re.fullmatch(rf"{_VALUE}\.?", plain)
        given = [bare[1]] if bare else _NAMED_VALUE.findall(plain)
    scores = {_score(value) for value in given}
    return scores.pop() if len(scores) == 1 else None


def _in_objects(text: str) -> list[Any] | None:
    """Values named as the score in the JSON objects of a text; None where no object names one."""
    values = []
    for written in re.findall(r"\{[^{}]*\}", text):
        for name, value in _items(written):
            if re.fullmatch(_NAME, str(name).strip(), re.IGNORECASE):
                values.append(value)
    return values or None


def _items(written: str) -> list[tuple[Any, Any]]:
    """Names and values of an object in JSON's notation or in Python's; none of what is neither."""
    try:
        return json.loads(written, object_pairs_hook=list)
    except (ValueError, RecursionError):
        pass  # single quotes, perhaps
    try:
        value = ast.literal_eval(written)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return list(value.items()) if isinstance(value, dict) else []


def _score(value: object) -> float | None:
    if isinstance(value, str):
        written = re.fullmatch(rf"\s*{_VALUE}\s*", value)
        value = float(written[1]) if written else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= 5 else None  # neither is true of NaN
