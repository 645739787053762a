"""An ST-LLM with random weights, for measurements that depend on shapes and not on answers: the
model with BT-Adapter, whose tokens of all frames are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import InstructBlipQFormerConfig, InstructBlipVisionConfig, LlamaConfig

from ..processor import FrameProcessor
from ..shape import DecoderShape, VisionShape
from .config import StLlmConfig
from .family import BRANCH_LAYERS, EVA, NUM_QUERIES, QFORMER, QFormerShape
from .model import StLlm
from .processor import StLlmProcessor

_REDUCED = VisionShape(
    width=32, mlp=64, layers=3, heads=4, image_px=28, patch_px=14, has_class_token=True
)
_REDUCED_QFORMER = QFormerShape(width=32, mlp=64, layers=2, heads=4)
_QFORMER_VOCABULARY = 30523  # bert-base-uncased and "[DEC]"


@dataclass(frozen=True)
class _WordPieces:
    """A transformers tokenizer where SentencePiece is expected."""

    tokenizer: Any

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids


def random_st_llm(
    decoder: DecoderShape, words: FrameProcessor, *, is_reduced: bool
) -> tuple[StLlm, StLlmProcessor]:
    """A model and its processor.

    Args:
        decoder: of the language model.
        words: whose tokenizer stands in for both of this family's.
        is_reduced: a tiny vision side in place of the published one.
    """
    vision = _REDUCED if is_reduced else EVA
    qformer = _REDUCED_QFORMER if is_reduced else QFORMER
    config = StLlmConfig(
        text_config=LlamaConfig(
            **decoder.config_values(), max_position_embeddings=131072, tie_word_embeddings=False
        ),
        vision_config=InstructBlipVisionConfig(**vision.config_values()),
        qformer_config=InstructBlipQFormerConfig(
            **qformer.config_values(),
            vocab_size=max(_QFORMER_VOCABULARY, len(words.tokenizer)),
            encoder_hidden_size=vision.width,
        ),
        num_query_tokens=NUM_QUERIES,
        adapter_layers=BRANCH_LAYERS,
    )
    pieces: Any = _WordPieces(words.tokenizer)
    return StLlm(config), StLlmProcessor(config, words.tokenizer, pieces, words.tokenizer)
