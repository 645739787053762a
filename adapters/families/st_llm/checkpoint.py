"""ST-LLM's published checkpoints: what their tensors are called in :class:`~.model.StLlm`.

Both published folders keep the language model under the names of Llama and everything else under
``model.stllm_model.``. Vision and Q-Former come from LAVIS, whose names differ from transformers'
and whose attention has a bias for queries and values, and none for keys.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from ...checkpoint.files import open_checkpoint
from ...checkpoint.loading import Recipe, rename
from .config import StLlmConfig

# Buffers, and the decoder of masked video modelling, which only training uses.
IGNORED = (
    r"model\.stllm_model\.Qformer\..*position_ids",
    r"model\.stllm_model\.mvm_decoder\..*",
    r"(?:.*\.)?residual_index",
)
_OUTER = r"model\.stllm_model\."
_VISION = rf"{_OUTER}visual_encoder\."
_QFORMER = rf"{_OUTER}Qformer\.bert\."
_TOWER = "video_encoder.vision_tower"
_EMBEDDINGS = ("model.stllm_model.embed_tokens.weight", "model.embed_tokens.weight")


def read_config(folder: Path) -> StLlmConfig:
    """The config of a checkpoint folder, which the shapes of its tensors are a part of.

    Raises:
        CheckpointError: a folder that is no ST-LLM.
    """
    return StLlmConfig.read(folder, open_checkpoint(folder).tensors)


def recipes(keys: Collection[str]) -> list[Recipe]:
    """Where the tensors of a checkpoint with these keys go, published or saved by ``StLlm``."""
    if not any(key.startswith("model.stllm_model.") for key in keys):
        return [rename(r"(.*)", r"\1")]
    return [
        *_embeddings(keys),
        rename(r"lm_head\.weight", "language_model.lm_head.weight"),
        rename(r"model\.(layers\..*|norm\..*)", r"language_model.model.\1"),
        rename(rf"{_OUTER}query_tokens", "video_encoder.query_tokens"),
        rename(rf"{_OUTER}llama_proj\.(.*)", r"video_encoder.projection.\1"),
        rename(rf"{_OUTER}(down|up)_proj\.(.*)", r"video_encoder.residual.\1.\2"),
        rename(rf"{_OUTER}ln_vision\.(.*)", rf"{_TOWER}.post_layernorm.\1"),
        rename(rf"{_VISION}cls_token", f"{_TOWER}.embeddings.class_embedding"),
        rename(rf"{_VISION}pos_embed", f"{_TOWER}.embeddings.position_embedding"),
        rename(
            rf"{_VISION}patch_embed\.proj\.(.*)",
            rf"{_TOWER}.embeddings.patch_embedding.\1",
        ),
        rename(rf"{_VISION}BTAdapter_cls", f"{_TOWER}.adapter.class_embedding"),
        rename(
            rf"{_VISION}BTAdapter_position\.(.*)",
            rf"{_TOWER}.adapter.position_embedding.\1",
        ),
        *_layers(r"blocks\.(\d+)", rf"{_TOWER}.encoder.layers.\1"),
        *_layers(r"BTAdapter_S\.(\d+)", rf"{_TOWER}.adapter.spatial.\1"),
        *_layers(r"BTAdapter_T\.(\d+)", rf"{_TOWER}.adapter.temporal.\1"),
        rename(
            rf"{_QFORMER}embeddings\.LayerNorm\.(.*)",
            r"video_encoder.qformer.embeddings.layernorm.\1",
        ),
        rename(
            rf"{_QFORMER}(.*\.(?:cross)?attention)\.self\.(.*)",
            r"video_encoder.qformer.\1.attention.\2",
        ),
        rename(rf"{_QFORMER}(.*)", r"video_encoder.qformer.\1"),
    ]


def _layers(source: str, target: str) -> list[Recipe]:
    """Recipes for the layers of the vision tower that keys with ``source`` are of."""
    layer = rf"{_VISION}{source}\."
    attention = rf"{layer}attn\."
    return [
        Recipe(
            (rf"{attention}q_bias", rf"{attention}v_bias"),
            rf"{target}.self_attn.qkv.bias",
            lambda query, value: torch.cat((query, torch.zeros_like(query), value)),
        ),
        rename(rf"{attention}qkv\.weight", rf"{target}.self_attn.qkv.weight"),
        rename(rf"{attention}proj\.(.*)", rf"{target}.self_attn.projection.\2"),
        rename(rf"{layer}norm([12])\.(.*)", rf"{target}.layer_norm\2.\3"),
        rename(rf"{layer}temporal_fc\.(.*)", rf"{target}.projection.\2"),
        rename(rf"{layer}(mlp\..*)", rf"{target}.\2"),
    ]


def _embeddings(keys: Collection[str]) -> list[Recipe]:
    """Fine-tuning may have left two copies of the token embeddings; the outer model's is used."""
    target = "language_model.model.embed_tokens.weight"
    sources = tuple(key.replace(".", r"\.") for key in _EMBEDDINGS if key in keys)
    if len(sources) == 2:
        return [Recipe(sources, target, _outer_embeddings)]
    return [rename(source, target) for source in sources]


def _outer_embeddings(outer: Tensor, inner: Tensor) -> Tensor:
    if outer.shape != inner.shape:
        raise RuntimeError("two token embeddings of different shapes")
    if not outer.is_meta and not torch.equal(outer, inner):
        warnings.warn(
            "the checkpoint has two different token embeddings; {} is used, {} is not".format(
                *_EMBEDDINGS
            ),
            stacklevel=2,
        )
    return outer
