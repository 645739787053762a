"""A PLLaVA with random weights, for measurements that depend on shapes and not on answers."""

from __future__ import annotations

from transformers import CLIPVisionConfig, LlamaConfig

from ..processor import FrameProcessor
from ..shape import DecoderShape, VisionShape
from .config import PllavaConfig
from .family import CLIP, NUM_FRAMES, POOLED_SIDE
from .model import Pllava
from .processor import PllavaProcessor

_REDUCED = VisionShape(
    width=32, mlp=64, layers=2, heads=4, image_px=48, patch_px=4, has_class_token=True
)
_REDUCED_POOLED_SIDE = 6


def random_pllava(
    decoder: DecoderShape, words: FrameProcessor, *, is_reduced: bool
) -> tuple[Pllava, PllavaProcessor]:
    """A model and its processor.

    Args:
        decoder: of the language model.
        words: whose tokenizer and placeholder are borrowed.
        is_reduced: a tiny vision side in place of the published one.
    """
    vision = _REDUCED if is_reduced else CLIP
    pooled = _REDUCED_POOLED_SIDE if is_reduced else POOLED_SIDE
    config = PllavaConfig(
        text_config=LlamaConfig(
            **decoder.config_values(), max_position_embeddings=131072, tie_word_embeddings=False
        ),
        vision_config=CLIPVisionConfig(**vision.config_values()),
        image_token_index=words.config.image_token_id,
        pooling_shape=(NUM_FRAMES, pooled, pooled),
        frame_shape=(vision.side, vision.side),
    )
    return Pllava(config), PllavaProcessor(config, words.tokenizer)
