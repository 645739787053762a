"""One prompt before and after the merge: which stretches it consists of, and where they go when
videos shrink.

Lengths and starts are arithmetic on host integers, so that a prompt is laid out without waiting for
the device. Where frames stand apart, how many tokens each of them keeps is known to the device
alone; so a video and the text between its frames are one stretch, whose length is known, and whose
inner order is sorted on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prunevid_kernels import TokenLayout

from .visuals import PromptVisuals, VideoSpan


@dataclass(frozen=True)
class Piece:
    """A stretch [start, stop) of the prompt as the caller gave it; ``video`` indexes the prompt's
    videos. A video's stretch holds the text between its frames."""

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
class MergedStretch:
    """A video's stretch of a prompt after the merge: its merged tokens and, where its frames stand
    apart, the text between them. A merged token stands in the frame of its first source token.

    Attributes:
        num_merged: merged tokens among its rows.
        sources: [R] int64: the caller's position of each row; of a merged token that of its first
            source.
        order: [R] int64: which of the merged tokens, followed by the text between, each row is.
            None: the merged tokens alone, in their order.
        places: [R] int64: the rows of those; None as above.
    """

    num_merged: int
    sources: Tensor
    order: Tensor | None = None
    places: Tensor | None = None

    @classmethod
    def build(cls, span: VideoSpan, layout: TokenLayout) -> MergedStretch:
        """Lay out the merged tokens of the video at ``span``."""
        anchor = layout.merged_anchor
        sources = span.places(anchor)
        if span.frame_starts is None:
            return cls(len(anchor), sources)
        between = torch.tensor(span.between, dtype=torch.int64, device=anchor.device)
        # By frames: inside one, merged tokens keep the order in which the method gives them.
        first_of_frame = anchor - anchor % span.tokens_per_frame
        order = torch.cat((span.places(first_of_frame), between)).sort(stable=True).indices
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=order.device)
        return cls(len(anchor), torch.cat((sources, between))[order], order, places)

    @property
    def length(self) -> int:
        """R."""
        return len(self.sources)

    @property
    def rows(self) -> Tensor | None:
        """[num_merged] the rows of the merged tokens; None: all, in order."""
        return None if self.places is None else self.places[: self.num_merged]

    def arrange(self, tokens: Tensor, between: Tensor) -> Tensor:
        """[R, C] of what belongs to the merged tokens [L, C] and to the text between [R - L, C]."""
        return tokens if self.order is None else torch.cat((tokens, between))[self.order]

    def kept_rows(self, kept: Tensor) -> Tensor:
        """The rows that stay, ascending: all text, and of the merged tokens ``kept``."""
        if self.places is None:
            return kept
        return torch.cat((self.places[kept], self.places[self.num_merged :])).sort().values


@dataclass(frozen=True)
class MergedPrompt:
    """A prompt after the merge, without padding.

    Attributes:
        pieces: of the prompt as the caller gave it.
        stretches: of its videos.
        starts: first merged position of each piece.
        length: merged positions.
    """

    pieces: list[Piece]
    stretches: list[MergedStretch]
    starts: list[int]
    length: int

    @classmethod
    def build(cls, pieces: list[Piece], stretches: list[MergedStretch]) -> MergedPrompt:
        """Lay the pieces out one after the other.

        Args:
            pieces: of the prompt.
            stretches: of its videos.
        """
        starts, position = [], 0
        for piece in pieces:
            starts.append(position)
            is_video = piece.kind == "video"
            position += stretches[piece.video].length if is_video else piece.stop - piece.start
        return cls(pieces, stretches, starts, position)

    @property
    def other_tokens(self) -> int:
        """Tokens that are of no video."""
        return self.length - sum(stretch.num_merged for stretch in self.stretches)

    def video_run(self, video: int) -> tuple[int, int]:
        """The merged positions [start, stop) from a video's first token to its last; what stands
        between its frames included."""
        place = [piece.video for piece in self.pieces].index(video)
        return self.starts[place], [*self.starts, self.length][place + 1]

    def video_rows(self, video: int) -> slice | Tensor:
        """The merged positions of a video's own tokens, in their order, as an index."""
        start, stop = self.video_run(video)
        rows = self.stretches[video].rows
        return slice(start, stop) if rows is None else start + rows

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
