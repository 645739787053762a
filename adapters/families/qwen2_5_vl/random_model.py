"""A Qwen2.5-VL with random weights, for measurements that depend on shapes and not on answers."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from ..grid_processor import REDUCED_PIXELS, borrowed_words, placeholders, rotary_sections
from ..shape import DecoderShape
from .family import PIXELS
from .processor import Qwen2_5VLFrameProcessor

_REDUCED = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "fullatt_block_indexes": [0],
}
_PUBLISHED = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}


def random_qwen2_5_vl(
    decoder: DecoderShape, words: Any, *, is_reduced: bool
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5VLFrameProcessor]:
    """A model and its processor.

    Args:
        decoder: of the language model.
        words: whose tokenizer, chat template and placeholders are borrowed.
        is_reduced: a tiny vision side in place of the published one.
    """
    vision = {**(_REDUCED if is_reduced else _PUBLISHED), "out_hidden_size": decoder.hidden_size}
    pixels = REDUCED_PIXELS if is_reduced else PIXELS
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config={
            **decoder.config_values(),
            "max_position_embeddings": 131072,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": rotary_sections(decoder),
            },
        },
        tie_word_embeddings=False,
        **placeholders(words),
    )
    processor = Qwen2_5VLFrameProcessor(*borrowed_words(words, config, pixels))
    return Qwen2_5_VLForConditionalGeneration(config), processor
