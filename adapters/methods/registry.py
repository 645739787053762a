"""Every method of the comparison by its name: what it is, which options it takes, how to make it.

A method is made without a model; :func:`prunevid_kernels.adapters.apply_method` makes one and
applies it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from prunevid_kernels import PruneVidConfig

from ..engine.method import PruningMethod
from .baselines.random_drop import DropAll, RandomDrop
from .by_tower.prumerge import PruMerge
from .in_decoder.fastv import FastV
from .in_decoder.look_m import LookM
from .prunevid import PruneVid


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        summary: one line for people.
        defaults: the options it takes, with their default values.
        build: makes it from all of its options.
    """

    summary: str
    defaults: Mapping[str, Any]
    build: Callable[..., PruningMethod]


def _defaults(cls: type) -> dict[str, Any]:
    """The fields of a dataclass of options, all of which have defaults."""
    assert all(field.default is not MISSING for field in fields(cls))
    return {field.name: field.default for field in fields(cls)}


def _prunevid(name: str, **fixed: Any) -> tuple[Mapping[str, Any], Callable[..., PruningMethod]]:
    """Options and maker of PruneVid with some of its config fixed."""
    options = {key: value for key, value in _CONFIG.items() if key not in fixed}
    return options, lambda **given: PruneVid(PruneVidConfig(**given, **fixed), name)


_CONFIG = _defaults(PruneVidConfig)
_WHOLE = {key: value for key, value in _CONFIG.items() if key not in ("merge", "select")}

METHODS: dict[str, Method] = {
    "full": Method("all visual tokens", {}, PruningMethod),
    "prunevid": Method("PruneVid", *_prunevid("prunevid")),
    "merge_only": Method(
        "PruneVid's merge before the decoder, no selection",
        *_prunevid("merge_only", select=False, merge=True),
    ),
    "select_only": Method(
        "PruneVid's selection inside the decoder, no merge",
        *_prunevid("select_only", merge=False, select=True),
    ),
    "fastv": Method("FastV", _defaults(FastV), FastV),
    "prumerge": Method("LLaVA-PruMerge+", _defaults(PruMerge), PruMerge),
    "look_m": Method("Look-M", _defaults(LookM), LookM),
    "random_drop": Method(
        "random tokens, as many as PruneVid leaves in each layer",
        {**_CONFIG, "seed": 0},
        lambda seed, **given: RandomDrop(PruneVidConfig(**given), seed),
    ),
    "drop_all": Method(
        "PruneVid up to its selecting layer, no visual token after it",
        _WHOLE,
        lambda **given: DropAll(PruneVidConfig(**given)),
    ),
}


def build_method(name: str, options: Mapping[str, Any]) -> PruningMethod:
    """The method ``name`` with these options, defaults for the others.

    Raises:
        ValueError: an unknown name or option; the message lists the known ones.
        TypeError, ValueError: an option's value of a wrong type or range.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known methods: {', '.join(METHODS)}")
    method = METHODS[name]
    unknown = sorted(set(options) - set(method.defaults))
    if unknown:
        known = ", ".join(method.defaults) or "none"
        raise ValueError(f"unknown option {unknown[0]!r} of {name}; known options: {known}")
    return method.build(**{**method.defaults, **options})
