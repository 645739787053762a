"""Question-guided selection inside the LLM: attention scores, the kept tokens, and the cut."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prunevid_kernels.config import PruneVidConfig, scaled_count
from prunevid_kernels.layout import TokenLayout
from prunevid_kernels.reference.floats import all_finite, compute_dtype


def score_visual_tokens(
    query: Tensor,
    key: Tensor,
    visual_slice: slice,
    scale: float,
    causal_offset: int | None,
    key_mask: Tensor | None,
) -> Tensor:
    """The most attention [B, V] float32 that any head of any question row pays to each visual
    token.

    query [B, H, Q, D] holds the question rows only, key [B, Hkv, S, D] all tokens; key head h
    serves the ``H / Hkv`` query heads from ``h * H / Hkv`` on. With ``causal_offset`` row i attends
    to the keys up to ``causal_offset + i``; ``key_mask`` [B, S] bool marks the keys that exist. A
    row that sees no key pays no attention; one that sees a product that is not finite makes its
    sample's scores NaN.
    """
    floats = compute_dtype(query.dtype)
    batch, heads, num_rows, head_dim = query.shape
    key_heads, num_keys = key.shape[1:3]
    # The query heads that share a key head become further rows of it.
    query = query.to(floats).reshape(batch, key_heads, -1, head_dim)
    with torch.autocast(query.device.type, enabled=False):  # which would round the products
        logits = (query @ key.to(floats).mT).mul_(scale)  # [B, Hkv, H / Hkv * Q, S]
    if not all_finite(logits):
        logits += logits - logits  # NaN for an overflow, to -inf included
    logits = logits.view(batch, heads, num_rows, num_keys)

    masks: list[Tensor] = []  # of the keys that a row does not see
    if causal_offset is not None:
        rows = torch.arange(num_rows, device=key.device)
        columns = torch.arange(num_keys, device=key.device)
        masks.append(columns > causal_offset + rows[:, None])
    if key_mask is not None:
        masks.append(~key_mask[:, None, None, :])
    for is_hidden in masks:
        logits.masked_fill_(is_hidden, -math.inf)
    attention = logits.softmax(dim=-1)
    if masks:  # NaN for rows that see no key
        sees_none = logits.amax(dim=-1, keepdim=True) == -math.inf
        attention = attention.masked_fill_(sees_none, 0.0)
    return attention[..., visual_slice].amax(dim=(1, 2)).float()


def select_tokens(scores: Tensor, layout: TokenLayout, config: PruneVidConfig) -> Tensor:
    """The kept merged tokens, ascending int64, by scores [V]; the lower position wins among
    equals."""
    if config.selection == "global":
        sizes = [layout.num_merged]
    else:
        sizes = layout.group_sizes.tolist()
    kept: list[Tensor] = []
    start = 0
    for size in sizes:
        best_first = torch.sort(scores[start : start + size], descending=True, stable=True).indices
        kept.append(start + best_first[: scaled_count(size, config.keep_ratio)])
        start += size
    return torch.sort(torch.cat(kept)).values


def compact(tensors: Sequence[Tensor], index: Tensor, dim: int) -> list[Tensor]:
    """Each tensor's entries ``index`` [K] (or [B, K]: one row for each entry of dimension 0) along
    ``dim``."""
    if index.ndim == 1:
        return [tensor.index_select(dim, index) for tensor in tensors]
    compacted = []
    for tensor in tensors:
        shape = list(tensor.shape)
        shape[dim % tensor.ndim] = index.shape[1]
        by_dim = [1] * tensor.ndim
        by_dim[0], by_dim[dim % tensor.ndim] = index.shape
        compacted.append(tensor.gather(dim, index.view(by_dim).expand(shape)))
    return compacted
