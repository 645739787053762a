"""The supported model families: one folder with a record each, and this table of one row each.

Importing the table imports neither torch nor transformers; see :mod:`.record`.
"""

from __future__ import annotations

from typing import Any

from . import (
    internvl,
    llava_next_video,
    llava_onevision,
    pllava,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_5,
    qwen3_vl,
    smolvlm,
    st_llm,
    video_llama_3,
)
from .record import Evaluation, Family, Prompt
from .shape import Size

__all__ = [
    "DEFAULT_SIZE",
    "FAMILIES",
    "SIZES",
    "Evaluation",
    "Family",
    "Prompt",
    "adapter_of",
    "family_of",
]

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        llava_onevision.FAMILY,
        pllava.FAMILY,
        st_llm.FAMILY,
        qwen2_5_vl.FAMILY,
        qwen2_vl.FAMILY,
        qwen3_vl.FAMILY,
        qwen3_5.FAMILY,
        llava_next_video.FAMILY,
        internvl.FAMILY,
        smolvlm.FAMILY,
        video_llama_3.FAMILY,
    )
}

# The published sizes by the one name that each has: each family's first, then the others.
SIZES: dict[str, Size] = {
    size.name: size
    for sizes in (
        [family.sizes[0] for family in FAMILIES.values()],
        [size for family in FAMILIES.values() for size in family.sizes[1:]],
    )
    for size in sizes
}
# The one that stands for all where nobody says which.
DEFAULT_SIZE = next(iter(SIZES))

# Decoders that are given ``inputs_embeds``; whoever builds those says where the videos are.
_TEXT_DECODERS = ("llama", "qwen2")


def family_of(model_type: str) -> Family:
    """The family of a loaded model.

    Args:
        model_type: of its config.

    Raises:
        ValueError: none of the table.
    """
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    known = ", ".join(name for family in FAMILIES.values() for name in family.model_types)
    raise ValueError(f"model_type must be one of {known}, got {model_type!r}")


def adapter_of(model: Any) -> Any:
    """The :class:`~..engine.interface.ModelAdapter` for a loaded model.

    Raises:
        ValueError: a model of an unsupported kind.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind in _TEXT_DECODERS:
        from .causal_lm import CausalLMAdapter

        return CausalLMAdapter()
    for family in FAMILIES.values():
        if kind in family.model_types:
            return family.adapter()
    known = sorted([*_TEXT_DECODERS, *(n for f in FAMILIES.values() for n in f.model_types)])
    found, inner = f"{kind!r} ({type(model).__name__})", getattr(model, "model", None)
    if kind is None and getattr(getattr(inner, "config", None), "model_type", None) in known:
        found = f"the {type(model).__name__} around one; give its .model"
    raise ValueError(f"model must be of a supported model_type ({', '.join(known)}), got {found}")
