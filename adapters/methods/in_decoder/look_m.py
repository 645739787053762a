"""Look-M (Wan et al., Findings of EMNLP 2024, https://arxiv.org/abs/2406.18139): the prefill runs
on every token, then each layer's cache is cut to a fifth.

For each layer and key/value head on its own, of a prompt of S tokens stay: the last
``int(S * recent_ratio)``; of the others, the ``int(S * important_ratio)`` that were attended to
most, text before anything visual. Should the text alone be more, all of it stays: text is never
dropped, nor is anything else that is of no video. Importance is the attention received from all
rows of the prompt, summed over the query heads that share the key, in float32: the published way of
putting text first, an offset, would drown the ranking in half precision. Here text is set to
infinity.

Each dropped pair of key and value is averaged into the kept pair whose key has the highest cosine
similarity to its own. Keys are compared and averaged as the cache has them, rotated. Dropped
against kept is the largest thing here, 0.8 S x 0.2 S a head; it is walked through in blocks.

Each layer is cut at its own end, while the prompt runs; the layers after it do not see its cache.
What earlier turns left in the cache stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...engine.layer_attention import LayerAttention
from ...engine.method import PruningMethod
from ...engine.prompt import MergedPrompt
from ..attention import ROWS_PER_BLOCK, attention_received, best
from ..options import require_ratio
from ..record import pruning_method


@pruning_method("Look-M", changes=("compresses",))
@dataclass(eq=False)
class LookM(PruningMethod):
    """Look-M.

    Args:
        recent_ratio: share of a prompt's entries that stays because it comes last.
        important_ratio: share that stays because it was attended to, text included.
    """

    recent_ratio: float = 0.1
    important_ratio: float = 0.1

    name = "look_m"
    compresses_caches = True
    prunes = True

    def __post_init__(self) -> None:
        require_ratio("recent_ratio", self.recent_ratio)
        require_ratio("important_ratio", self.important_ratio)

    def compress(
        self, attention: LayerAttention, prompts: Sequence[MergedPrompt]
    ) -> list[tuple[Tensor, Tensor]]:
        entries = []
        for row, prompt in enumerate(prompts):
            keys, values = attention.entries(row, prompt)
            is_visual = _visual_mask(prompt, keys.device)
            if is_visual.any():
                kept = self._kept(self._importance(attention, row, prompt), is_visual)
                keys, values = merge_dropped(keys, values, kept)
            entries.append((keys, values))
        return entries

    def _importance(self, attention: LayerAttention, row: int, prompt: MergedPrompt) -> Tensor:
        """[Hkv, S] float32: the attention that each entry of a prompt received from its rows."""
        one, padding = slice(row, row + 1), attention.length - prompt.length
        keys = attention.keys[one]
        received = attention_received(
            attention.rotated_queries(one, slice(padding, None)),
            keys,
            scale=attention.scale,
            causal_offset=attention.past + padding,
            key_mask=None if attention.kv_mask is None else attention.kv_mask[one],
        )[0, :, -prompt.length :]
        return received.unflatten(0, (keys.shape[1], -1)).sum(dim=1)

    def _kept(self, importance: Tensor, is_visual: Tensor) -> Tensor:
        """[Hkv, K] int64, ascending: the entries that stay."""
        length = len(is_visual)
        recent = int(length * self.recent_ratio)
        early = importance[:, : length - recent]
        is_text = ~is_visual[: length - recent]
        count = max(int(length * self.important_ratio), int(is_text.sum()))
        important = best(early.masked_fill(is_text, torch.inf), count)
        last = torch.arange(length - recent, length, device=early.device)
        return torch.cat((important, last.expand(len(early), -1)), dim=1)


def merge_dropped(keys: Tensor, values: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Average what is dropped into what is kept.

    Args:
        keys: [Hkv, S, D].
        values: [Hkv, S, D].
        kept: [Hkv, K] int64, ascending.

    Returns:
        Keys and values [Hkv, K, D], in their dtype.
    """
    heads, length, width = keys.shape
    is_dropped = torch.ones(heads, length, dtype=torch.bool, device=keys.device)
    is_dropped.scatter_(1, kept, False)
    dropped = is_dropped.nonzero()[:, 1].view(heads, -1)  # equally many in each head

    def take(entries: Tensor, index: Tensor) -> Tensor:
        return entries.float().gather(1, index[:, :, None].expand(-1, -1, width))

    kept_keys, dropped_keys = take(keys, kept), take(keys, dropped)
    unit = F.normalize(kept_keys, dim=-1).transpose(1, 2)
    target = torch.cat(
        [
            (F.normalize(block, dim=-1) @ unit).argmax(dim=-1)
            for block in dropped_keys.split(ROWS_PER_BLOCK, dim=1)
        ],
        dim=1,
    )  # [Hkv, S - K]
    members = torch.ones(kept.shape, device=keys.device)
    members.scatter_add_(1, target, torch.ones(target.shape, device=keys.device))

    def average(own: Tensor, others: Tensor) -> Tensor:
        total = own.scatter_add(1, target[:, :, None].expand(-1, -1, width), others)
        return total / members[:, :, None]

    return (
        average(kept_keys, dropped_keys).to(keys.dtype),
        average(take(values, kept), take(values, dropped)).to(values.dtype),
    )


def _visual_mask(prompt: MergedPrompt, device: torch.device) -> Tensor:
    """[S] bool, True for the tokens of videos."""
    mask = torch.zeros(prompt.length, dtype=torch.bool, device=device)
    for video in range(len(prompt.stretches)):
        mask[prompt.video_rows(video)] = True
    return mask
