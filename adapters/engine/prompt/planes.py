"""Planes of features that some decoders add to visual tokens after each of their first layers
(DeepStack, Meng et al., https://arxiv.org/abs/2406.04334), merged by the plan of the tokens.

The decoder gets a mask of the visual tokens of a batch, images and videos, and for each plane their
features, row by row. Both are made anew for the merged prompts; images pass through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunevid_kernels import apply_layout

from .batch import MergedBatch, stack_left_padded
from .visuals import PromptVisuals


@dataclass(frozen=True)
class VisualPlanes:
    """How a decoder is given its planes.

    Attributes:
        mask: name of its argument with the visual tokens, [B, S] bool.
        features: name of its argument with the planes, a list of [V, C]: the V visual tokens of the
            batch, row by row. Plane i is added at the end of layer i.
        count: how many there are.
    """

    mask: str
    features: str
    count: int


def merge_planes(
    planes: VisualPlanes,
    kwargs: Mapping[str, Any],
    batch: MergedBatch,
    visuals: Sequence[PromptVisuals],
) -> dict[str, Any]:
    """The decoder's arguments of planes for merged prompts; none where it was given none.

    Args:
        planes: how they are given.
        kwargs: the decoder's arguments for whole prompts.
        batch: the merged prompts.
        visuals: what is not text in the whole ones.

    Raises:
        ValueError: planes of another number of tokens than the prompts have.
    """
    given: Sequence[Tensor] | None = kwargs.get(planes.features)
    if given is None:
        return {}
    expected = sum(
        sum(video.num_tokens for video in prompt.videos)
        + sum(stop - start for start, stop in prompt.images)
        for prompt in visuals
    )
    if any(len(plane) != expected for plane in given):
        raise ValueError(
            f"{planes.features} must have a row for each of the prompts' {expected} visual tokens, "
            f"got {[len(plane) for plane in given]}"
        )
    # [V, planes * C], so that a video's planes are averaged in one call
    stacked = torch.cat(list(given), dim=-1)
    parts, masks, taken = [], [], 0
    for row, prompt in enumerate(visuals):
        mask = torch.zeros(batch.lengths[row], dtype=torch.bool, device=stacked.device)
        merged = batch.prompts[row]
        images = set(prompt.images)
        for piece, start in zip(merged.pieces, merged.starts, strict=True):
            if piece.kind == "video":
                span, video = prompt.videos[piece.video], batch.videos[row][piece.video]
                own = stacked[taken : taken + span.num_tokens]
                size = (span.num_frames, span.tokens_per_frame)
                means = apply_layout(own.unflatten(0, size), video.layout)
                rows = merged.stretches[piece.video].rows
                parts.append(means if rows is None else means[rows.argsort()])
                mask[merged.video_rows(piece.video)] = True
                taken += span.num_tokens
            elif (piece.start, piece.stop) in images:
                count = piece.stop - piece.start
                parts.append(stacked[taken : taken + count])
                mask[start : start + count] = True
                taken += count
        masks.append(mask)
    together = torch.cat(parts).chunk(len(given), dim=-1)
    return {planes.mask: stack_left_padded(masks), planes.features: list(together)}
