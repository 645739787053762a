"""Where things live in PLLaVA, for pruning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...checkpoint.video_llm import VideoLlmAdapter
from ...engine.interface import PromptVisuals, VideoSpan, VisionAttention
from ..vision import encoder_layers


class PllavaAdapter(VideoLlmAdapter):
    """Pruning attaches to the projector's output, ``pooling_shape[0]`` frames of tokens."""

    def brings_visuals(self, inputs: Mapping[str, Any]) -> bool:
        return inputs.get("pixel_values") is not None

    def video_token_id(self, model: nn.Module) -> int:
        return _pllava(model).config.image_token_index

    def locate(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[PromptVisuals]:
        pllava, ids = _pllava(model), inputs.get("input_ids")
        if ids is None:
            raise ValueError("pixel_values need input_ids, and no inputs_embeds")
        frames, width = pllava.config.pooling_shape[0], pllava.config.tokens_per_frame
        starts = pllava.video_starts(pllava.expand_placeholders(ids)[0])
        return [
            PromptVisuals(videos=tuple(VideoSpan(start, frames, width) for start in row))
            for row in starts
        ]

    def frame_grid(self, model: nn.Module) -> tuple[int, int]:
        rows, columns = _pllava(model).config.pooling_shape[1:]
        return rows, columns

    def vision_attention(self, model: nn.Module) -> VisionAttention:
        """What CLIP's class token attends to in the layer whose output is projected: 24 x 24
        patches, pooled as the features are, over time as well."""
        pllava = _pllava(model)
        config = pllava.config
        attention = encoder_layers(pllava.vision_tower)[config.vision_feature_layer].self_attn

        def pool(patches: Tensor, videos: int) -> Tensor:
            tokens = pllava.multi_modal_projector.pool(patches.unflatten(0, (videos, -1)))
            return tokens.unflatten(1, (-1, config.tokens_per_frame)).flatten(0, 1)

        return VisionAttention(
            query=attention.q_proj,
            key=attention.k_proj,
            num_heads=attention.num_heads,
            tokens=slice(1, None),
            has_class_token=True,
            encoder=pllava.multi_modal_projector,
            pool=pool,
        )


def _pllava(model: nn.Module) -> Any:
    return model
