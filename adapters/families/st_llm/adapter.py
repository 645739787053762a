"""Where things live in ST-LLM, for pruning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...checkpoint.video_llm import VideoLlmAdapter
from ...engine.interface import PromptVisuals, VideoSpan, VisionAttention
from .model import as_clips


class StLlmAdapter(VideoLlmAdapter):
    """Pruning attaches to the encoded video, ``num_query_tokens`` tokens a frame."""

    def brings_visuals(self, inputs: Mapping[str, Any]) -> bool:
        return any(inputs.get(name) is not None for name in ("pixel_values", "video_features"))

    def video_token_id(self, model: nn.Module) -> int:
        return _st_llm(model).config.video_token_id

    def locate(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[PromptVisuals]:
        ids, features = inputs.get("input_ids"), inputs.get("video_features")
        st_llm = _st_llm(model)
        if ids is None:
            raise ValueError("pixel_values need input_ids, and no inputs_embeds")
        if features is None:
            clips = as_clips(inputs["pixel_values"])
            frames = len(st_llm.config.token_frames(clips.shape[1]))
        else:
            frames = features.shape[1]
        width = st_llm.config.num_query_tokens
        count = frames * width
        ids, _ = st_llm.add_placeholders(ids, inputs.get("attention_mask"), count)
        return [
            PromptVisuals(videos=(VideoSpan(start, frames, width),))
            for start in st_llm.video_starts(ids, count)
        ]

    def vision_attention(self, model: nn.Module) -> VisionAttention:
        """What a query of the Q-Former receives from the queries of its frame in the last layer.

        The tower has a class token, but its patches are no tokens: the queries are, so they are
        looked at where they last look at each other. In residual mode those of the frames that are
        kept count.
        """
        config, encoder = _st_llm(model).config, _st_llm(model).video_encoder
        attention = encoder.qformer.encoder.layer[-1].attention.attention

        def pool(tokens: Tensor, videos: int) -> Tensor:
            clips = tokens.unflatten(0, (videos, -1))
            return clips[:, config.token_frames(clips.shape[1])].flatten(0, 1)

        return VisionAttention(
            query=attention.query,
            key=attention.key,
            num_heads=attention.num_attention_heads,
            tokens=slice(config.num_query_tokens),
            has_class_token=False,
            encoder=encoder,
            pool=pool,
        )


def _st_llm(model: nn.Module) -> Any:
    return model
