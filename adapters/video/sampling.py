"""Which frames of a video a model looks at.

Each model was trained and evaluated with a rule of its own, and a frame more or less to the left
changes answers, so the rules are kept to the letter, rounding included (half to even, and
truncation where the published code truncates).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

Rule = Literal["linspace", "half_segments", "between_borders"]


def sample_indices(total: int, n: int) -> np.ndarray:
    """Indices of n frames spread evenly over a video, first and last included: ``linspace(0,
    total - 1, n)``.

    This is the published sampling by that rule, but for videos that are too short: positions are
    cut to whole frames, not rounded.

    Args:
        total: frames of the video, >= 1.
        n: frames wanted, >= 1. At least ``total``: every frame once.

    Returns:
        [min(n, total)] int64, ascending, without repeats.

    Raises:
        ValueError: ``total`` or ``n`` below 1.
    """
    return frame_indices(total, min(n, max(total, 1)), "linspace")


def frame_indices(
    total: int,
    n: int,
    rule: Rule,
    *,
    fps: float | None = None,
    bound: tuple[float, float] | None = None,
    first: int = 0,
) -> np.ndarray:
    """Indices of n frames of a video, or of a stretch of it, by a published rule.

    ``"linspace"`` takes the two ends and evenly between them. The other two take about the middle
    of n equal segments: ``"half_segments"`` (everybody's MVBench) goes half a segment on from where
    each begins, ``"between_borders"`` to the middle of its two rounded borders. Frames repeat where
    the video has fewer than n. Which model takes which, and on which benchmark, its family's record
    says.

    Args:
        total: frames of the video, >= 1.
        n: frames wanted, >= 1.
        rule: which one.
        fps: frames a second; needed with ``bound`` only.
        bound: (start, end) in seconds of the stretch.
        first: the number that the source gives to its first frame: 1 for a folder that begins with
            00001.jpg. As published, second t of a bound is frame number ``t * fps``.

    Returns:
        [n] int64, ascending, counted from 0 whatever ``first`` is.

    Raises:
        ValueError: ``total``, ``n`` or ``fps`` not positive; a bound without ``fps``, one that is
            empty, or one that begins after the end of the video; an unknown rule.
    """
    if n < 1:
        raise ValueError(f"the number of frames must be an integer >= 1, got {n}")
    start, end = _stretch(total, fps, bound, first)
    segment = (end - start) / n
    borders = np.round(segment * np.arange(n + 1))
    if rule == "linspace":
        numbers = np.linspace(start, end, n)
    elif rule == "half_segments":
        numbers = start + segment / 2 + borders[:-1]
    elif rule == "between_borders":
        numbers = start + (borders[:-1] + borders[1:]) // 2
    else:
        raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}, got {rule!r}")
    return numbers.astype(np.int64) - first


def _stretch(
    total: int, fps: float | None, bound: tuple[float, float] | None, first: int
) -> tuple[int, int]:
    """The numbers of the first and the last frame that count."""
    if total < 1:
        raise ValueError(f"total must be an integer >= 1, got {total}")
    if fps is not None and not (0 < fps < math.inf):
        raise ValueError(f"fps must be a number > 0, got {fps}")
    last = first + total - 1
    if bound is None:
        return first, last
    if fps is None:
        raise ValueError("a bound in seconds needs the video's fps")
    begin_s, end_s = bound
    start, end = max(first, round(begin_s * fps)), min(last, round(end_s * fps))
    if not begin_s < end_s or start > end:
        raise ValueError(
            f"the bound must be (start, end) in seconds inside the video, got {bound} for "
            f"{total} frames at {fps} a second"
        )
    return start, end
