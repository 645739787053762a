"""Videos whose frames stand apart in the prompt, as Qwen3-VL's and Qwen3.5's do.

Before each frame stands its timestamp in words; markers stand around its tokens::

    <0.3 seconds> <start> N tokens <end> <2.3 seconds> <start> N tokens <end> ...

A merged token stands in the frame of its first source token, so that frames keep different numbers
of them, or none, which only the device knows; how many there are in all, and all text, the host
knows. So the engine lays out one stretch, text and merged tokens together, and its inner order is
sorted on the device, text included: its embeddings come out of the encoder with the features.

In the token ids of the prompt, which cannot wait for features, all merged tokens stand in the first
frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from .positions import MediaRows

_BEFORE, _TOKENS, _AFTER = range(3)  # the parts of a frame


class StretchNumbers(NamedTuple):
    """A stretch's numbers, on the device of its features.

    Attributes:
        text: [M] int64 token ids.
        part: [M] int64, the part of the stretch that each belongs to.
        text_positions: [M] int64, counted from the start of the stretch.
        frame_starts: [T] int64, the position of each frame's first token, counted likewise.
    """

    text: Tensor
    part: Tensor
    text_positions: Tensor
    frame_starts: Tensor


@dataclass(frozen=True)
class Stretch:
    """A video of which every frame has text before and after it.

    Attributes:
        text: for each frame, the token ids before it.
        end: the token id after each.
        rows, columns: of a frame, in tokens.
    """

    text: tuple[tuple[int, ...], ...]
    end: int
    rows: int
    columns: int

    @classmethod
    def of_ids(cls, ids: Sequence[int], start: int, end: int, grid: Sequence[int]) -> Stretch:
        """Take the text of a video apart.

        Args:
            ids: all of it, in the prompt's order.
            start: the marker before each frame's tokens.
            end: the marker after them.
            grid: frames, rows and columns.

        Raises:
            ValueError: not a timestamp and both markers for every frame.
        """
        frames, rows, columns = grid
        text: list[tuple[int, ...]] = []
        own: list[int] = []
        for token in ids:
            if token != end:
                own.append(token)
                continue
            text.append(tuple(own))
            own = []
        if own or len(text) != frames or any(part[-1:] != (start,) for part in text):
            raise ValueError(
                f"the text of a video must be a timestamp, {start} and {end} for each of its "
                f"{frames} frames, got {len(text)} frames of the ids {list(ids)!r:.200}"
            )
        return cls(tuple(text), end, rows, columns)

    @property
    def lead(self) -> int:
        """Tokens before the first frame's."""
        return len(self.text[0])

    @property
    def num_text(self) -> int:
        """Tokens of text."""
        return sum(map(len, self.text)) + len(self.text)

    @property
    def extent(self) -> int:
        """Positions that the stretch takes: those of its text, and the longer side of each
        frame."""
        return self.num_text + len(self.text) * max(self.rows, self.columns)

    def placeholders(self, tokens: int, placeholder: int) -> list[int]:
        """The prompt's token ids, all ``tokens`` merged ones in the first frame."""
        first, *others = ([*part, self.end] for part in self.text)
        first[-1:-1] = [placeholder] * tokens
        return [*first, *chain.from_iterable(others)]

    def numbers(self) -> Tensor:
        """[3 * M + T] int64 in host memory: :class:`StretchNumbers` one after the other, so that
        one copy takes them to the device (:meth:`split_numbers`)."""
        ids, parts, positions, starts = [], [], [], []
        position = 0
        for frame, before in enumerate(self.text):
            ids += [*before, self.end]
            parts += [3 * frame + _BEFORE] * len(before) + [3 * frame + _AFTER]
            starts.append(position + len(before))
            after = starts[-1] + max(self.rows, self.columns)
            positions += [*range(position, starts[-1]), after]
            position = after + 1
        return torch.tensor([*ids, *parts, *positions, *starts])

    def split_numbers(self, numbers: Tensor) -> StretchNumbers:
        """What :meth:`numbers` gave."""
        size = self.num_text
        return StretchNumbers(*numbers.split([size, size, size, len(self.text)]))

    def arrange(
        self, tokens: Tensor, anchors: Tensor, text: Tensor, numbers: StretchNumbers
    ) -> MediaRows:
        """Put merged tokens and text into the order in which the decoder gets them.

        Inside a frame, merged tokens keep the order in which the merge gives them. No shape
        depends on where they fall, so nothing waits for the device.

        Args:
            tokens: [K, C] merged tokens.
            anchors: [K] int64, the first source token of each, ``frame * N + place``.
            text: [M, C] embeddings of the text.
            numbers: on the tokens' device.
        """
        frame = torch.div(anchors, self.rows * self.columns, rounding_mode="floor")
        place = anchors % (self.rows * self.columns)
        start = numbers.frame_starts[frame]
        row = start + torch.div(place, self.columns, rounding_mode="floor")
        positions = torch.stack([start, row, start + place % self.columns])
        parts = torch.cat([3 * frame + _TOKENS, numbers.part])
        order = parts.sort(stable=True).indices
        return MediaRows.whole(
            torch.cat([tokens, text])[order],
            torch.cat([positions, numbers.text_positions.expand(3, -1)], dim=1)[:, order],
            self.lead,
        )
