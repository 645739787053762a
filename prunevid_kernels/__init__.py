"""Visual token pruning for video LLMs: merge tokens over time and space, keep those the question
attends to.

The functions here work on plain tensors and need torch alone; Triton is imported where one of its
kernels runs. ``prunevid_kernels.adapters`` applies them inside transformers models,
``prunevid_kernels.benchmarks`` measures them.

A name is imported when it is first used, so ``import prunevid_kernels`` costs a moment, and
``PruneVidConfig``, ``budget_tokens`` and ``__version__`` never import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prunevid_kernels.config import PruneVidConfig, budget_tokens
    from prunevid_kernels.layout import MergedVideo, TokenLayout
    from prunevid_kernels.ops import (
        DpcKnn,
        compact,
        dpc_knn,
        score_visual_tokens,
        segment_frames,
    )
    from prunevid_kernels.pipeline import merge_video, merge_videos, select_tokens
    from prunevid_kernels.planes import apply_layout
    from prunevid_kernels.warming import warm_up

__version__ = "0.1.0"

__all__ = [
    "DpcKnn",
    "MergedVideo",
    "PruneVidConfig",
    "TokenLayout",
    "apply_layout",
    "budget_tokens",
    "compact",
    "dpc_knn",
    "merge_video",
    "merge_videos",
    "score_visual_tokens",
    "segment_frames",
    "select_tokens",
    "warm_up",
]

_MODULES = {
    "config": ("PruneVidConfig", "budget_tokens"),
    "layout": ("MergedVideo", "TokenLayout"),
    "ops": ("DpcKnn", "compact", "dpc_knn", "score_visual_tokens", "segment_frames"),
    "pipeline": ("merge_video", "merge_videos", "select_tokens"),
    "planes": ("apply_layout",),
    "warming": ("warm_up",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    # Reached once for each name: the import's result stays here.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
