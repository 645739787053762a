"""A Qwen3-VL with random weights, for measurements that depend on shapes and not on answers.

One with experts is stood in for by a dense one whose MLP is as wide as the experts that a token
runs through: the same arithmetic, without the routing.
"""

from __future__ import annotations

from typing import Any

from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from ..grid_processor import REDUCED_PIXELS, borrowed_words, placeholders, rotary_sections
from ..shape import DecoderShape
from .family import PIXELS
from .processor import Qwen3VLFrameProcessor

_REDUCED = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "deepstack_visual_indexes": [0],
}
_PUBLISHED = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "deepstack_visual_indexes": [8, 16, 24],
}


def random_qwen3_vl(
    decoder: DecoderShape, words: Any, *, is_reduced: bool
) -> tuple[Qwen3VLForConditionalGeneration, Qwen3VLFrameProcessor]:
    """A model and its processor.

    Args:
        decoder: of the language model.
        words: whose tokenizer, chat template and placeholders are borrowed.
        is_reduced: a tiny vision side in place of the published one.
    """
    vision = {**(_REDUCED if is_reduced else _PUBLISHED), "out_hidden_size": decoder.hidden_size}
    pixels = REDUCED_PIXELS if is_reduced else PIXELS
    config = Qwen3VLConfig(
        vision_config=vision,
        text_config={
            **decoder.config_values(),
            "head_dim": decoder.head_dim,
            "max_position_embeddings": 262144,
            "bos_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": rotary_sections(decoder, 5 / 16),
                "mrope_interleaved": True,
            },
        },
        tie_word_embeddings=False,
        **placeholders(words),
    )
    processor = Qwen3VLFrameProcessor(*borrowed_words(words, config, pixels))
    return Qwen3VLForConditionalGeneration(config), processor
