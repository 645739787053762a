"""A LLaVA-NeXT-Video with random weights, for measurements that depend on shapes and not on
answers."""

from __future__ import annotations

from typing import Any

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
)

from ..shape import DecoderShape, VisionShape
from .family import CLIP, STRIDE
from .processor import LlavaNextVideoFrameProcessor

_REDUCED = VisionShape(
    width=32, mlp=64, layers=2, heads=4, image_px=48, patch_px=4, has_class_token=True
)


def random_llava_next_video(
    decoder: DecoderShape, words: Any, *, is_reduced: bool
) -> tuple[LlavaNextVideoForConditionalGeneration, LlavaNextVideoFrameProcessor]:
    """A model and its processor.

    Args:
        decoder: of the language model.
        words: whose tokenizer, chat template and placeholders are borrowed.
        is_reduced: a tiny vision side in place of the published one.
    """
    vision = _REDUCED if is_reduced else CLIP
    config = LlavaNextVideoConfig(
        vision_config=CLIPVisionConfig(**vision.config_values()),
        text_config=LlamaConfig(
            **decoder.config_values(), max_position_embeddings=131072, tie_word_embeddings=False
        ),
        image_token_index=words.config.image_token_id,
        video_token_index=words.config.video_token_id,
        spatial_pool_stride=STRIDE,
    )
    processor = LlavaNextVideoFrameProcessor(
        config, words.tokenizer, words.chat_template, words.image_mean, words.image_std
    )
    return LlavaNextVideoForConditionalGeneration(config), processor
