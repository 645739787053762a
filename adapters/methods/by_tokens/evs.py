"""Efficient Video Sampling (NVIDIA, https://arxiv.org/abs/2510.14624), as vLLM runs it: keep what
differs from the same place of the frame before.

A token's novelty is 1 - its cosine to the token at the same place one frame earlier; the first
frame's is 255, so it stays whole. The ``max(N, int(T N r))`` most novel tokens of the whole video
are kept as they are: the count is known before any feature exists. Where vLLM compares in the
features' dtype, and thousands of tokens tie in bfloat16, this compares in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prunevid_kernels import MergedVideo

from ...engine.method import PruningMethod
from ..attention import best
from ..comparing import cosine
from ..options import kept_tokens, require_rates
from ..record import pruning_method
from ..subset import subset_video

FIRST_FRAME = 255.0


@pruning_method("Efficient Video Sampling", changes=("drops",), knob="ratio")
@dataclass(eq=False)
class Evs(PruningMethod):
    """Efficient Video Sampling.

    Args:
        ratio: r, share of a video's tokens that is kept; 0.25 where nothing is given.
        pruning_rate: the published option instead, ``1 - r``, in [0, 1).
    """

    ratio: float | None = None
    pruning_rate: float | None = None

    name = "evs"
    prunes = True

    def __post_init__(self) -> None:
        require_rates(self.ratio, self.pruning_rate)

    def merge_video(self, features: Tensor) -> MergedVideo:
        frames, width = features.shape[:2]
        kept = kept_tokens(frames * width, self.ratio, self.pruning_rate)
        taken = best(novelty(features).flatten(), max(width, kept))
        return subset_video(features, taken)


def novelty(features: Tensor) -> Tensor:
    """[T, N] float32: how much each token of [T, N, C] differs from its place a frame earlier."""
    found = features.new_full(features.shape[:2], FIRST_FRAME).float()
    found[1:] = 1 - cosine(features[1:], features[:-1])
    return found
