"""What callers say about padding, and what it means once the cache holds fewer tokens than they
fed.

A caller's mask counts the tokens it has fed, a mask over a pruned cache the entries it holds; this
module translates. ``generate`` gives a 2-D mask, none when nothing is padding, or, for static
caches, one already expanded to 4-D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

from .cache import CACHE, PrunedState, is_static, state_of


@dataclass(frozen=True)
class Held:
    """What a run of layers holds in its caches once it has seen the prompts.

    Attributes:
        lengths: entries of each prompt, padding and what was fed before excluded.
        total: entries of a layer, padding and what was fed before included.
        kv_mask: [B, total] bool, False for padding; None if there is none.
    """

    lengths: list[int]
    total: int
    kv_mask: Tensor | None


@dataclass(frozen=True)
class PromptPadding:
    """The padding of a prompt that is about to be fed, and of what was fed before.

    Attributes:
        fed: tokens fed before, padding included.
        held: entries that the cache holds of them.
        first: for each row of the batch, the first token of the prompt that is not padding.
        past_mask: [B, held] bool, False for padding; None if there is none.
        past_offset: [B] int64, position less place in the cache for what comes after a pruned
            prompt; None if nothing was pruned before.
        needs_mask: the decoder must get a mask even where nothing is padding. FlashAttention tells
            by its length how much of a static cache is filled.
    """

    fed: int
    held: int
    first: list[int]
    past_mask: Tensor | None
    past_offset: Tensor | None
    needs_mask: bool = False

    def next_position(self, position_ids: Tensor | None, device: torch.device) -> Tensor:
        """[B] int64: the position of the first token of each prompt that is not padding.

        After a pruned prompt it follows from the cache. After anything else it is the one that the
        caller gives, or the decoder's own: padding counts.

        Args:
            position_ids: [B or 1, S] the caller's, or None.
            device: of the result.
        """
        first = torch.tensor(self.first, device=device)
        if self.past_offset is not None:
            return self.held + self.past_offset
        if position_ids is None:
            return self.fed + first
        return position_ids.expand(len(first), -1).gather(1, first[:, None])[:, 0]

    def hold(self, lengths: Sequence[int], device: torch.device) -> Held:
        """The caches once the prompts have shrunk to ``lengths``, padded on the left."""
        longest, past = max(lengths), self.past_mask
        held = Held(list(lengths), self.held + longest, None)
        if past is None and min(lengths) == longest and not self.needs_mask:
            return held
        places = torch.arange(longest, device=device)
        block = (
            places >= torch.tensor([longest - length for length in lengths], device=device)[:, None]
        )
        if past is None:
            past = block.new_ones(len(lengths), self.held)
        return replace(held, kv_mask=torch.cat((past, block), dim=1))


def read_padding(
    attention_mask: Any, cache: Cache | None, *, batch: int, length: int
) -> tuple[PromptPadding, PromptPadding]:
    """Read the mask of a prompt [batch, length] that goes after what ``cache`` holds.

    Args:
        attention_mask: the caller's.
        cache: what was fed before; None: nothing, and nothing will be kept.
        batch: rows.
        length: of the prompt, padding included.

    Returns:
        The padding as the first layers see it, and as the late layers of :class:`.cache.LateLayers`
        do; the same where there are none.

    Raises:
        ValueError: a mask of an unknown form or of the wrong length; padding that is not on the
            left of the prompt.
    """
    if cache is None:
        padding = _read_padding(attention_mask, None, None, 0, 0, batch, length)
        return padding, padding
    state, fed = state_of(cache), int(cache.get_seq_length())
    padding = _read_padding(
        attention_mask, cache, state, fed, int(cache.get_query_offset()), batch, length
    )
    if state is None or state.late is None:
        return padding, padding
    late = state.of_late_layers()
    held = int(cache.get_query_offset(state.late.first))
    return padding, _read_padding(attention_mask, cache, late, fed, held, batch, length)


def _read_padding(
    attention_mask: Any,
    cache: Cache | None,
    state: PrunedState | None,
    fed: int,
    held: int,
    batch: int,
    length: int,
) -> PromptPadding:
    """The padding as some layers see it, of whose caches ``state`` and ``held`` tell."""
    mask = _as_2d(attention_mask, fed, length, is_pruned=state is not None)
    if mask is None:
        past_mask = None if state is None else _pad_to(state.kv_mask, state.held, held)
        offset = None if state is None else state.position_offset
        return PromptPadding(fed, held, [0] * batch, past_mask, offset)

    mask = mask.expand(batch, -1)
    if mask.shape[1] != fed + length:
        raise ValueError(
            f"attention_mask must cover the {fed} tokens fed before and the {length} of the "
            f"prompt, got shape {list(mask.shape)}"
        )
    prompt_mask = mask[:, fed:]
    first = (length - prompt_mask.sum(dim=1)).tolist()
    expected = (
        torch.arange(length, device=mask.device) >= torch.tensor(first).to(mask.device)[:, None]
    )
    if not torch.equal(prompt_mask, expected):
        raise ValueError("pruning needs prompts padded on the left; attention_mask has other gaps")

    past_mask, offset = mask[:, :fed], None
    if state is not None:
        since = mask[:, state.fed : fed]
        past_mask = _pruned_mask(state, since)
        if state.position_offset is not None:
            offset = state.position_offset - (~since).sum(dim=1)
    return PromptPadding(
        fed,
        held,
        first,
        None if past_mask.all() else past_mask,
        offset,
        needs_mask=cache is not None and is_static(cache) and _unwrap(attention_mask).ndim == 2,
    )


def continue_pruned(
    state: PrunedState,
    cache: Cache,
    attention_mask: Any,
    position_ids: Tensor | None,
    embeds: Tensor,
    *,
    layer: int = 0,
) -> tuple[Tensor | None, Tensor | None]:
    """The decoder's mask and positions for tokens that are fed after a pruned prompt.

    A compiled decoding step runs through this with a static cache: its length, a tensor, must not
    be read.

    Args:
        state: of the cache, as the layers see it that the mask is for.
        cache: the pruned cache.
        attention_mask: the caller's.
        position_ids: the caller's.
        embeds: [B, Q, C] or ids [B, Q], the new tokens.
        layer: the first of the layers that the mask is for.

    Raises:
        ValueError: an attention mask that does not cover what was fed.
    """
    queries = embeds.shape[1]
    held: Any = cache.get_query_offset(layer)
    mask, since = state.kv_mask, None
    attention_mask = _unwrap(attention_mask)
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
        since = attention_mask[:, state.fed :].to(embeds.device, torch.bool)
        if isinstance(held, int) and since.shape[1] != held - state.held + queries:
            raise ValueError(
                f"attention_mask must cover the {state.fed + held - state.held} tokens fed before "
                f"and the {queries} new ones, got shape {list(attention_mask.shape)}"
            )
        mask = _pruned_mask(state, since)
    elif mask is not None and not is_static(cache):
        mask = _pad_to(mask, state.held, held + queries)

    if state.position_offset is None:
        return mask, position_ids
    if since is None:
        places = held + torch.arange(queries, device=embeds.device)
    else:
        places = state.held + (since.cumsum(dim=1) - 1)[:, -queries:].clamp(min=0)
    return mask, state.position_offset[:, None] + places


def layer_mask(
    decoder: Any, tokens: Tensor, mask: Tensor | None, cache: Cache | None, layer: int
) -> Any:
    """The mask that one layer gets, in the form that its attention implementation takes.

    Args:
        decoder: the text decoder.
        tokens: embeddings [B, Q, C] or ids [B, Q], the queries.
        mask: [B, K] bool over the layer's cache entries, the new ones included; None: no padding.
        cache: holds what was fed before.
        layer: its index.
    """
    if not tokens.is_floating_point():
        # Embeddings are looked at for their sizes and dtype alone: the mask is added to logits.
        tokens = tokens.new_empty((*tokens.shape, 0), dtype=decoder.dtype)
    return create_causal_mask(
        config=decoder.config,
        inputs_embeds=tokens,
        attention_mask=mask,
        # Given positions, it would look for packed sequences in them.
        position_ids=None,
        layer_idx=layer,
        **{CACHE: cache},
    )


def _as_2d(mask: Any, fed: int, length: int, *, is_pruned: bool) -> Tensor | None:
    """[B, fed + length] bool, or None if nothing is padding."""
    mask = _unwrap(mask)
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        raise ValueError(
            "pruning needs a 2-D attention mask [B, S], or a 4-D one [B, 1, S, K], "
            f"got {type(mask).__name__}"
        )
    if mask.ndim == 2:
        return mask.bool()
    if is_pruned:
        # It was expanded from a mask over fed tokens to one over held entries: meaningless. A
        # prompt after others has no padding of its own in any caller that expands.
        return None
    last = mask[:, 0, -1, : fed + length]  # the last token sees all that is not padding
    return last if last.dtype == torch.bool else last >= 0


def _unwrap(mask: Any) -> Any:
    """Masks made ahead of the decoder come by layer type."""
    return mask["full_attention"] if isinstance(mask, dict) else mask


def _pruned_mask(state: PrunedState, since: Tensor) -> Tensor:
    """[B, K] bool over the entries of the pruned prompt and those ``since`` [B, K - held]."""
    if state.kv_mask is None:
        return F.pad(since, (state.held, 0), value=True)
    return torch.cat((state.kv_mask[:, : state.held], since), dim=1)


def _pad_to(mask: Tensor | None, held: int, length: int) -> Tensor | None:
    """A state's mask, extended by tokens that are not padding."""
    if mask is None:
        return None
    return F.pad(mask[:, :held], (0, length - held), value=True)
