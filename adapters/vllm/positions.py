"""Three-dimensional positions (M-RoPE) of merged tokens, for models such as Qwen2.5-VL.

A merged token keeps the time, row and column of its first source token, so its place is known only
when features are. Text does not depend on that: after a video it goes on where it would go on
without pruning. So the whole prompt is numbered when the request comes (:func:`prompt_positions`),
and the merged tokens' places, which come out of the encoder together with the features, are filled
in when they are needed (:func:`fill_positions`).

vLLM's own pruning sends positions the same way, as extra channels of the embeddings, but as plain
numbers in the embeddings' dtype: bfloat16 has 8 bits, so that 301 arrives as 300. Here each is
sent as two bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHANNELS = 6  # time, row and column, two bytes each
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
    """A video or an image in a prompt: its first token there, its tokens there, its grid."""

    offset: int
    tokens: int
    grid: Grid


def prompt_positions(num_tokens: int, media: Sequence[Media]) -> tuple[Tensor, int]:
    """Number the tokens of a prompt.

    Args:
        num_tokens: of the prompt, merged media included.
        media: in the prompt's order.

    Returns:
        [3, num_tokens] int64, where tokens of media have the position that their grid starts at
        (:func:`fill_positions` moves them from there); and what is to be added to a token's index
        after the prompt to get its position.

    Raises:
        ValueError: a grid that is too large for two bytes.
    """
    parts: list[Tensor] = []
    length = position = 0
    for item in media:
        if item.grid.extent > LIMIT:
            raise ValueError(
                f"a video must have positions below {LIMIT}, got one that takes {item.grid.extent}"
            )
        text = item.offset - length
        parts += [position + torch.arange(text), torch.full((item.tokens,), position + text)]
        position += text + item.grid.extent
        length = item.offset + item.tokens
    parts.append(position + torch.arange(num_tokens - length))
    return torch.cat(parts).expand(3, -1).clone(), position - length


def append_positions(tokens: Tensor, positions: Tensor) -> Tensor:
    """[K, C + CHANNELS]: tokens and, in the last channels, their positions.

    Args:
        tokens: [K, C].
        positions: [3, K] within the grid.
    """
    low_and_high = torch.cat([positions % 256, torch.div(positions, 256, rounding_mode="floor")])
    return torch.cat([tokens, low_and_high.T.to(tokens.dtype)], dim=1)


def split_positions(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`append_positions` has put together: tokens [K, C], positions [3, K] int64."""
    low, high = tokens[:, -CHANNELS:].T.long().chunk(2)
    return tokens[:, :-CHANNELS], low + 256 * high


def fill_positions(positions: Tensor, is_media: Tensor, first: int, in_grid: Tensor) -> Tensor:
    """Put media tokens at their places; the same again changes nothing.

    Args:
        positions: [3, S] int64 of the prompt, where text is numbered right.
        is_media: [S] bool. Between two media there is text.
        first: the prompt's token from which on ``in_grid`` counts.
        in_grid: [3, K] int64 positions within their grids of the first K media tokens from
            ``first`` on.

    Returns:
        [3, S] int64. All shapes are fixed, so that nothing waits for the device.
    """
    length, count = positions.shape[1], in_grid.shape[1]
    if count == 0:
        return positions
    index = torch.arange(length, device=positions.device)
    # A grid starts one after the text before it.
    start = torch.where(is_media, -1, positions[0]).cummax(dim=0).values + 1
    pending = is_media & (index >= first)
    rank = pending.cumsum(dim=0) - 1
    is_filled = pending & (rank < count)
    return torch.where(is_filled, start + in_grid[:, rank.clamp(0, count - 1)], positions)
