"""DyCoke (Tao et al., CVPR 2025, https://arxiv.org/abs/2411.15024), its first stage: temporal
"merging", which drops tokens and averages none.

Frames come in groups of four, a b c d. a stays whole; of b and d, ``int((1 - k) N)`` tokens stay,
those least like the same place of the frame before; of c as many, compared with a, but only where
``t - 2 < T - 4``: the last complete group keeps its c whole. That condition is the released code's,
and published numbers were made with it. A video of any length follows these rules here, where the
released code loses the last of an odd number of frames and refuses four or fewer.

The second stage swaps tokens in and out of the cache at each decoded token. A method here
compresses the cache once, after the prompt, so that stage is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_kernels import MergedVideo

from ...engine.method import PruningMethod
from ..comparing import cosine, lowest_in_rows
from ..options import require_between
from ..record import pruning_method
from ..subset import subset_video


@pruning_method(
    "DyCoke's first stage",
    changes=("drops",),
    knob=lambda terms: {"k": dropped_share(terms.share, terms.frames)},
    knob_text="k, of the frames that do not stay whole",
)
@dataclass(eq=False)
class DyCoke(PruningMethod):
    """DyCoke's first stage.

    Args:
        k: share of the tokens that is dropped from each frame that is compared, in [0, 1].
    """

    k: float = 0.7

    name = "dycoke"
    prunes = True

    def __post_init__(self) -> None:
        require_between("k", self.k, 0, 1)

    def merge_video(self, features: Tensor) -> MergedVideo:
        frames, width = features.shape[:2]
        earlier = [time - _distance(time, frames) for time in range(frames)]
        likeness = cosine(features, features[earlier])
        kept = int((1 - self.k) * width)
        counts = [width if early == time else kept for time, early in enumerate(earlier)]
        is_kept = lowest_in_rows(likeness, torch.tensor(counts, device=features.device))
        return subset_video(features, is_kept.flatten().nonzero()[:, 0])


def _distance(time: int, frames: int) -> int:
    """How many frames earlier the one is that a frame is compared with; 0: it stays whole."""
    if time % 2:
        return 1
    return 2 if time % 4 == 2 and time - 2 < frames - 4 else 0


def whole_frames(frames: int) -> int:
    """How many of a video's frames stay whole."""
    return sum(_distance(time, frames) == 0 for time in range(frames))


def dropped_share(share: float, frames: int) -> float:
    """The ``k`` that keeps this share of a video's tokens.

    Raises:
        ValueError: the frames that stay whole are more than that.
    """
    whole = whole_frames(frames)
    if share * frames < whole:
        raise ValueError(
            f"dycoke keeps {whole} of {frames} frames whole, a share of {whole / frames:.2f}; it "
            f"cannot keep {share:g}"
        )
    return 1.0 if whole == frames else 1 - (share * frames - whole) / (frames - whole)
