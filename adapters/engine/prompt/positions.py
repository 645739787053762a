"""Positions of merged prompts.

Two ways, of which the model's adapter chooses one. Renumbered: consecutive ones, as in the authors'
released code. Kept: every token has the caller's position, a merged one that of its first source,
which rotary positions of several dimensions need. A row of plain text positions may stand before
those dimensions; nothing is rotated by it. Attention kernels read the borders of packed sequences
from it, so it must not have gaps and is renumbered either way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import MergedBatch


def merged_positions(
    batch: MergedBatch,
    position_ids: Tensor | None,
    *,
    fed: int,
    length: int,
    first: Sequence[int],
    next_position: Tensor | None,
    axes: int,
    device: torch.device,
) -> Tensor:
    """The positions of merged prompts; padding has 0.

    Args:
        batch: the prompts.
        position_ids: the caller's: [B or 1, S], [axes, B or 1, S], the same with a row of text
            positions before the axes, or None.
        fed: tokens fed before.
        length: S, of the caller's prompts.
        first: for each prompt, its first position that is not padding.
        next_position: [B] positions of the prompts' first tokens where they are numbered anew; None
            where the caller's hold.
        axes: of a rotary position.
        device: of the result.

    Returns:
        [B, L] numbered anew, or kept [axes, B, L], [B, L] for one axis; with a text row where the
        caller gave one.
    """
    if next_position is not None:
        return _count(batch, next_position, device)
    if position_ids is None:
        position_ids = torch.arange(length, device=device)[None] + fed
    if axes > 1 and position_ids.ndim == 2:
        # So said, or some decoders would make a text row of them.
        position_ids = position_ids.expand(axes, *position_ids.shape)
    sources = batch.source_places(device)
    position_ids = position_ids.expand(*position_ids.shape[:-2], len(sources), -1)
    kept = position_ids.gather(-1, sources.expand(*position_ids.shape[:-2], -1, -1))
    if kept.ndim == 3 and len(kept) == axes + 1:
        starts = torch.tensor(first, device=device)
        kept[0] = _count(batch, position_ids[0].gather(1, starts[:, None])[:, 0], device)
    return kept


def _count(batch: MergedBatch, start: Tensor, device: torch.device) -> Tensor:
    """[B, L] consecutive positions from ``start`` [B] on, 0 for padding."""
    longest = max(batch.lengths)
    rows = [
        F.pad(torch.arange(count, device=device) + begin, (longest - count, 0))
        for count, begin in zip(batch.lengths, start, strict=True)
    ]
    return torch.stack(rows)
