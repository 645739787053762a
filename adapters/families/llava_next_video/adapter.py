"""Where things live in LLaVA-NeXT-Video (transformers' ``LlavaNextVideoForConditionalGeneration``).

A video is one run of placeholders, frame by frame, a token for each 2 x 2 patches; there is neither
a newline nor text between its frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...engine.interface import ModelAdapter, PromptVisuals, VideoSpan, VisionAttention
from ..placeholders import (
    Run,
    by_row,
    core_of,
    features_in,
    ids_in,
    require_whole,
    runs_of,
    vision_calls_of,
)
from ..vision import encoder_layers
from .family import pooled_side


class LlavaNextVideoAdapter(ModelAdapter):
    def decoder(self, model: nn.Module) -> nn.Module:
        return core_of(model).language_model

    def entries(self, model: nn.Module) -> Sequence[nn.Module]:
        core = core_of(model)
        return [model] if core is model else [model, core]

    def brings_visuals(self, inputs: Mapping[str, Any]) -> bool:
        return any(features_in(inputs, kind) is not None for kind in ("image", "video"))

    def video_token_id(self, model: nn.Module) -> int:
        return core_of(model).config.video_token_id

    def vision_calls(self, model: nn.Module) -> list[tuple[nn.Module, str]]:
        return vision_calls_of(model)

    def locate(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[PromptVisuals]:
        ids, config = ids_in(inputs), core_of(model).config
        images = by_row(runs_of(ids == config.image_token_id), len(ids))
        videos: list[list[VideoSpan]] = [[] for _ in ids]
        runs, features = runs_of(ids == config.video_token_id), features_in(inputs, "video")
        if features is None and runs:
            raise ValueError(
                "the prompts have video tokens, but images alone came with them; pass "
                "pixel_values_videos"
            )
        if features is not None:
            width = pooled_side(config) ** 2
            count, frames = _size(features, width)
            for row, start in _starts(runs, count, frames * width):
                videos[row].append(VideoSpan(start, frames, width))
        return [
            PromptVisuals(videos=tuple(own), images=own_images)
            for own, own_images in zip(videos, images, strict=True)
        ]

    def frame_grid(self, model: nn.Module) -> tuple[int, int]:
        side = pooled_side(core_of(model).config)
        return side, side

    def vision_attention(self, model: nn.Module) -> VisionAttention:
        """What CLIP's class token attends to in the layer whose output is projected, pooled as the
        features are."""
        core = core_of(model)
        layer = core.config.vision_feature_layer
        if not isinstance(layer, int):
            raise ValueError(f"vision_feature_layer must be one layer to rank tokens, got {layer}")
        attention: Any = encoder_layers(core.vision_tower)[layer].self_attn
        return VisionAttention(
            query=attention.q_proj,
            key=attention.k_proj,
            num_heads=attention.num_heads,
            tokens=slice(1, None),
            has_class_token=True,
            encoder=core.multi_modal_projector,
            pool=lambda patches, _: core.vision_resampler(patches),
        )


def _size(features: Any, width: int) -> tuple[int, int]:
    """How many videos there are, and frames of each."""
    if isinstance(features, Tensor):
        count, frames = features.shape[:2]
        return count, frames
    require_whole(features)
    count, tokens = features.pooler_output.shape[:2]
    return count, tokens // width


def _starts(runs: list[Run], count: int, length: int) -> list[tuple[int, int]]:
    """(row, start) of each video; those without text between them form one run."""
    found = [
        (row, first)
        for row, start, stop in runs
        for first in range(start, stop, length)
        if first + length <= stop
    ]
    total = sum(stop - start for _, start, stop in runs)
    if len(found) != count or total != count * length:
        raise ValueError(
            f"the prompts must have {length} video tokens in a row for each of {count} videos, got "
            f"runs of {[stop - start for _, start, stop in runs]}"
        )
    return found
