"""Equal terms: every method keeps the same share of the visual tokens, by its own knob.

The share is that of the language model: the tokens that a layer runs on, the mean over its layers.
How each method is told it stands with the method (``prunevid methods`` prints it). A method without
a knob runs once, as it is; what it keeps is reported all the same. A share that a method cannot
keep, because of frames or layers that it leaves whole, is left out and said, never approached
silently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from prunevid_kernels.adapters.methods.record import Terms
from prunevid_kernels.adapters.methods.registry import find_method

from ..support.options import default_layer
from .plan import Plan, PlanError

# Shares that differ by more from what was asked for are marked in reports.
TOLERANCE = 0.01
UNPRUNED = "full"


def parse_shares(text: str) -> tuple[float, ...]:
    """``"0.1,0.2"`` as shares, ascending, each once.

    Raises:
        PlanError: something that is no number in (0, 1].
    """
    try:
        shares = sorted({float(part) for part in text.split(",")})
    except ValueError:
        shares = []
    if not shares or not all(0 < share <= 1 for share in shares):
        raise PlanError(f"--retain must be shares in (0, 1] such as 0.1,0.2,0.3, got {text!r}")
    return tuple(shares)


def parse_multiples(text: str) -> tuple[int, ...]:
    """``"2,4"`` as multiples of the frames, ascending, each once.

    Raises:
        PlanError: something that is no whole number above 1.
    """
    try:
        multiples = sorted({int(part) for part in text.split(",")})
    except ValueError:
        multiples = []
    if not multiples or multiples[0] < 2:
        raise PlanError(f"--more-frames must be whole numbers from 2 such as 2,4, got {text!r}")
    return tuple(multiples)


def at_shares(
    plans: Sequence[Plan],
    shares: Sequence[float],
    *,
    num_layers: int,
    frames: int,
    tell: Callable[[str], None],
) -> list[Plan]:
    """Each plan at each share, those without a knob once.

    Args:
        plans: whose own options are kept where the share does not decide them.
        shares: each in (0, 1].
        num_layers: of the model's decoder.
        frames: of each video.
        tell: gets a line for each share that a method cannot keep.

    Raises:
        PlanError: nothing is left.
    """
    found: list[Plan] = []
    for plan in plans:
        knob = find_method(plan.method).knob
        if knob is None:
            found.append(plan)
            continue
        layer = plan.options.get("layer", default_layer(num_layers))
        for share in shares:
            try:
                options = knob(Terms(share, num_layers, frames, layer))
            except ValueError as error:
                tell(f"--retain: left out: {error}")
                continue
            found.append(Plan(plan.method, {**plan.options, **options}, retain=share))
    if not found:
        raise PlanError("--retain: none of the methods can keep any of these shares")
    return found


def with_more_frames(
    plans: Sequence[Plan],
    shares: Sequence[float],
    multiples: Sequence[int],
    *,
    num_layers: int,
    frames: int,
    tell: Callable[[str], None],
) -> list[Plan]:
    """The same number of tokens from more frames: each plan with k times the frames at a k-th of
    each share, and the unpruned model with as many frames. Other methods without a knob are not
    repeated.

    Args:
        plans: before :func:`at_shares`.
        shares: of the videos with ``frames`` frames.
        multiples: k, each above 1.
        num_layers, frames, tell: see :func:`at_shares`.
    """
    found: list[Plan] = []
    for k in multiples:
        chosen = [
            plan for plan in plans if find_method(plan.method).knob or plan.method == UNPRUNED
        ]
        parts = [share / k for share in shares]
        more = at_shares(chosen, parts, num_layers=num_layers, frames=k * frames, tell=tell)
        found += [replace(plan, frames=k * frames) for plan in more]
    return found
