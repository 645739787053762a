"""Pruning inside transformers models: ``with prune(model, config): model.generate(...)``.

Names are imported when they are first used, because transformers takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine.engine import unprune
    from .engine.handle import PruneHandle
    from .engine.interface import PromptVisuals, VideoSpan
    from .engine.method import PruningMethod, VideoSelection
    from .engine.report import (
        NothingKeptWarning,
        NothingPrunedWarning,
        PruneCall,
        PruneReport,
        VideoRecord,
    )
    from .families.video_model import ModelError, Reply, VideoModel, load_video_model
    from .methods.record import pruning_method
    from .methods.subset import subset_layout, subset_video
    from .pruning import apply_method, prune, prune_by, share_vision

__all__ = [
    "ModelError",
    "NothingKeptWarning",
    "NothingPrunedWarning",
    "PromptVisuals",
    "PruneCall",
    "PruneHandle",
    "PruneReport",
    "PruningMethod",
    "Reply",
    "VideoModel",
    "VideoRecord",
    "VideoSelection",
    "VideoSpan",
    "apply_method",
    "load_video_model",
    "prune",
    "prune_by",
    "pruning_method",
    "share_vision",
    "subset_layout",
    "subset_video",
    "unprune",
]

_HOMES = {
    ".engine.engine": ("unprune",),
    ".engine.handle": ("PruneHandle",),
    ".engine.interface": ("PromptVisuals", "VideoSpan"),
    ".engine.report": (
        "NothingKeptWarning",
        "NothingPrunedWarning",
        "PruneCall",
        "PruneReport",
        "VideoRecord",
    ),
    ".engine.method": ("PruningMethod", "VideoSelection"),
    ".families.video_model": ("ModelError", "Reply", "VideoModel", "load_video_model"),
    ".methods.record": ("pruning_method",),
    ".methods.subset": ("subset_layout", "subset_video"),
    ".pruning": ("apply_method", "prune", "prune_by", "share_vision"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
