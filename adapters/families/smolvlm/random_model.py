"""A SmolVLM2 with random weights, for measurements that depend on shapes and not on answers."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

from ..shape import DecoderShape, VisionShape
from .family import SCALE, SIGLIP
from .processor import SmolVLMFrameProcessor

_REDUCED = VisionShape(
    width=32, mlp=64, layers=1, heads=4, image_px=48, patch_px=4, has_class_token=False
)


def random_smolvlm(
    decoder: DecoderShape, words: Any, *, is_reduced: bool
) -> tuple[SmolVLMForConditionalGeneration, SmolVLMFrameProcessor]:
    """A model and its processor.

    Args:
        decoder: of the language model.
        words: whose tokenizer, chat template and placeholders are borrowed.
        is_reduced: a tiny vision side in place of the published one.
    """
    vision = _REDUCED if is_reduced else SIGLIP
    config = SmolVLMConfig(
        vision_config=SmolVLMVisionConfig(**vision.config_values()),
        text_config=LlamaConfig(
            **decoder.config_values(), max_position_embeddings=131072, tie_word_embeddings=False
        ),
        image_token_id=words.config.image_token_id,
        scale_factor=SCALE,
        tie_word_embeddings=False,
    )
    processor = SmolVLMFrameProcessor(
        config,
        words.tokenizer,
        words.chat_template,
        words.image_mean,
        words.image_std,
        markers=("<|im_start|>", "<|im_end|>"),
        placeholder_text=words.tokenizer.convert_ids_to_tokens(words.config.video_token_id),
    )
    return SmolVLMForConditionalGeneration(config), processor
