"""Where a model family's vision side tells which of its tokens matter: the last self-attention that
the visual tokens pass through.

================  ====================  ==================  =====================================
family            attention of          importance          tokens
================  ====================  ==================  =====================================
LLaVA-OneVision   SigLIP, feature       received, mean      729 patches, pooled 27 -> 14 by the
                  layer                 (has no CLS)        model's own bilinear pooling
PLLaVA            CLIP, feature layer   CLS row             576 patches, pooled 24 -> 12, and over
                                                            time, by the projector's own pooling
ST-LLM            Q-Former, last layer  received, mean,     32 queries a frame; in residual mode of
                                        among the queries   the frames that are kept
================  ====================  ==================  =====================================

Importance and keys are pooled exactly as the features are, so that each token that the language
model gets has both. ST-LLM's tower has a CLS, but its patches are no tokens: the Q-Former's queries
are, so they are looked at where they last look at each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .attention import attention_received


@dataclass(frozen=True)
class VisionAttention:
    """One family's facts.

    Attributes:
        query, key: the projections; each gives [F, P, num_heads * D] for F frames.
        num_heads: of the attention.
        tokens: which of the P rows are patches or tokens.
        has_class_token: row 0 is CLS, whose attention is the importance; else it is what a token
            receives from all of them.
        encoder: the module at whose end the attention has run; its first argument has a leading
            dimension V for :attr:`pool`.
        pool: ([F, P', C], V) -> [T, N, C], from patches to visual tokens.
    """

    query: nn.Module
    key: nn.Module
    num_heads: int
    tokens: slice
    has_class_token: bool
    encoder: nn.Module
    pool: Callable[[Tensor, int], Tensor]


def vision_attention(model: Any) -> VisionAttention:
    """The facts of ``model``'s family.

    Raises:
        ValueError: a family without a vision side that is known here.
    """
    kind = model.config.model_type
    if kind not in _FAMILIES:
        raise ValueError(
            f"the vision tower's attention is known for {', '.join(sorted(_FAMILIES))}, got {kind}"
        )
    return _FAMILIES[kind](model)


def _llava_onevision(model: Any) -> VisionAttention:
    core = model.model if hasattr(model, "lm_head") else model
    attention = _encoder_layers(core.vision_tower)[core.config.vision_feature_layer].self_attn
    return VisionAttention(
        query=attention.q_proj,
        key=attention.k_proj,
        num_heads=attention.num_heads,
        tokens=slice(None),
        has_class_token=False,
        encoder=core.multi_modal_projector,
        pool=lambda patches, _: core.apply_pooling(patches),
    )


def _pllava(model: Any) -> VisionAttention:
    config = model.config
    attention = _encoder_layers(model.vision_tower)[config.vision_feature_layer].self_attn

    def pool(patches: Tensor, videos: int) -> Tensor:
        tokens = model.multi_modal_projector.pool(patches.unflatten(0, (videos, -1)))
        return tokens.unflatten(1, (-1, config.tokens_per_frame)).flatten(0, 1)

    return VisionAttention(
        query=attention.q_proj,
        key=attention.k_proj,
        num_heads=attention.num_heads,
        tokens=slice(1, None),
        has_class_token=True,
        encoder=model.multi_modal_projector,
        pool=pool,
    )


def _st_llm(model: Any) -> VisionAttention:
    encoder = model.video_encoder
    attention = encoder.qformer.encoder.layer[-1].attention.attention

    def pool(tokens: Tensor, videos: int) -> Tensor:
        if encoder.residual is None:
            return tokens
        clips = tokens.unflatten(0, (videos, -1))
        return clips[:, encoder.residual.chosen_frames(clips.shape[1])].flatten(0, 1)

    return VisionAttention(
        query=attention.query,
        key=attention.key,
        num_heads=attention.num_attention_heads,
        tokens=slice(model.config.num_query_tokens),
        has_class_token=False,
        encoder=encoder,
        pool=pool,
    )


_FAMILIES: dict[str, Callable[[Any], VisionAttention]] = {
    "llava_onevision": _llava_onevision,
    "pllava": _pllava,
    "st_llm": _st_llm,
}


def _encoder_layers(tower: nn.Module) -> nn.ModuleList:
    """The layers of a transformers vision tower; some versions wrap them once more."""
    for module in tower.modules():
        layers = getattr(module, "layers", None)
        if isinstance(layers, nn.ModuleList):
            return layers
    raise ValueError(f"{type(tower).__name__} has no encoder layers")


def importance(vision: VisionAttention, query: Tensor, key: Tensor) -> Tensor:
    """[F, P'] float32: how much attention each patch or token gets, the mean over heads (and, where
    there is no CLS, over rows).

    Args:
        vision: the facts.
        query, key: [F, P, heads * D], what the projections gave.
    """
    queries, keys = (
        rows.unflatten(-1, (vision.num_heads, -1)).transpose(1, 2) for rows in (query, key)
    )  # [F, H, P, D]
    scale = queries.shape[-1] ** -0.5
    if vision.has_class_token:
        received = attention_received(queries[:, :, :1], keys, scale=scale)[:, :, vision.tokens]
        return received.mean(dim=1)
    queries, keys = queries[:, :, vision.tokens], keys[:, :, vision.tokens]
    # Frame by frame: the block of rows is all that is held.
    received = torch.cat(
        [
            attention_received(queries[i : i + 1], keys[i : i + 1], scale=scale)
            for i in range(len(keys))
        ]
    )
    return received.mean(dim=1) / queries.shape[2]
