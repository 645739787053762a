"""Qwen2.5-VL in vLLM, its videos merged after the vision tower's own patch merger.

A video's features are [T / 2, H * W / 4, C] then: the tower has already put two frames and two by
two patches together. Its tokens are one run in the prompt. A merged token keeps the
three-dimensional position of its first source token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from .grids import GridProcessor, PruningGridModel
from .guard.limits import SECONDS, check_positions
from .merging import merge_within
from .positions import Grid, MediaRows
from .processing import TOKENS_FIELD


class PruneVidQwen2_5_VLProcessor(GridProcessor, Qwen2_5_VLMultiModalProcessor):
    """Counts T / 2 frames of H * W / 4 tokens."""

    def check(self, data: Mapping[str, Any], positions: int) -> None:
        super().check(data, positions)
        if (seconds := data.get(SECONDS)) is not None:
            check_positions(
                data["video_grid_thw"][:, 0].tolist(),
                torch.as_tensor(seconds, dtype=torch.float64).flatten().tolist(),
                getattr(self.info.get_hf_config().vision_config, "tokens_per_second", 1.0),
                positions,
            )


@MULTIMODAL_REGISTRY.register_processor(
    PruneVidQwen2_5_VLProcessor,
    info=Qwen2_5_VLProcessingInfo,
    dummy_inputs=Qwen2_5_VLDummyInputsBuilder,
)
class PruneVidQwen2_5_VLForConditionalGeneration(
    PruningGridModel, Qwen2_5_VLForConditionalGeneration
):
    """vLLM's model, except for what becomes of a video's features and for positions."""

    video_fields = ("video_grid_thw", TOKENS_FIELD, "second_per_grid_ts")

    def embed_video(self, features: Tensor, video: Mapping[str, Any]) -> MediaRows:
        grid = self._video_grid(video)
        merged = merge_within(features.unflatten(0, (grid.frames, -1)), int(video[TOKENS_FIELD]))
        return MediaRows.whole(merged.tokens, grid.positions(merged.layout.merged_anchor))

    def video_extent(self, video: Mapping[str, Any]) -> int:
        return self._video_grid(video).extent

    def _video_grid(self, video: Mapping[str, Any]) -> Grid:
        seconds = video.get("second_per_grid_ts")
        step = 1.0 if seconds is None else float(seconds)
        step *= getattr(self.config.vision_config, "tokens_per_second", 1.0)
        return self.token_grid(video["video_grid_thw"], step)
