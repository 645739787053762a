"""Tiny seeded models of the families whose tower sees frames one by one, one builder each.

Prompts are made as the published templates make them; the ids of markers and words are drawn.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tiny_models import IMAGE_ID, IMAGE_SIZE_PX, PAD_ID, PATCH_PX, VIDEO_ID, text_config
from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
    VideoLlama3VisionConfig,
)
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE_PX,
    "patch_size": PATCH_PX,
}


@cache
def llava_next_video(attention: str = "sdpa", **text: Any) -> Any:
    config = LlavaNextVideoConfig(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=text_config("llama", **text),
        image_token_index=IMAGE_ID,
        video_token_index=VIDEO_ID,
        image_grid_pinpoints=[[IMAGE_SIZE_PX, IMAGE_SIZE_PX]],
    )
    return _built(LlavaNextVideoForConditionalGeneration, config, attention)


@cache
def internvl(kind: str = "qwen2", attention: str = "sdpa", **text: Any) -> Any:
    """16 tokens a frame."""
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**TOWER),
        text_config=text_config(kind, **text),
        image_token_id=IMAGE_ID,
        tie_word_embeddings=False,
    )
    return _built(InternVLForConditionalGeneration, config, attention)


@cache
def smolvlm(attention: str = "sdpa", **text: Any) -> Any:
    """16 tokens a frame."""
    config = SmolVLMConfig(
        vision_config=SmolVLMVisionConfig(**TOWER),
        text_config=text_config("llama", **text),
        image_token_id=IMAGE_ID,
        scale_factor=2,
        tie_word_embeddings=False,
    )
    return _built(SmolVLMForConditionalGeneration, config, attention)


@cache
def video_llama_3(attention: str = "sdpa", **text: Any) -> Any:
    """16 tokens a frame of 32 x 32 pixels."""
    tower = {name: value for name, value in TOWER.items() if name != "image_size"}
    config = VideoLlama3Config(
        vision_config=VideoLlama3VisionConfig(**tower),
        text_config=text_config("qwen2", **text),
        image_token_id=IMAGE_ID,
        video_token_id=VIDEO_ID,
        tie_word_embeddings=False,
    )
    return _built(VideoLlama3ForConditionalGeneration, config, attention)


def _built(kind: Any, config: Any, attention: str) -> Any:
    """Greedy, with features that differ, as trained projectors give them."""
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ("projector" in name or "connector" in name) and weight.ndim == 2:
                weight.normal_(std=1.5 * weight.shape[1] ** -0.5)
    model.generation_config.do_sample = False
    model.generation_config.pad_token_id = PAD_ID
    model.generation_config.eos_token_id = None
    return model
