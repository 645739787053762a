"""How much each visual token matters to the vision side itself, by its last self-attention.

Where that attention is, and how its patches become visual tokens, each family's adapter says
(:meth:`~..engine.interface.ModelAdapter.vision_attention`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.interface import VisionAttention
from .attention import attention_received


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
