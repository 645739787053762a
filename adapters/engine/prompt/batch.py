"""A batch of prompts: its videos merged, its rows laid out anew.

Rows of a batch shrink by different amounts and are padded on the left, anew after each stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prunevid_kernels import MergedVideo

from .pieces import MergedPrompt, MergedStretch, split_prompt
from .visuals import PromptVisuals


@dataclass(frozen=True)
class VideoPlace:
    """Which video of a batch: number ``video`` of the ``prompt`` in row ``row``."""

    row: int
    prompt: MergedPrompt
    video: int


@dataclass(frozen=True)
class MergedBatch:
    """The prompts of one decoder call after the merge.

    Attributes:
        prompts: the layout of each.
        videos: the merged videos of each.
        lengths: merged positions of each, without padding.
    """

    prompts: list[MergedPrompt]
    videos: list[list[MergedVideo]]
    lengths: list[int]

    def each_video(self) -> list[list[tuple[VideoPlace, MergedVideo]]]:
        """For each row, its videos and where they are."""
        return [
            [(VideoPlace(row, prompt, index), video) for index, video in enumerate(videos)]
            for row, (prompt, videos) in enumerate(zip(self.prompts, self.videos, strict=True))
        ]

    def source_places(self, device: torch.device) -> Tensor:
        """[B, L] the caller's position of each merged token, of several merged into one the first;
        0 for padding."""
        return stack_left_padded(
            [
                torch.cat(
                    [
                        prompt.stretches[piece.video].sources
                        if piece.kind == "video"
                        else torch.arange(piece.start, piece.stop, device=device)
                        for piece in prompt.pieces
                    ]
                )
                for prompt in self.prompts
            ]
        )

    def kept_places(
        self, kept: Sequence[Sequence[Tensor]], device: torch.device
    ) -> tuple[Tensor, list[int]]:
        """What is left of the padded merged prompts [B, L]: all text, and what was kept of videos.

        Args:
            kept: for each prompt, for each of its videos, its merged tokens to keep.
            device: of the result.

        Returns:
            [B, K] the places to keep, padded on the left with 0; and how many each row has.
        """
        longest = max(self.lengths)
        rows = []
        for prompt, kept_of_videos in zip(self.prompts, kept, strict=True):
            padding = longest - prompt.length
            parts = []
            for piece, start in zip(prompt.pieces, prompt.starts, strict=True):
                first = padding + start
                if piece.kind == "video":
                    stretch = prompt.stretches[piece.video]
                    parts.append(first + stretch.kept_rows(kept_of_videos[piece.video]))
                else:
                    stop = first + piece.stop - piece.start
                    parts.append(torch.arange(first, stop, device=device))
            rows.append(torch.cat(parts))
        return stack_left_padded(rows), [len(row) for row in rows]


def merge_prompts(
    merge: Callable[[Tensor, Sequence[int]], list[MergedVideo]],
    visuals: Sequence[PromptVisuals],
    embeds: Tensor,
    first: Sequence[int],
) -> tuple[MergedBatch, Tensor]:
    """Merge the videos of a batch of prompts.

    Args:
        merge: the method's, see :meth:`~..method.PruningMethod.merge`.
        visuals: what is not text in each prompt.
        embeds: [B, S, C] the prompts, visual features in place.
        first: for each prompt, its first position that is not padding.

    Returns:
        The layout, and the merged prompts [B, L, C], padded on the left.
    """
    pieces = [
        split_prompt(prompt, start, embeds.shape[1])
        for prompt, start in zip(visuals, first, strict=True)
    ]
    videos = _merge_videos(merge, visuals, embeds)
    prompts, rows = [], []
    for own_pieces, prompt, merged, own_embeds in zip(pieces, visuals, videos, embeds, strict=True):
        spans = prompt.videos
        stretches = [
            MergedStretch.build(span, video.layout)
            for span, video in zip(spans, merged, strict=True)
        ]
        prompts.append(MergedPrompt.build(own_pieces, stretches))
        rows.append(
            torch.cat(
                [
                    stretches[piece.video].arrange(
                        merged[piece.video].tokens, own_embeds[spans[piece.video].between]
                    )
                    if piece.kind == "video"
                    else own_embeds[piece.start : piece.stop]
                    for piece in own_pieces
                ]
            )
        )
    batch = MergedBatch(prompts, videos, [prompt.length for prompt in prompts])
    return batch, stack_left_padded(rows)


def _merge_videos(
    merge: Callable[[Tensor, Sequence[int]], list[MergedVideo]],
    visuals: Sequence[PromptVisuals],
    embeds: Tensor,
) -> list[list[MergedVideo]]:
    """The merged videos of each prompt; those with equally many tokens a frame in one call."""
    by_width: dict[int, list[tuple[int, int]]] = {}
    for row, prompt in enumerate(visuals):
        for index, span in enumerate(prompt.videos):
            by_width.setdefault(span.tokens_per_frame, []).append((row, index))
    found: dict[tuple[int, int], MergedVideo] = {}
    for places in by_width.values():
        spans = [visuals[row].videos[index] for row, index in places]
        features = [
            span.take(embeds[row]) for (row, _), span in zip(places, spans, strict=True)
        ]  # [T, N, C] each
        merged = merge(
            torch.cat(features) if len(features) > 1 else features[0],
            [span.num_frames for span in spans],
        )
        found |= zip(places, merged, strict=True)
    return [
        [found[row, index] for index in range(len(prompt.videos))]
        for row, prompt in enumerate(visuals)
    ]


def stack_left_padded(rows: Sequence[Tensor]) -> Tensor:
    """[B, longest, ...] of rows [length, ...], padded with 0."""
    longest = max(map(len, rows))
    return torch.stack(
        [F.pad(row, (0, 0) * (row.ndim - 1) + (longest - len(row), 0)) for row in rows]
    )
