"""Attention summed over its rows, which is all that the baselines rank tokens by.

The models' own attention stays on its fused kernels and hands out no probabilities, so they are
computed again from queries and keys, a block of rows at a time: O(rows of a block * S) memory and
never a whole [H, S, S] matrix. Everything is float32, where offsets and near-ties keep their
meaning in half precision models.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.layer_attention import LayerAttention
from ..engine.prompt import VideoPlace

ROWS_PER_BLOCK = 128


def attention_received(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    causal_offset: int | None = None,
    key_mask: Tensor | None = None,
) -> Tensor:
    """What each key gets of the attention of all query rows, summed over the rows.

    Args:
        query: [B, H, Q, D].
        key: [B, Hkv, S, D]; ``Hkv`` divides H.
        scale: multiplies the products.
        causal_offset: row i sees the keys up to ``causal_offset + i``; None: all keys.
        key_mask: [B, S] bool, False for padding. Every row has to see a key.

    Returns:
        [B, H, S] float32.
    """
    groups = key.shape[1]
    grouped = query.unflatten(1, (groups, -1)).float() * scale  # [B, Hkv, G, Q, D]
    keys = key.float()[:, :, None].transpose(-1, -2)  # [B, Hkv, 1, D, S]
    places = torch.arange(key.shape[2], device=key.device)
    received = grouped.new_zeros(*grouped.shape[:3], key.shape[2])
    for start in range(0, query.shape[2], ROWS_PER_BLOCK):
        logits = grouped[:, :, :, start : start + ROWS_PER_BLOCK] @ keys
        if causal_offset is not None:
            rows = torch.arange(start, start + logits.shape[3], device=key.device)
            logits.masked_fill_(places > (causal_offset + rows)[:, None], -torch.inf)
        if key_mask is not None:
            logits.masked_fill_(~key_mask[:, None, None, None], -torch.inf)
        received += logits.softmax(dim=-1).sum(dim=3)
    return received.flatten(1, 2)


def paid_by_last_token(attention: LayerAttention, place: VideoPlace, method: str) -> Tensor:
    """[L] float32: what the prompt's last token pays to each of a video's, the mean over heads.

    Args:
        attention: of one decoder layer.
        place: of the video.
        method: who asks.

    Raises:
        ValueError: the heads are split over devices.
    """
    if attention.group is not None:
        raise ValueError(f"{method} averages over all heads, which a tensor-parallel model splits")
    row = slice(place.row, place.row + 1)
    # Prompts are padded on the left: the last row is the last token.
    received = attention_received(
        attention.rotated_queries(row, slice(-1, None)),
        attention.keys[row],
        scale=attention.scale,
        key_mask=None if attention.kv_mask is None else attention.kv_mask[row],
    )[0].mean(dim=0)  # [past + L]
    own = received[len(received) - place.prompt.length :]
    return own[place.prompt.video_rows(place.video)]


def best(scores: Tensor, count: int) -> Tensor:
    """The places of the ``count`` highest scores [..., S], ascending; the earlier one of equals."""
    ranked = torch.sort(scores, dim=-1, descending=True, stable=True).indices
    return ranked[..., :count].sort(dim=-1).values
