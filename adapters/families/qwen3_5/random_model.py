"""A Qwen3.5 with random weights, for measurements that depend on shapes and not on answers.

One with experts is stood in for by a dense one whose MLP is as wide as the experts that a token
runs through: the same arithmetic, without the routing.
"""

from __future__ import annotations

from typing import Any

from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from ..grid_processor import REDUCED_PIXELS, borrowed_words, placeholders
from ..shape import DecoderShape, LinearAttention
from .family import PIXELS
from .processor import Qwen3_5FrameProcessor

_REDUCED = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
}
_PUBLISHED = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
}


def random_qwen3_5(
    decoder: DecoderShape, words: Any, *, is_reduced: bool
) -> tuple[Qwen3_5ForConditionalGeneration, Qwen3_5FrameProcessor]:
    """A model and its processor.

    Args:
        decoder: of the language model.
        words: whose tokenizer, chat template and placeholders are borrowed.
        is_reduced: a tiny vision side in place of the published one.
    """
    vision = {**(_REDUCED if is_reduced else _PUBLISHED), "out_hidden_size": decoder.hidden_size}
    pixels = REDUCED_PIXELS if is_reduced else PIXELS
    config = Qwen3_5Config(
        vision_config=vision,
        text_config={
            **decoder.config_values(),
            "head_dim": decoder.head_dim,
            **_linear_values(decoder),
            "max_position_embeddings": 262144,
            "bos_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e7,
                "mrope_section": _sections(decoder),
                "mrope_interleaved": True,
            },
        },
        tie_word_embeddings=False,
        **placeholders(words),
    )
    processor = Qwen3_5FrameProcessor(*borrowed_words(words, config, pixels))
    return Qwen3_5ForConditionalGeneration(config), processor


def _linear_values(decoder: DecoderShape) -> dict[str, int]:
    linear = decoder.linear
    if linear is None:  # a reduced decoder
        linear = LinearAttention(layers=0, key=32, value=64, head=16)
    return {
        "linear_key_head_dim": linear.head,
        "linear_value_head_dim": linear.head,
        "linear_num_key_heads": linear.key // linear.head,
        "linear_num_value_heads": linear.value // linear.head,
    }


def _sections(decoder: DecoderShape) -> list[int]:
    """A quarter of a head is rotated, half of that are frequencies: 11, 11 and 10 of 32."""
    frequencies = decoder.head_dim // 8
    height, width = 11 * frequencies // 32, 10 * frequencies // 32
    return [frequencies - height - width, height, width]
