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
