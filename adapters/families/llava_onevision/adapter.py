"""Where things live in LLaVA-OneVision (transformers' ``LlavaOnevisionForConditionalGeneration``).

A video's tokens stand frame by frame where the prompt has video placeholders, one for each token,
with one newline embedding after the last frame, under the same placeholder id. The newline is
neither merged nor pruned, and asks no question. ``generate`` of newer transformers versions encodes
videos first and passes ``mm_encoder_outputs`` instead of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.interface import ModelAdapter, PromptVisuals, VideoSpan, VisionAttention
from ..vision import encoder_layers


class LlavaOnevisionAdapter(ModelAdapter):
    def decoder(self, model: nn.Module) -> nn.Module:
        return _core(model).language_model

    def entries(self, model: nn.Module) -> Sequence[nn.Module]:
        core = _core(model)
        return [model] if core is model else [model, core]

    def brings_visuals(self, inputs: Mapping[str, Any]) -> bool:
        return any(_features(inputs, kind) is not None for kind in ("image", "video"))

    def video_token_id(self, model: nn.Module) -> int:
        return _config(model).video_token_id

    def locate(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[PromptVisuals]:
        ids = inputs.get("input_ids")
        if ids is None:
            raise ValueError(
                "pixel values with inputs_embeds: pruning needs input_ids to find the videos"
            )
        ids = ids.cpu()
        config = _config(model)
        images = [
            [(start, stop) for row, start, stop in _runs(ids == config.image_token_id) if row == r]
            for r in range(len(ids))
        ]
        videos: list[list[VideoSpan]] = [[] for _ in ids]
        features = _features(inputs, "video")
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
                images=tuple(row_images),
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
        core = _core(model)
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


def _core(model: nn.Module) -> Any:
    """The model without its language modelling head."""
    return model.model if hasattr(model, "lm_head") else model


def _config(model: nn.Module) -> Any:
    return model.config


def _features(inputs: Mapping[str, Any], kind: str) -> Any:
    """Pixels [V, T, 3, H, W] of the videos, or their encoded form; None if there are none."""
    encoded = (inputs.get("mm_encoder_outputs") or {}).get(kind)
    if encoded is not None:
        return encoded
    return inputs.get("pixel_values" if kind == "image" else "pixel_values_videos")


def _tokens_per_frame(config: Any) -> int:
    """Patches of a frame after the 2x2 pooling that the model gives to videos."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return math.ceil(side / 2) ** 2


def _video_runs(is_video: Tensor, features: Any, width: int) -> list[tuple[int, int, int]]:
    """(row, start, stop) of each video, newline included."""
    runs = _runs(is_video)
    if isinstance(features, Tensor):
        count, length = features.shape[0], features.shape[1] * width + 1
    else:
        if features.last_hidden_state is None:
            raise ValueError(
                "video features came without last_hidden_state, as chunks of a prompt do that "
                "prefill_chunk_size has cut; pruning needs a prompt in one piece"
            )
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


def _runs(mask: Tensor) -> list[tuple[int, int, int]]:
    """(row, start, stop) of each maximal run of True in a mask [B, S], in order."""
    padded = torch.nn.functional.pad(mask.to(torch.int8), (1, 1))
    change = padded.diff(dim=1)
    starts, stops = (change == 1).nonzero().tolist(), (change == -1).nonzero().tolist()
    return [(row, start, stop) for (row, start), (_, stop) in zip(starts, stops, strict=True)]
