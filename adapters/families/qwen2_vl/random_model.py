"""A Qwen2-VL with random weights, for measurements that depend on shapes and not on answers."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from ..grid_processor import REDUCED_PIXELS, borrowed_words, placeholders, rotary_sections
from ..shape import DecoderShape
from .family import PIXELS
from .processor import Qwen2VLFrameProcessor

_REDUCED = {"depth": 1, "embed_dim": 32, "mlp_ratio": 2, "num_heads": 2}
_PUBLISHED = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16}


def random_qwen2_vl(
    decoder: DecoderShape, words: Any, *, is_reduced: bool
) -> tuple[Qwen2VLForConditionalGeneration, Qwen2VLFrameProcessor]:
    """A model and its processor.

    Args:
        decoder: of the language model.
        words: whose tokenizer, chat template and placeholders are borrowed.
        is_reduced: a tiny vision side in place of the published one.
    """
    vision = {**(_REDUCED if is_reduced else _PUBLISHED), "hidden_size": decoder.hidden_size}
    pixels = REDUCED_PIXELS if is_reduced else PIXELS
    config = Qwen2VLConfig(
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
    processor = Qwen2VLFrameProcessor(*borrowed_words(words, config, pixels))
    return Qwen2VLForConditionalGeneration(config), processor
