"""An InternVL with random weights, for measurements that depend on shapes and not on answers."""

from __future__ import annotations

from typing import Any

from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
    Qwen3Config,
)

from ..shape import DecoderShape, VisionShape
from .family import DOWNSAMPLE, INTERN_VIT
from .processor import InternVLFrameProcessor

_REDUCED = VisionShape(
    width=32, mlp=64, layers=1, heads=4, image_px=48, patch_px=4, has_class_token=True
)


def random_internvl(
    decoder: DecoderShape, words: Any, *, is_reduced: bool
) -> tuple[InternVLForConditionalGeneration, InternVLFrameProcessor]:
    """A model and its processor.

    Args:
        decoder: of the language model; one whose heads have a size of their own is a Qwen3.
        words: whose tokenizer, chat template and placeholders are borrowed.
        is_reduced: a tiny vision side in place of the published one.
    """
    vision = _REDUCED if is_reduced else INTERN_VIT
    text = Qwen2Config if decoder.head_size is None else Qwen3Config
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**vision.config_values()),
        text_config=text(
            **decoder.config_values(), max_position_embeddings=131072, tie_word_embeddings=False
        ),
        image_token_id=words.config.image_token_id,
        downsample_ratio=DOWNSAMPLE,
        tie_word_embeddings=False,
    )
    processor = InternVLFrameProcessor(
        config,
        words.tokenizer,
        words.chat_template,
        words.image_mean,
        words.image_std,
        markers=("<|im_start|>", "<|im_end|>"),
        placeholder_text=words.tokenizer.convert_ids_to_tokens(words.config.video_token_id),
    )
    return InternVLForConditionalGeneration(config), processor
