"""Qwen3.5 in vLLM, dense and with experts: Qwen3-VL's prompts and tower without the planes.

Three of four decoder layers are gated linear attention, so vLLM keeps states beside the cache. They
see fewer tokens; nothing else about them changes.
"""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.qwen3_5 import (
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3_5MoeProcessingInfo,
    Qwen3_5ProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from .qwen3_vl import FramesApart, PruneVidQwen3VLProcessor


class _Hybrid(FramesApart):
    def get_model_state_cls(self) -> type[Any]:
        from .model_state import PrunedHybridState

        return PrunedHybridState


@MULTIMODAL_REGISTRY.register_processor(
    PruneVidQwen3VLProcessor,
    info=Qwen3_5ProcessingInfo,
    dummy_inputs=Qwen3VLDummyInputsBuilder,
)
class PruneVidQwen3_5ForConditionalGeneration(_Hybrid, Qwen3_5ForConditionalGeneration):
    """vLLM's model, except for what becomes of a video's features and for positions."""


@MULTIMODAL_REGISTRY.register_processor(
    PruneVidQwen3VLProcessor,
    info=Qwen3_5MoeProcessingInfo,
    dummy_inputs=Qwen3VLDummyInputsBuilder,
)
class PruneVidQwen3_5MoeForConditionalGeneration(_Hybrid, Qwen3_5MoeForConditionalGeneration):
    """The same with experts."""
