"""LLaVA-OneVision in vLLM, its videos merged between projector and text decoder.

The newline embedding after a video is never merged. Videos go through the vision tower one after
the other, and each is merged before the next starts: vLLM sizes batches by placeholders, and a
batch of pruned videos holds many more frames than it takes a pruned video for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionMultiModalProcessor,
    LlavaOnevisionProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from .merging import CLOCK, merge_within
from .processing import TOKENS_FIELD, PruningProcessor


class PruneVidLlavaOnevisionProcessor(PruningProcessor, LlavaOnevisionMultiModalProcessor):
    """Counts T frames of N pooled tokens, and one newline after them."""

    tokens_after_video = 1

    def video_shapes(self, data: Mapping[str, Any]) -> list[tuple[int, int]]:
        one_frame = self.info.get_num_video_tokens(image_width=0, image_height=0, num_frames=1)
        tokens_per_frame = one_frame - self.tokens_after_video
        return [(len(video), tokens_per_frame) for video in data.get("pixel_values_videos", ())]


@MULTIMODAL_REGISTRY.register_processor(
    PruneVidLlavaOnevisionProcessor,
    info=LlavaOnevisionProcessingInfo,
    dummy_inputs=LlavaOnevisionDummyInputsBuilder,
)
class PruneVidLlavaOnevisionForConditionalGeneration(LlavaOnevisionForConditionalGeneration):
    """vLLM's model, except for what becomes of a video's pixels."""

    def _parse_and_validate_video_input(self, **kwargs: Any) -> Any:
        inputs = super()._parse_and_validate_video_input(**kwargs)
        if inputs is not None:
            inputs.prunevid_tokens = kwargs[TOKENS_FIELD]
        return inputs

    def _process_video_pixels(self, inputs: Any) -> list[Tensor]:
        videos = zip(inputs["pixel_values_videos"], inputs[TOKENS_FIELD].tolist(), strict=True)
        return [self._embed_video(pixels, tokens) for pixels, tokens in videos]

    def _embed_video(self, pixels: Tensor, tokens: int) -> Tensor:
        """[tokens + 1, C] of the pixels [T, 3, H, W] of one video; the last one is the newline."""
        features = self._video_pixels_to_features(self.vision_tower, pixels)  # [T, N, C]
        with CLOCK.video(features.device):
            merged = merge_within(features, tokens).tokens
        return torch.cat([merged, self.image_newline[None]])
