"""A LLaVA-OneVision with random weights, for measurements that depend on shapes and not on
answers."""

from __future__ import annotations

from dataclasses import replace

from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from ..shape import DecoderShape, VisionShape
from .family import SIGLIP
from .processor import LlavaOnevisionFrameProcessor

_REDUCED = VisionShape(
    width=32, mlp=64, layers=1, heads=4, image_px=48, patch_px=4, has_class_token=False
)


def random_llava_onevision(
    decoder: DecoderShape, words: LlavaOnevisionFrameProcessor, *, is_reduced: bool
) -> tuple[LlavaOnevisionForConditionalGeneration, LlavaOnevisionFrameProcessor]:
    """A model and its processor.

    Args:
        decoder: of the language model.
        words: whose tokenizer, chat template and placeholders are borrowed.
        is_reduced: a tiny vision side in place of the published one.
    """
    vision = _REDUCED if is_reduced else SIGLIP
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**vision.config_values(), vision_use_head=False),
        text_config=Qwen2Config(
            **decoder.config_values(), max_position_embeddings=131072, tie_word_embeddings=False
        ),
        image_token_index=words.config.image_token_id,
        video_token_index=words.config.video_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return LlavaOnevisionForConditionalGeneration(config), replace(words, config=config)
