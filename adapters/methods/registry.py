"""Every method of the comparison by its name: what it is, which options it takes, how to make it.

A method is made without a model; :func:`prunevid_kernels.adapters.apply_method` makes one and
applies it. Methods of other projects are found by their entry points, or in the file that a name
points to (:mod:`.others`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunevid_kernels import PruneVidConfig

from ..engine.method import PruningMethod
from .baselines.downsample import Downsample
from .baselines.fewer_frames import FewerFrames
from .baselines.random_drop import DropAll, RandomDrop
from .by_tokens.cdpruner import CdPruner
from .by_tokens.dycoke import DyCoke
from .by_tokens.evs import Evs
from .by_tokens.vidcom2 import VidCom2
from .by_tower.fastvid import FastVid
from .by_tower.flashvid import FlashVid
from .by_tower.holitom import HoliTom
from .by_tower.prumerge import PruMerge
from .by_tower.visionzip import VisionZip
from .in_decoder.fastv import FastV
from .in_decoder.look_m import LookM
from .others import entry_points, method_at, method_of
from .prunevid import PruneVid
from .record import Method, option_defaults, option_texts, record_of
from .shares import budget_then_nothing, budget_with_selection, selection_alone


def _prunevid(name: str, **fixed: Any) -> dict[str, Any]:
    """Options and maker of PruneVid with some of its config fixed."""
    options = {key: value for key, value in _CONFIG.items() if key not in fixed}

    def build(**given: Any) -> PruningMethod:
        return PruneVid(PruneVidConfig(**given, **fixed), name)

    texts = {key: text for key, text in _TEXTS.items() if key in options}
    return {"defaults": options, "build": build, "option_texts": texts}


_CONFIG = option_defaults(PruneVidConfig)
_TEXTS = option_texts(PruneVidConfig)
_WHOLE = {key: value for key, value in _CONFIG.items() if key not in ("merge", "select")}
_BUDGET = "budget = share / mean over layers, keep_ratio = 0.4 of the whole video"

_OF_OTHER_PAPERS: tuple[type[PruningMethod], ...] = (
    Evs,
    VidCom2,
    DyCoke,
    FastVid,
    HoliTom,
    VisionZip,
    FlashVid,
    CdPruner,
    Downsample,
    FewerFrames,
)

METHODS: dict[str, Method] = {
    "full": Method("all visual tokens", {}, PruningMethod),
    "prunevid": Method(
        "PruneVid",
        **_prunevid("prunevid"),
        changes=("merges", "selects"),
        knob=budget_with_selection("prunevid"),
        knob_text=_BUDGET,
    ),
    "merge_only": Method(
        "PruneVid's merge before the decoder, no selection",
        **_prunevid("merge_only", select=False, merge=True),
        changes=("merges",),
        knob=lambda terms: {"budget": terms.share},
        knob_text="budget = share",
    ),
    "select_only": Method(
        "PruneVid's selection inside the decoder, no merge",
        **_prunevid("select_only", merge=False, select=True),
        changes=("selects",),
        knob=selection_alone,
        knob_text="keep_ratio, so that the mean over layers is the share",
    ),
    "fastv": record_of(FastV),
    "prumerge": record_of(PruMerge),
    "look_m": record_of(LookM),
    "random_drop": Method(
        "random tokens, as many as PruneVid leaves in each layer",
        {**_CONFIG, "seed": 0},
        lambda seed, **given: RandomDrop(PruneVidConfig(**given), seed),
        changes=("drops", "selects"),
        knob=budget_with_selection("random_drop"),
        knob_text=_BUDGET,
        option_texts={**_TEXTS, "seed": option_texts(RandomDrop)["seed"]},
    ),
    "drop_all": Method(
        "PruneVid up to its selecting layer, no visual token after it",
        _WHOLE,
        lambda **given: DropAll(PruneVidConfig(**given)),
        changes=("merges", "selects"),
        knob=budget_then_nothing,
        knob_text="budget = share / mean over layers, nothing selected",
        option_texts={key: text for key, text in _TEXTS.items() if key in _WHOLE},
    ),
    **{cls.name: record_of(cls) for cls in _OF_OTHER_PAPERS},
}


def find_method(name: str) -> Method:
    """The method of this name: of the table, of an entry point, or of a file (``FILE.py:CLASS`` or
    ``MODULE:CLASS``).

    Raises:
        ValueError: there is none; the message lists the known ones.
        TypeError: what is there is no method.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" in name:
        return method_at(name)
    installed = entry_points(METHODS)
    if name not in installed:
        known = ", ".join((*METHODS, *installed))
        raise ValueError(f"unknown method {name!r}; known methods: {known}")
    return method_of(installed[name])


def method_names() -> list[str]:
    """The names of all methods, ours first, then those of installed packages."""
    return [*METHODS, *entry_points(METHODS)]


def build_method(name: str, options: Mapping[str, Any]) -> PruningMethod:
    """The method ``name`` with these options, defaults for the others.

    Raises:
        ValueError: an unknown name or option; the message lists the known ones.
        TypeError, ValueError: see :func:`find_method`; an option's value of a wrong type or range.
    """
    method = find_method(name)
    unknown = sorted(set(options) - set(method.defaults))
    if unknown:
        known = ", ".join(method.defaults) or "none"
        raise ValueError(f"unknown option {unknown[0]!r} of {name}; known options: {known}")
    return method.build(**{**method.defaults, **options})


def chosen_method(
    config: PruneVidConfig | None,
    method: str | PruningMethod | None,
    layer: int | None = None,
) -> PruningMethod | None:
    """What is to prune, by either of two arguments; None: nothing.

    Args:
        config: prune with PruneVid.
        method: prune with this method: its name, with its defaults, or itself. PruneVid's own name
            goes with a config.
        layer: that suits the model; a method by its name takes it in place of the layer that
            PruneVid selects after by default, not of another paper's own. None: nothing is known.

    Raises:
        TypeError: an argument of another type, or a config beside another method.
        ValueError: a name that no method has.
    """
    if config is not None and not isinstance(config, PruneVidConfig):
        raise TypeError(f"config must be a PruneVidConfig, got {type(config).__name__}")
    if config is not None and method not in (None, "prunevid"):
        raise TypeError("config is PruneVid's, so it excludes another method: give one of the two")
    if config is not None:
        return PruneVid(config)
    if isinstance(method, str):
        takes_it = find_method(method).defaults.get("layer") == _CONFIG["layer"]
        return build_method(method, {"layer": layer} if takes_it and layer is not None else {})
    if method is not None and not isinstance(method, PruningMethod):
        raise TypeError(f"method must be a name or a PruningMethod, got {type(method).__name__}")
    return method
