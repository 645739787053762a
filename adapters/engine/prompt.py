"""The arithmetic of one prompt: which stretches it consists of, and where they go when videos
shrink.

Pure Python on host integers, so that batches are laid out without touching the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    """Cut the positions [first, length) of a prompt, those behind its left padding, into pieces.

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
        """``merged_sizes`` has the merged tokens of each video."""
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

    def video_start(self, video: int) -> int:
        """First merged position of a video."""
        return next(
            start
            for piece, start in zip(self.pieces, self.starts, strict=True)
            if piece.video == video
        )

    def question_runs(self, video: int) -> list[tuple[int, int]]:
        """The merged positions [start, stop) of the text behind a video: the rows that score it.

        Raises:
            ValueError: there is none.
        """
        behind = [piece.video for piece in self.pieces].index(video) + 1
        runs = [
            (start, start + piece.stop - piece.start)
            for piece, start in zip(self.pieces[behind:], self.starts[behind:], strict=True)
            if piece.kind == "text"
        ]
        if not runs:
            raise ValueError(
                "select=True needs text behind each video, whose attention scores its tokens; "
                "there is none behind the last video of a prompt"
            )
        return runs
