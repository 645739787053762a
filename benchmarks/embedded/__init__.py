"""The embedded model and the clips that come with the package.

``load_embedded_model()`` with ``SAMPLE_CLIP`` and ``SAMPLE_QUESTION`` needs no download. Names are
imported when they are first used, because transformers takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import (
        EMBEDDED_MODEL,
        SAMPLE_ANSWER,
        SAMPLE_CLIP,
        SAMPLE_QUESTION,
        SELECTION_LAYER,
        load_embedded_model,
    )

__all__ = [
    "EMBEDDED_MODEL",
    "SAMPLE_ANSWER",
    "SAMPLE_CLIP",
    "SAMPLE_QUESTION",
    "SELECTION_LAYER",
    "load_embedded_model",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(".model", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
