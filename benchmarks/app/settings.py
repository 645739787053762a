"""What the controls of the page say, and which options of a method that makes.

Methods have options of many names. The page has one control for each of PruneVid's numbers and one
share for all: how a method keeps a share is told by its record, as for ``prunevid eval --retain``.
Controls that a method does not listen to are switched off and change nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from prunevid_kernels.adapters.methods.record import Method, Terms
from prunevid_kernels.adapters.methods.registry import find_method

from ..support.options import InputError

MERGING = ("tau", "segment_ratio", "cluster_ratio")
SELECTING = ("keep_ratio", "layer")


@dataclass(frozen=True)
class Settings:
    """The controls.

    Attributes:
        method: name of the pruning method.
        tau, segment_ratio, cluster_ratio, keep_ratio, layer: of :class:`PruneVidConfig`.
        share: of the tokens to keep: PruneVid's ``budget``, other methods' own way; None: as the
            method does by itself.
    """

    method: str = "prunevid"
    tau: float = 0.8
    segment_ratio: float = 0.25
    cluster_ratio: float = 0.5
    keep_ratio: float = 0.4
    share: float | None = None
    layer: int = 10


def controls_of(name: str) -> set[str]:
    """The fields of :class:`Settings` that a method listens to.

    Raises:
        ValueError: no such method.
    """
    method = find_method(name)
    names = [*(MERGING if "merges" in method.changes else ())]
    names += SELECTING if "selects" in method.changes else ()
    found = {name for name in names if name in method.defaults}
    return found | ({"share"} if _has_budget(method) or method.knob is not None else set())


def options_of(settings: Settings, *, num_layers: int, frames: int) -> dict[str, Any]:
    """The options that these settings give their method.

    Args:
        settings: the controls.
        num_layers: of the decoder.
        frames: of visual tokens in the video.

    Raises:
        InputError: a share that the method cannot keep.
        ValueError: no such method.
    """
    method, heard = find_method(settings.method), controls_of(settings.method)
    values = asdict(settings)
    options = {name: values[name] for name in (*MERGING, *SELECTING) if name in heard}
    if settings.share is None or "share" not in heard:
        return options
    if _has_budget(method):
        return options | {"budget": settings.share}
    assert method.knob is not None
    try:
        terms = Terms(settings.share, num_layers, frames, options.get("layer", settings.layer))
        return options | dict(method.knob(terms))
    except ValueError as error:
        raise InputError(str(error)) from error


def _has_budget(method: Method) -> bool:
    """Whether it merges to a budget, as PruneVid does."""
    return "budget" in method.defaults and "merges" in method.changes
