"""Fewer frames, each whole: the row that every comparison needs.

Of a budget of ``K = int(T N r)`` tokens, ``T' = max(1, K // N)`` frames are kept: those in the
middles of T' equal stretches. What is left of the budget, less than a frame, is not spent. The
language model runs on as few tokens as with any other method; sampling fewer frames in the reader
would spare the vision tower as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_kernels import MergedVideo

from ...engine.method import PruningMethod
from ..options import require_ratio
from ..record import pruning_method
from ..subset import subset_video


@pruning_method("fewer frames, each whole", changes=("drops",), knob="ratio")
@dataclass(eq=False)
class FewerFrames(PruningMethod):
    """Fewer frames.

    Args:
        ratio: r, share of a video's tokens that is the budget.
    """

    ratio: float = 0.25

    name = "fewer_frames"
    prunes = True

    def __post_init__(self) -> None:
        require_ratio("ratio", self.ratio)

    def merge_video(self, features: Tensor) -> MergedVideo:
        frames, width = features.shape[:2]
        chosen = torch.tensor(spread_frames(frames, width, self.ratio), device=features.device)
        taken = chosen[:, None] * width + torch.arange(width, device=features.device)
        return subset_video(features, taken.flatten())


def spread_frames(frames: int, width: int, ratio: float) -> list[int]:
    """The frames that are kept of a video of ``frames`` with ``width`` tokens each."""
    count = max(1, int(frames * width * ratio) // width)
    return [(2 * i + 1) * frames // (2 * count) for i in range(count)]
