"""A VideoLLaMA3 with random weights, for measurements that depend on shapes and not on answers."""

from __future__ import annotations

from typing import Any

from transformers import (
    Qwen2Config,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
    VideoLlama3VisionConfig,
)

from ..shape import DecoderShape
from .family import PIXELS
from .processor import VideoLlama3FrameProcessor

_PUBLISHED = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}
_REDUCED = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 14,
}
# 4 tokens of a frame at least, 480 of a video at most.
_REDUCED_PIXELS = (4 * 28 * 28, 480 * 28 * 28)


def random_video_llama_3(
    decoder: DecoderShape, words: Any, *, is_reduced: bool
) -> tuple[VideoLlama3ForConditionalGeneration, VideoLlama3FrameProcessor]:
    """A model and its processor.

    Args:
        decoder: of the language model.
        words: whose tokenizer, chat template and placeholders are borrowed.
        is_reduced: a tiny vision side in place of the published one.
    """
    config = VideoLlama3Config(
        vision_config=VideoLlama3VisionConfig(**(_REDUCED if is_reduced else _PUBLISHED)),
        text_config=Qwen2Config(
            **decoder.config_values(), max_position_embeddings=131072, tie_word_embeddings=False
        ),
        image_token_id=words.config.image_token_id,
        video_token_id=words.config.video_token_id,
        tie_word_embeddings=False,
    )
    processor = VideoLlama3FrameProcessor(
        config,
        words.tokenizer,
        words.chat_template,
        words.image_mean,
        words.image_std,
        pixels=_REDUCED_PIXELS if is_reduced else PIXELS,
    )
    return VideoLlama3ForConditionalGeneration(config), processor
