"""Where things live in LLaVA-OneVision (transformers' ``LlavaOnevisionForConditionalGeneration``).

A video's tokens stand frame by frame where the prompt has video placeholders, one for each token,
with one newline embedding after the last frame, under the same placeholder id. The newline is
neither merged nor pruned, and asks no question.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...engine.interface import ModelAdapter, PromptVisuals, VideoSpan, VisionAttention
from ..placeholders import (
    by_row,
    core_of,
    features_in,
    ids_in,
    require_whole,
    runs_of,
    vision_calls_of,
)
from ..vision import encoder_layers


class LlavaOnevisionAdapter(ModelAdapter):
    def decoder(self, model: nn.Module) -> nn.Module:
        return core_of(model).language_model

    def entries(self, model: nn.Module) -> Sequence[nn.Module]:
        core = core_of(model)
        return [model] if core is model else [model, core]

    def brings_visuals(self, inputs: Mapping[str, Any]) -> bool:
        return any(features_in(inputs, kind) is not None for kind in ("image", "video"))

    def video_token_id(self, model: nn.Module) -> int:
        return _config(model).video_token_id

    def vision_calls(self, model: nn.Module) -> list[tuple[nn.Module, str]]:
        return vision_calls_of(model)

    def locate(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[PromptVisuals]:
        ids = ids_in(inputs)
        config = _config(model)
        images = by_row(runs_of(ids == config.image_token_id), len(ids))
        videos: list[list[VideoSpan]] = [[] for _ in ids]
        features = features_in(inputs, "video")
        if features is not None:
            width = _tokens_per_frame(config)
            for row, start, stop in _video_runs(ids == config.video_token_id, features, width):
                frames, rest = divmod(stop - start - 1, width)
                if rest or frames == 0:
                    raise ValueError(
                        f"a video of LLaVA-OneVision has {width} tokens for each frame and one "
                        f"newline; {stop - start} video tokens in a row do not fit"
                    )
                videos[row].append(VideoSpan(start, frames, width))
        return [
            PromptVisuals(
                videos=tuple(row_videos),
                images=row_images,
                separators=tuple((video.stop, video.stop + 1) for video in row_videos),
            )
            for row_videos, row_images in zip(videos, images, strict=True)
        ]

    def frame_grid(self, model: nn.Module) -> tuple[int, int]:
        side = math.isqrt(_tokens_per_frame(_config(model)))
        return side, side

    def vision_attention(self, model: nn.Module) -> VisionAttention:
        """What a patch of SigLIP, which has no class token, receives from all of its frame in the
        layer whose output is projected: 27 x 27 patches, pooled to 14 x 14 as the features are."""
        core = core_of(model)
        attention = encoder_layers(core.vision_tower)[core.config.vision_feature_layer].self_attn
        return VisionAttention(
            query=attention.q_proj,
            key=attention.k_proj,
            num_heads=attention.num_heads,
            tokens=slice(None),
            has_class_token=False,
            encoder=core.multi_modal_projector,
            pool=lambda patches, _: core.apply_pooling(patches),
        )


def _config(model: nn.Module) -> Any:
    return model.config


def _tokens_per_frame(config: Any) -> int:
    """Patches of a frame after the 2x2 pooling that the model gives to videos."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return math.ceil(side / 2) ** 2


def _video_runs(is_video: Tensor, features: Any, width: int) -> list[tuple[int, int, int]]:
    """(row, start, stop) of each video, newline included."""
    runs = runs_of(is_video)
    if isinstance(features, Tensor):
        count, length = features.shape[0], features.shape[1] * width + 1
    else:
        require_whole(features)
        count, length = features.pooler_output.shape[:2]
    if count == 1:
        return runs
    # Videos that follow each other without text between them form one run.
    split = []
    for row, start, stop in runs:
        if (stop - start) % length:
            raise ValueError(
                f"{stop - start} video tokens in a row are no multiple of a video's {length}"
            )
        split += [(row, first, first + length) for first in range(start, stop, length)]
    if len(split) != count:
        raise ValueError(f"the prompts have video tokens for {len(split)} of {count} videos")
    return split
