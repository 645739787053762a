"""Models of the published sizes with random weights, drawn on the device; and tiny ones of the same
families for machines without a GPU.

Words cost nothing: the embedded model's tokenizer does for every family, the Q-Former's and
SentencePiece's places in ST-LLM's processor included. So prompts have the published form and
placeholders, and about as many text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from prunevid_kernels.adapters.families.pllava.config import PllavaConfig
from prunevid_kernels.adapters.families.pllava.model import Pllava
from prunevid_kernels.adapters.families.pllava.processor import PllavaProcessor
from prunevid_kernels.adapters.families.st_llm.config import StLlmConfig
from prunevid_kernels.adapters.families.st_llm.model import StLlm
from prunevid_kernels.adapters.families.st_llm.processor import StLlmProcessor
from prunevid_kernels.adapters.families.video_model import VideoModel

from ...embedded import tiny_model
from ..flops.decoder import DecoderShape
from ..kernels.cases import MODELS

NAMES = tuple(MODELS)
REDUCED_DECODER = DecoderShape(64, 128, 4, 4, 2, 256)
REDUCED_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}


def random_model(
    name: str, device: torch.device, dtype: torch.dtype, *, is_reduced: bool
) -> VideoModel:
    """A model with random weights.

    Args:
        name: one of :data:`NAMES`.
        is_reduced: a tiny model of the family in place of the published size.
    """
    embedded = tiny_model.build_tiny_model()
    shape = REDUCED_DECODER if is_reduced else MODELS[name].decoder
    decoder = {
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.mlp_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "vocab_size": max(shape.vocab_size, len(embedded.tokenizer)),
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    }
    family = next(family for prefix, family in FAMILIES.items() if name.startswith(prefix))
    config = family.config(decoder, embedded, is_reduced)
    torch.manual_seed(0)
    with torch.device(device), _default_dtype(dtype):
        model = family.model(config)
    processor = family.processor(config, embedded)
    return VideoModel(
        model=model.eval(),
        processor=processor,
        family=family.name,
        name=f"{name}, tiny stand-in" if is_reduced else name,
        default_frames=MODELS[name].frames,
        grid=family.grid(processor),
        tokens_have_places=family.name != "st_llm",
        is_random=True,
    )


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _llava_onevision_config(
    decoder: dict[str, Any], embedded: VideoModel, is_reduced: bool
) -> LlavaOnevisionConfig:
    tower = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16}
    vision = SiglipVisionConfig(
        **(REDUCED_TOWER if is_reduced else tower),
        num_hidden_layers=1 if is_reduced else 26,
        image_size=48 if is_reduced else 384,
        patch_size=4 if is_reduced else 14,
        vision_use_head=False,
    )
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=Qwen2Config(**decoder),
        image_token_index=embedded.model.config.image_token_id,
        video_token_index=embedded.model.config.video_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )


def _pllava_config(decoder: dict[str, Any], embedded: VideoModel, is_reduced: bool) -> PllavaConfig:
    tower = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    vision = CLIPVisionConfig(
        **(REDUCED_TOWER if is_reduced else tower),
        num_hidden_layers=2 if is_reduced else 24,
        image_size=48 if is_reduced else 336,
        patch_size=4 if is_reduced else 14,
    )
    return PllavaConfig(
        text_config=LlamaConfig(**decoder),
        vision_config=vision,
        image_token_index=embedded.model.config.image_token_id,
        pooling_shape=(16, 6, 6) if is_reduced else (16, 12, 12),
        frame_shape=(12, 12) if is_reduced else (24, 24),
    )


def _st_llm_config(decoder: dict[str, Any], embedded: VideoModel, is_reduced: bool) -> StLlmConfig:
    """The model with BT-Adapter, whose tokens of all frames are used."""
    tower = {"hidden_size": 1408, "intermediate_size": 6144, "num_attention_heads": 16}
    qformer = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    vision = InstructBlipVisionConfig(
        **(REDUCED_TOWER if is_reduced else tower),
        num_hidden_layers=3 if is_reduced else 39,
        image_size=28 if is_reduced else 224,
        patch_size=14,
    )
    return StLlmConfig(
        text_config=LlamaConfig(**decoder),
        vision_config=vision,
        qformer_config=InstructBlipQFormerConfig(
            **(REDUCED_TOWER if is_reduced else qformer),
            num_hidden_layers=2 if is_reduced else 12,
            vocab_size=max(30523, len(embedded.tokenizer)),
            encoder_hidden_size=vision.hidden_size,
        ),
    )


@dataclass(frozen=True)
class _WordPieces:
    """A transformers tokenizer where SentencePiece is expected."""

    tokenizer: Any

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids


def _st_llm_processor(config: StLlmConfig, embedded: VideoModel) -> StLlmProcessor:
    words: Any = _WordPieces(embedded.tokenizer)
    return StLlmProcessor(config, embedded.tokenizer, words, embedded.tokenizer)


@dataclass(frozen=True)
class _Family:
    """How a model of a family and its processor are made."""

    name: Any
    config: Callable[[dict[str, Any], VideoModel, bool], PreTrainedConfig]
    model: Callable[[Any], Any]
    processor: Callable[[Any, VideoModel], Any]
    grid: Callable[[Any], tuple[int, int]]


FAMILIES = {
    "llava-onevision": _Family(
        "llava_onevision",
        _llava_onevision_config,
        LlavaOnevisionForConditionalGeneration,
        lambda config, embedded: replace(embedded.processor, config=config),
        lambda processor: (processor.grid_side,) * 2,
    ),
    "pllava": _Family(
        "pllava",
        _pllava_config,
        Pllava,
        lambda config, embedded: PllavaProcessor(config, embedded.tokenizer),
        lambda processor: tuple(processor.config.pooling_shape[1:]),
    ),
    "st-llm": _Family(
        "st_llm",
        _st_llm_config,
        StLlm,
        _st_llm_processor,
        lambda processor: (1, processor.config.num_query_tokens),
    ),
}
