"""How much of a video is kept: three places to say it, one answer, errors that name the place.

The server's share comes from ``hf_overrides["prunevid"]["retain"]`` or from vLLM's own
``--video-pruning-rate`` (the share that goes); a request may bring its own as
``mm_processor_kwargs={"prunevid_retain": r}``. It is always a share of the video's tokens. A number
of tokens is not offered: JSON's 1 could mean either, and a wrong guess leaves a video one token.

Nothing here needs vLLM, so that every rule is tested without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

from prunevid_kernels import __version__

REQUEST_SETTING = "prunevid_retain"
# Stands in vLLM's own rate for "on, the share is set elsewhere"; see qwen2_5_vl.py.
ENGINE_SWITCH = 1e-9


def server_retain(
    prunevid: object, pruning_rate: float | None, pruning_method: str = "evs"
) -> float:
    """The share of a video's tokens that requests keep if they say nothing.

    Args:
        prunevid: the model config's entry ``prunevid``: ``{"retain": r}``, or None.
        pruning_rate: ``--video-pruning-rate``, the share to drop, or None.
        pruning_method: ``--video-pruning-method``; only vLLM's default says nothing.

    Raises:
        ValueError: no setting, an unknown one, one out of range, or two that contradict each other.
    """
    by_rate = None
    if pruning_rate is not None and pruning_rate != ENGINE_SWITCH:
        if pruning_method != "evs":
            raise ValueError(
                "--video-pruning-method must be left out with a PruneVid architecture, which "
                f"merges by its own method, got {pruning_method!r}"
            )
        # In decimals, as it was written: 1 - 0.8 in floats is less than 0.2.
        by_rate = float(1 - Decimal(str(pruning_rate)))
    if prunevid is None:
        if by_rate is None:
            raise ValueError(
                "a PruneVid architecture needs to know how much to keep: --hf-overrides "
                '\'{"prunevid": {"retain": 0.2}}\' or --video-pruning-rate 0.8, got neither'
            )
        return by_rate
    if not isinstance(prunevid, Mapping) or set(prunevid) != {"retain"}:
        raise ValueError(
            'hf_overrides["prunevid"] must be {"retain": share} and nothing else, '
            f"got {prunevid!r}"
        )
    retain = checked_retain(prunevid["retain"], 'hf_overrides["prunevid"]["retain"]')
    if by_rate is not None and abs(retain - by_rate) > 1e-6:
        raise ValueError(
            f'hf_overrides["prunevid"]["retain"]={retain} contradicts --video-pruning-rate='
            f"{pruning_rate}, which keeps {by_rate}: give one of the two"
        )
    return retain


def request_retain(kwargs: Mapping[str, object]) -> tuple[float | None, dict[str, object]]:
    """A request's own share, or None, and its other processor arguments.

    Raises:
        ValueError: a share out of range.
    """
    others = dict(kwargs)
    if REQUEST_SETTING not in others:
        return None, others
    setting = f'mm_processor_kwargs["{REQUEST_SETTING}"]'
    return checked_retain(others.pop(REQUEST_SETTING), setting), others


def checked_retain(value: object, setting: str) -> float:
    """``value`` as a share in (0, 1]; ValueError naming ``setting`` if it is none."""
    # Compared as it came: an integer that is too large for a float is a share out of range as well.
    number: Any = value  # Real has no order that a type checker knows
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < number <= 1:
        raise ValueError(f"{setting} must be a share in (0, 1], got {_shown(value)}")
    return float(number)


def _shown(value: object) -> str:
    """``repr`` that fits a line; a request may send anything."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def cache_salt(retain: float) -> str:
    """What keeps embeddings of another share, or of another version's merge, apart in caches."""
    return f"prunevid-{__version__}-{retain!r}"
