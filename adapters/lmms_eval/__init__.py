"""What lmms-eval is told of this project's models: their names and where their classes are.

lmms-eval reads ``MANIFESTS`` through the entry point group ``lmms_eval.models`` whenever it starts,
so the classes are imported only when one of the models is asked for. Nor is lmms-eval imported
before it asks: it would find this module half imported, where that is what starts it.
"""

from __future__ import annotations

from typing import Any

_HERE = "prunevid_kernels.adapters.lmms_eval"

# Model -> its class in the simple interface, and in the one of chats.
_CLASSES = {
    "prunevid_llava_onevision": ("llava_onevision.PruneVidLlavaOnevision", None),
    "prunevid_pllava": ("video_llm.PruneVidPllava", None),
    "prunevid_st_llm": ("video_llm.PruneVidStLlm", None),
    "prunevid_qwen2_5_vl": ("qwen_vl.PruneVidQwen25VlSimple", "qwen_vl.PruneVidQwen25Vl"),
    "prunevid_qwen3_vl": ("qwen_vl.PruneVidQwen3VlSimple", "qwen_vl.PruneVidQwen3Vl"),
    "prunevid_internvl_hf": (None, "internvl_hf.PruneVidInternVlHf"),
}


def __getattr__(name: str) -> Any:
    if name != "MANIFESTS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lmms_eval.models.registry_v2 import ModelManifest

    return [
        ModelManifest(model, *(path and f"{_HERE}.{path}" for path in paths))
        for model, paths in _CLASSES.items()
    ]
