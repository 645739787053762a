"""The checks of the baselines' options: each error names the option, what is expected, what
came."""

from __future__ import annotations

from numbers import Integral, Real


def require_ratio(name: str, value: object) -> None:
    """A number in (0, 1].

    Raises:
        TypeError, ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number in (0, 1], got {value!r}")
    if not 0.0 < float(value) <= 1.0:
        raise ValueError(f"{name} must be in (0, 1], got {value!r}")


def require_count(name: str, value: object, *, minimum: int) -> None:
    """An integer of at least ``minimum``.

    Raises:
        TypeError, ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer >= {minimum}, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}")


def require_between(name: str, value: object, low: float, high: float) -> None:
    """A number in [low, high].

    Raises:
        TypeError, ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}")
    if not low <= float(value) <= high:
        raise ValueError(f"{name} must be in [{low:g}, {high:g}], got {value!r}")


def require_rates(ratio: float | None, pruning_rate: float | None) -> None:
    """A retained ratio in (0, 1], or a pruning rate in [0, 1), or neither.

    Raises:
        TypeError, ValueError: both, or one that is no such number.
    """
    if ratio is not None and pruning_rate is not None:
        raise ValueError(
            f"give ratio or pruning_rate, which is 1 - ratio; got {ratio!r} and {pruning_rate!r}"
        )
    if ratio is not None:
        require_ratio("ratio", ratio)
    if pruning_rate is not None:
        require_between("pruning_rate", pruning_rate, 0, 1)
        if pruning_rate == 1:
            raise ValueError("pruning_rate must be less than 1, got 1: nothing would be left")


def kept_tokens(total: int, ratio: float | None, pruning_rate: float | None) -> int:
    """Of ``total`` tokens, the share ``ratio`` or ``1 - pruning_rate``, a quarter where neither is
    given, cut towards zero."""
    if pruning_rate is not None:
        return int(total * (1 - pruning_rate))
    return int(total * (0.25 if ratio is None else ratio))
