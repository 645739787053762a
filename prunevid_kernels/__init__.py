"""Visual token pruning for video LLMs: merge tokens over time and space, keep those the question
attends to.

The functions here work on plain tensors and need torch alone; Triton is imported where one of its
kernels runs. ``prunevid_kernels.adapters`` applies them inside transformers models,
``prunevid_kernels.benchmarks`` measures them.
"""

from prunevid_kernels.config import PruneVidConfig, budget_tokens
from prunevid_kernels.layout import MergedVideo, TokenLayout
from prunevid_kernels.ops import DpcKnn, dpc_knn, score_visual_tokens, segment_frames
from prunevid_kernels.pipeline import compact, merge_video, merge_videos, select_tokens

__version__ = "0.1.0"

__all__ = [
    "DpcKnn",
    "MergedVideo",
    "PruneVidConfig",
    "TokenLayout",
    "budget_tokens",
    "compact",
    "dpc_knn",
    "merge_video",
    "merge_videos",
    "score_visual_tokens",
    "segment_frames",
    "select_tokens",
]
