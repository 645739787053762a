"""Downsampling, as a method to beat: each frame's grid of tokens is averaged to a smaller one.

VTC-Bench (ACL 2026, https://arxiv.org/abs/2510.07143) finds that shrinking the picture beats many
compressors at equal tokens. This shrinks the grid of tokens instead, which saves nothing in the
vision tower; a processor that makes fewer pixels would.

The video has a budget of ``K = max(T, int(T N r))``, frame t of ``b = (t+1) K // T - t K // T``.
Its grid h' x w', which holds at most b, is the one of highest
``h'w' / b - 0.5 |ln(h'w / hw')|``, so what is left over stands against what is distorted; of equals
the taller. Row i of h goes to ``i h' // h``, column j to ``j w' // w``, and a token is the mean of
its bin.
"""

from __future__ import annotations

import functools
import math
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prunevid_kernels import MergedVideo

from ...engine.interface import ModelAdapter
from ...engine.method import PruningMethod
from ..comparing import group_means
from ..options import require_count, require_ratio
from ..record import pruning_method
from ..subset import first_bad_frame, subset_layout


@pruning_method(
    "each frame's grid averaged to a smaller one",
    needs=("grid",),
    changes=("merges",),
    knob="ratio",
)
@dataclass(eq=False)
class Downsample(PruningMethod):
    """Fewer tokens a frame, each the mean of a rectangle.

    Args:
        ratio: r, share of a video's tokens that is the budget.
        grid: [rows, columns] of a frame's tokens, row by row; None: as the model has them.
    """

    ratio: float = 0.25
    grid: tuple[int, int] | None = None
    _of_model: tuple[int, int] | None = field(default=None, init=False, repr=False)

    name = "downsample"
    prunes = True

    def __post_init__(self) -> None:
        require_ratio("ratio", self.ratio)
        if self.grid is not None:
            if len(self.grid) != 2:
                raise ValueError(f"grid must be [rows, columns], got {self.grid!r}")
            for side in self.grid:
                require_count("grid", side, minimum=1)

    def watch(self, model: nn.Module, adapter: ModelAdapter, hooks: ExitStack) -> None:
        if self.grid is None:
            self._of_model = adapter.frame_grid(model)

    def merge_video(self, features: Tensor) -> MergedVideo:
        frames, width, _ = features.shape
        grid = self._grid(width)
        total = max(frames, int(frames * width * self.ratio))
        budgets = [(t + 1) * total // frames - t * total // frames for t in range(frames)]
        bins = {budget: _bins(*grid, *smaller_grid(*grid, budget)) for budget in set(budgets)}
        sizes = torch.tensor([int(bins[budget][-1]) + 1 for budget in budgets], device="cpu")
        starts = sizes.cumsum(0) - sizes
        source = torch.stack([bins[budget] for budget in budgets]) + starts[:, None]
        count = int(sizes.sum())
        # The earliest token of each bin, without a loop over bins.
        index = torch.arange(frames * width, device="cpu")
        anchors = torch.full((count,), frames * width, device="cpu").scatter_reduce_(
            0, source.flatten(), index, "amin"
        )
        source, anchors = source.to(features.device), anchors.to(features.device)
        means = group_means(features.flatten(0, 1), source.flatten(), count)
        layout = subset_layout(frames, width, anchors, source)
        return MergedVideo(means.to(features.dtype), layout, first_bad_frame(features))

    def _grid(self, width: int) -> tuple[int, int]:
        grid = self.grid or self._of_model
        if grid is None:
            raise ValueError("downsample needs the option grid where no model was watched")
        rows, columns = grid
        if rows * columns != width:
            raise ValueError(f"grid must hold a frame's {width} tokens, got {rows} x {columns}")
        return rows, columns


@functools.cache
def smaller_grid(rows: int, columns: int, budget: int) -> tuple[int, int]:
    """The grid of at most ``budget`` >= 1 tokens that one of rows x columns is averaged to."""

    def value(grid: tuple[int, int]) -> tuple[float, int]:
        first, second = grid[0] * columns, rows * grid[1]
        distortion = math.log(max(first, second) / min(first, second))
        return grid[0] * grid[1] / budget - 0.5 * distortion, grid[0]

    return max(
        (
            (h, w)
            for h in range(1, min(rows, budget) + 1)
            for w in range(1, min(columns, budget // h) + 1)
        ),
        key=value,
    )


def _bins(rows: int, columns: int, fewer_rows: int, fewer_columns: int) -> Tensor:
    """[rows * columns] int64: the bin of each token."""
    row = torch.arange(rows, device="cpu") * fewer_rows // rows
    column = torch.arange(columns, device="cpu") * fewer_columns // columns
    return (row[:, None] * fewer_columns + column).flatten()
