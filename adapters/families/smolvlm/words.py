"""Numbers in English words: SmolVLM2's prompts say how many frames they show in words, for which
transformers' processor needs the package num2words."""

from __future__ import annotations

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(number: int) -> str:
    """A number as num2words writes it.

    Args:
        number: from 0 to 999,999.

    Raises:
        ValueError: another number.
    """
    if not 0 <= number < 10**6:
        raise ValueError(f"the number must be from 0 to 999999, got {number}")
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return _TENS[tens] + (f"-{_SMALL[rest]}" if rest else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_SMALL[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    between = "" if not rest else " and " if rest < 100 else ", "
    return f"{in_words(thousands)} thousand{between}{in_words(rest) if rest else ''}"
