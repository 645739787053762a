"""A batch of prompts before and after the merge: which stretches each consists of, and where they
go when videos shrink.

The layout is arithmetic on host integers, so that a batch is laid out without waiting for the
device. Rows of a batch shrink by different amounts and are padded on the left, anew after each
stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from prunevid_kernels import MergedVideo

from .interface import PromptVisuals


@dataclass(frozen=True)
class Piece:
    """A stretch [start, stop) of the prompt as the caller gave it; ``video`` indexes the prompt's
    videos."""

    kind: Literal["text", "other", "video"]
    start: int
    stop: int
    video: int = -1


def split_prompt(visuals: PromptVisuals, first: int, length: int) -> list[Piece]:
    """Cut the positions [first, length) of a prompt, those after its left padding, into pieces.

    Args:
        visuals: what is not text.
        first: the first position that is not padding.
        length: of the prompt, padding included.

    Raises:
        ValueError: spans that overlap, are empty, or do not lie in [first, length).
    """
    spans = [Piece("video", v.start, v.stop, i) for i, v in enumerate(visuals.videos)]
    spans += [Piece("other", *span) for span in (*visuals.images, *visuals.separators)]
    pieces: list[Piece] = []
    position = first
    for span in sorted(spans, key=lambda piece: piece.start):
        if not position <= span.start < span.stop <= length:
            raise ValueError(
                f"the visual tokens [{span.start}, {span.stop}) of a prompt must be non-empty, not "
                f"overlap others and lie in its unpadded part [{first}, {length})"
            )
        if position < span.start:
            pieces.append(Piece("text", position, span.start))
        pieces.append(span)
        position = span.stop
    if position < length:
        pieces.append(Piece("text", position, length))
    return pieces


@dataclass(frozen=True)
class MergedPrompt:
    """A prompt after the merge, without padding.

    Attributes:
        pieces: of the prompt as the caller gave it.
        starts: first merged position of each piece.
        length: merged positions.
    """

    pieces: list[Piece]
    starts: list[int]
    length: int

    @classmethod
    def build(cls, pieces: list[Piece], merged_sizes: list[int]) -> MergedPrompt:
        """Lay the pieces out one after the other.

        Args:
            pieces: of the prompt.
            merged_sizes: merged tokens of each of its videos.
        """
        starts, position = [], 0
        for piece in pieces:
            starts.append(position)
            is_video = piece.kind == "video"
            position += merged_sizes[piece.video] if is_video else piece.stop - piece.start
        return cls(pieces, starts, position)

    @property
    def other_tokens(self) -> int:
        """Tokens that are of no video."""
        return sum(piece.stop - piece.start for piece in self.pieces if piece.kind != "video")

    def video_run(self, video: int) -> tuple[int, int]:
        """The merged positions [start, stop) of a video."""
        place = [piece.video for piece in self.pieces].index(video)
        return self.starts[place], [*self.starts, self.length][place + 1]

    def question_runs(self, video: int) -> list[tuple[int, int]]:
        """The merged positions [start, stop) of the text after a video: the rows that score it.

        Raises:
            ValueError: there is none.
        """
        after = [piece.video for piece in self.pieces].index(video) + 1
        runs = [
            (start, start + piece.stop - piece.start)
            for piece, start in zip(self.pieces[after:], self.starts[after:], strict=True)
            if piece.kind == "text"
        ]
        if not runs:
            raise ValueError(
                "select=True needs text after each video, whose attention scores its tokens; "
                "there is none after the last video of a prompt"
            )
        return runs


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
        return _stack_left_padded(
            [
                torch.cat(
                    [
                        piece.start + videos[piece.video].layout.merged_anchor
                        if piece.kind == "video"
                        else torch.arange(piece.start, piece.stop, device=device)
                        for piece in prompt.pieces
                    ]
                )
                for prompt, videos in zip(self.prompts, self.videos, strict=True)
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
                    parts.append(first + kept_of_videos[piece.video])
                else:
                    stop = first + piece.stop - piece.start
                    parts.append(torch.arange(first, stop, device=device))
            rows.append(torch.cat(parts))
        return _stack_left_padded(rows), [len(row) for row in rows]


def merge_prompts(
    merge: Callable[[Tensor, Sequence[int]], list[MergedVideo]],
    visuals: Sequence[PromptVisuals],
    embeds: Tensor,
    first: Sequence[int],
) -> tuple[MergedBatch, Tensor]:
    """Merge the videos of a batch of prompts.

    Args:
        merge: the method's, see :meth:`~.method.PruningMethod.merge`.
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
    prompts = [
        MergedPrompt.build(row, [len(video.tokens) for video in merged])
        for row, merged in zip(pieces, videos, strict=True)
    ]
    rows = [
        torch.cat(
            [
                merged[piece.video].tokens
                if piece.kind == "video"
                else own_embeds[piece.start : piece.stop]
                for piece in prompt.pieces
            ]
        )
        for own_embeds, prompt, merged in zip(embeds, prompts, videos, strict=True)
    ]
    batch = MergedBatch(prompts, videos, [prompt.length for prompt in prompts])
    return batch, _stack_left_padded(rows)


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
    for width, places in by_width.items():
        spans = [visuals[row].videos[index] for row, index in places]
        features = [
            embeds[row, span.start : span.stop].unflatten(0, (span.num_frames, width))
            for (row, _), span in zip(places, spans, strict=True)
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


def _stack_left_padded(rows: Sequence[Tensor]) -> Tensor:
    """[B, longest, ...] of rows [length, ...], padded with 0."""
    longest = max(map(len, rows))
    return torch.stack(
        [F.pad(row, (0, 0) * (row.ndim - 1) + (longest - len(row), 0)) for row in rows]
    )
