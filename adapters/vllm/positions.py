"""Three-dimensional positions (M-RoPE) of merged tokens, for models such as Qwen2.5-VL.

A merged token keeps the time, row and column of its first source token, so its place is known only
when features are. Text does not depend on that: after a video it goes on where it would go on
without pruning. So the whole prompt is numbered when the request comes (:func:`prompt_positions`),
and the places of what comes out of the encoder, which come together with the features, are filled
in when they are needed (:func:`fill_positions`).

vLLM's own pruning sends positions the same way, as extra channels of the embeddings, but as plain
numbers in the embeddings' dtype: bfloat16 has 8 bits, so that 301 arrives as 300. Here each is
sent byte by byte.

How much text goes on after a prompt's media is settled by the host before anything is computed,
so that nobody has to ask the device for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Two bytes of each time, row and column; three of a row's number among its medium's; one of how
# many of those stand before its first placeholder.
_BYTES = (2, 2, 2, 3, 1)
CHANNELS = sum(_BYTES)
LIMIT = 1 << 16


@dataclass(frozen=True)
class Grid:
    """The tokens of a video or an image, before merging.

    Attributes:
        frames, rows, columns: tokens are numbered in this order, columns fastest.
        frame_step: positions from one frame to the next, before cutting to whole ones.
    """

    frames: int
    rows: int
    columns: int
    frame_step: float = 1.0

    @property
    def extent(self) -> int:
        """Positions that the whole grid takes: text goes on after the largest one."""
        return max(int((self.frames - 1) * self.frame_step) + 1, self.rows, self.columns)

    def positions(self, index: Tensor) -> Tensor:
        """[3, K] int64 time, row, column of the tokens ``index`` [K] int64, counted from 0."""
        per_frame = self.rows * self.columns
        # In float64, as the engine computes them for videos that are not pruned.
        time = (torch.div(index, per_frame, rounding_mode="floor") * self._step(index)).long()
        place = index % per_frame
        row = torch.div(place, self.columns, rounding_mode="floor")
        return torch.stack([time, row, place % self.columns])

    def _step(self, index: Tensor) -> Tensor:
        return torch.full((), self.frame_step, dtype=torch.float64, device=index.device)


@dataclass(frozen=True)
class Media:
    """A video or an image in a prompt.

    Attributes:
        offset: its first token there.
        tokens: its tokens there; of a video whose frames stand apart, with the text between them.
        extent: positions that it takes, as many as without merging.
    """

    offset: int
    tokens: int
    extent: int


@dataclass(frozen=True)
class MediaRows:
    """What comes out of the encoder for (a part of) a medium.

    Attributes:
        features: [K, C].
        positions: [3, K] int64, counted from the medium's start.
        index: [K] int64, each row's number among the medium's.
        lead: [K] int64, the same in each: the medium's tokens before its first placeholder.
    """

    features: Tensor
    positions: Tensor
    index: Tensor
    lead: Tensor

    @classmethod
    def whole(cls, features: Tensor, positions: Tensor, lead: int = 0) -> MediaRows:
        """All rows of a medium, in the prompt's order."""
        index = torch.arange(len(features), device=features.device)
        return cls(features, positions, index, torch.full_like(index, lead))

    def joined(self) -> Tensor:
        """[K, C + CHANNELS]: features and, in the last channels, the rest."""
        numbers = torch.cat([self.positions, self.index[None], self.lead[None]])
        parts = []
        for size, number in zip(_BYTES, numbers, strict=True):
            for byte in range(size):
                parts.append((number >> 8 * byte) & 255)
        channels = torch.stack(parts, dim=1).to(self.features.dtype)
        return torch.cat([self.features, channels], dim=1)

    @classmethod
    def split(cls, embeddings: Tensor) -> MediaRows:
        """What :meth:`joined` has put together, or some consecutive rows of it."""
        parts = embeddings[:, -CHANNELS:].T.long().split(_BYTES)
        numbers = [
            sum((part[byte] << 8 * byte for byte in range(1, len(part))), part[0]) for part in parts
        ]
        features = embeddings[:, :-CHANNELS]
        return cls(features, torch.stack(numbers[:3]), numbers[3], numbers[4])


def check_extent(extent: int) -> None:
    """ValueError for a medium that takes more positions than two bytes can tell apart."""
    if extent > LIMIT:
        raise ValueError(f"a video must have positions below {LIMIT}, got one that takes {extent}")


def prompt_positions(num_tokens: int, media: Sequence[Media]) -> tuple[Tensor, int]:
    """Number the tokens of a prompt.

    Args:
        num_tokens: of the prompt, merged media included.
        media: in the prompt's order.

    Returns:
        [3, num_tokens] int64, where a medium's last token has its last position, and its others
        have the one that it starts at (:func:`fill_positions` moves them from there); and what is
        to be added to a token's index after the prompt to get its position.

    Raises:
        ValueError: a medium that is too large for two bytes.
    """
    parts: list[Tensor] = []
    length = position = 0
    for item in media:
        check_extent(item.extent)
        start = position + item.offset - length
        position = start + item.extent
        parts += [torch.arange(start - item.offset + length, start)]
        parts += [torch.full((item.tokens - 1,), start), torch.tensor([position - 1])]
        length = item.offset + item.tokens
    parts.append(position + torch.arange(num_tokens - length))
    return torch.cat(parts).expand(3, -1).clone(), position - length


def fill_positions(
    positions: Tensor, is_placeholder: Tensor, first: int, media: Sequence[MediaRows]
) -> Tensor:
    """Put what comes out of the encoder at its places; the same again changes nothing.

    Args:
        positions: [3, S] int64 of the prompt, where text is numbered right.
        is_placeholder: [S] bool: tokens of videos and images as such. Of each medium the first
            ``lead`` tokens are none, the next one is, and the last one is, or is text.
        first: the prompt's token from which on ``media`` are.
        media: of the prompt's stretch that begins at ``first``, in order; of a medium that began
            before it, the rows from there on.

    Returns:
        [3, S] int64. All shapes are fixed and no number is looked at, so nothing waits for the
        device.
    """
    if not any(len(rows.index) for rows in media):
        return positions
    positions, length = positions.clone(), positions.shape[1]
    index = torch.arange(length, device=positions.device)
    # For each token, itself or the next placeholder after it.
    upcoming = torch.where(is_placeholder, index, length).flip(0).cummin(dim=0).values.flip(0)
    cursor = index.new_full((1,), first)
    for rows in media:
        if not len(rows.index):
            continue
        own, lead = rows.index, rows.lead[:1]
        fresh = upcoming[cursor.clamp(max=length - 1)] - lead
        begin = torch.where(own[:1] > 0, first - own[:1], fresh)
        before = positions[0, (begin - 1).clamp(0, length - 1)]
        start = torch.where(begin > 0, before + 1, 0)
        positions[:, (begin + own).clamp(0, length - 1)] = start + rows.positions
        cursor = begin + own[-1:] + 1
    return positions
