"""Video Compression Commander (Liu et al., EMNLP 2025, https://arxiv.org/abs/2505.14454): keep the
least typical tokens, and more of the frames that are unlike the video.

1. Of the C channels, keep the ``int(C / 2)`` of lowest variance over all tokens; y are the unit
   vectors of those, V their mean over the video, F_t over a frame.
2. A token is as typical as ``s = G(y, V) + G(y, F_t)``, where G sums
   ``exp(-|y - c|^2 / 2a)`` over a in 1/8, 1/4, 1/2, 1, 2.
3. ``p`` is the softmax, at temperature 0.01, of how untypical of the video the frames are on
   average; a frame keeps the share ``min(1, r (1 + p_t - mean p))`` of its tokens, the lowest s, at
   least one.
4. Rounding leaves more or fewer than ``K = int(T N r)``. The exact form, which vLLM runs, then
   drops the highest s among all kept, or adds the lowest among all dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from prunevid_kernels import MergedVideo

from ...engine.method import PruningMethod
from ..comparing import lowest_in_rows, unit
from ..options import kept_tokens, require_rates
from ..record import pruning_method
from ..subset import subset_video

WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
TEMPERATURE = 0.01


class Typicality(NamedTuple):
    """How typical each token is of the video and of its frame, [T, N] float32 each."""

    of_video: Tensor
    of_frame: Tensor


@pruning_method("Video Compression Commander", changes=("drops",), knob="ratio")
@dataclass(eq=False)
class VidCom2(PruningMethod):
    """Video Compression Commander.

    Args:
        ratio: r, share of a video's tokens that is kept; 0.25 where nothing is given.
        pruning_rate: vLLM's option instead, ``1 - r``, in [0, 1).
        exact: keep exactly ``int(T N r)`` tokens; False: about so many, as first published.
    """

    ratio: float | None = None
    pruning_rate: float | None = None
    exact: bool = True

    name = "vidcom2"
    prunes = True

    def __post_init__(self) -> None:
        require_rates(self.ratio, self.pruning_rate)

    def merge_video(self, features: Tensor) -> MergedVideo:
        frames, width = features.shape[:2]
        scores = typicality(features)
        share = self.ratio
        if share is None:
            share = 0.25 if self.pruning_rate is None else 1 - self.pruning_rate
        total = scores.of_video + scores.of_frame
        is_kept = lowest_in_rows(total, frame_counts(frame_shares(scores, share), width))
        if self.exact:
            count = kept_tokens(frames * width, self.ratio, self.pruning_rate)
            taken = exactly(total.flatten(), is_kept.flatten(), max(frames, count))
        else:
            taken = is_kept.flatten().nonzero()[:, 0]
        return subset_video(features, taken)


def typicality(features: Tensor) -> Typicality:
    """Steps 1 and 2, of a video [T, N, C]."""
    x = features.float()
    spread = x.var(dim=(0, 1), correction=0)
    calm = torch.sort(spread, stable=True).indices[: x.shape[-1] // 2].sort().values
    y = unit(x[..., calm])
    of_frames = y.mean(dim=1, keepdim=True)
    return Typicality(_kernel(y, y.mean(dim=(0, 1))), _kernel(y, of_frames))


def _kernel(y: Tensor, center: Tensor) -> Tensor:
    square = (y - center).square().sum(dim=-1)
    return sum((torch.exp(-square / (2 * width)) for width in WIDTHS), torch.zeros_like(square))


def frame_shares(scores: Typicality, ratio: float) -> Tensor:
    """[T] float32: the share of its tokens that each frame keeps."""
    unlike = -scores.of_video.mean(dim=1)
    portion = ((unlike - unlike.max()) / TEMPERATURE).softmax(dim=0)
    return (ratio * (1 + portion - portion.mean())).clamp(max=1)


def frame_counts(shares: Tensor, width: int) -> Tensor:
    """[T] int64: the tokens that each frame of ``width`` keeps; halves go to the even number."""
    return (shares * width).round().long().clamp(min=1)


def exactly(scores: Tensor, is_kept: Tensor, count: int) -> Tensor:
    """[count] int64, ascending: the kept tokens without those of highest score, or with the lowest
    of the dropped; the earliest of equals is dropped, and added, first.

    Args:
        scores: [M] float32.
        is_kept: [M] bool.
        count: at most M.
    """
    # One order of all: kept before dropped, each by ascending score; of equal scores the kept ones
    # stand with the latest first, so that the earliest goes first.
    backwards = scores.flip(0).masked_fill(~is_kept.flip(0), torch.inf)
    kept_first = len(scores) - 1 - torch.sort(backwards, stable=True).indices
    dropped_first = torch.sort(scores.masked_fill(is_kept, torch.inf), stable=True).indices
    place = torch.arange(len(scores), device=scores.device)
    kept_rank, dropped_rank = torch.empty_like(place), torch.empty_like(place)
    kept_rank[kept_first], dropped_rank[dropped_first] = place, place
    rank = torch.where(is_kept, kept_rank, is_kept.sum() + dropped_rank)
    return torch.sort(rank).indices[:count].sort().values
