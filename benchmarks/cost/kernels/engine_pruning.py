"""What serving engines run where PruneVid merges: EVS and VidCom2, both of which vLLM ships.

Both keep tokens and average none, and both know the number of tokens before features exist. EVS
(arXiv 2510.14624) keeps what differs from the same place one frame before. VidCom2 (arXiv
2505.14454) keeps what is least typical of its video and of its frame, and more of it in frames that
are unlike the video. Both are written here from the papers and from a description of what vLLM 0.32
makes of them: EVS compares in the features' own dtype and ranks with a stable sort; VidCom2 is
filled up or cut to its number of tokens exactly. VidCom2 computes in float32 here, whatever the
features' dtype. Which tokens are taken at equal scores may differ from the engine's choice, their
number does not. Neither waits for the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..harness import IncorrectResultError

Kept = tuple[Tensor, Tensor]
"""Tokens [kept, C] in their order, and their places in [0, T * N), ascending."""


def evs(x: Tensor, kept: int) -> Kept:
    """The ``kept`` tokens of x [T, N, C] that are least similar to the same place one frame before;
    the first frame's come before all others."""
    order = dissimilarity(x).flatten().argsort(descending=True, stable=True)
    return _take(x, order[:kept])


def dissimilarity(x: Tensor) -> Tensor:
    """[T, N] 1 - cosine to the same place one frame before; 255 in the first frame."""
    similarity = F.cosine_similarity(x[1:], x[:-1], dim=-1)
    return torch.cat((x.new_full(x[:1].shape[:2], 255.0), 1 - similarity))


def vidcom2(x: Tensor, kept: int) -> Kept:
    """The ``kept`` least typical tokens of x [T, N, C], shared out among the frames."""
    frames, n, channels = x.shape
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    # In forms that are quick on a CPU too, where torch's own variance and index_select are not.
    variance = (values - values.mean(dim=(0, 1))).square().mean(dim=(0, 1))  # [C]
    quiet = variance.argsort(stable=True)[: channels // 2]
    unit = F.normalize(values[:, :, quiet], dim=-1, eps=1e-12)
    of_video = _typicality(unit, unit.mean(dim=(0, 1)))  # [T, N]
    of_frame = _typicality(unit, unit.mean(dim=1, keepdim=True))
    typical = of_video + of_frame

    # A frame unlike the video gets more than the mean share; the temperature makes that few frames.
    unlike = -of_video.mean(dim=1)
    extra = ((unlike - unlike.max()) / 0.01).softmax(dim=0)
    share = (kept / (frames * n) * (1 + extra - extra.mean())).clamp(max=1)
    counts = (share * n).round().clamp(min=1)  # [T]

    # All that the frames keep, least typical first, then all that they drop: the first of these are
    # exactly the number asked for.
    place = typical.argsort(dim=1, stable=True).argsort(dim=1)
    is_dropped = (place >= counts[:, None]).flatten()
    order = typical.flatten().argsort(stable=True)
    order = order[is_dropped[order].int().argsort(stable=True)]
    return _take(x, order[:kept])


def _typicality(unit: Tensor, center: Tensor) -> Tensor:
    """How near unit vectors [T, N, C] are to a centre: Gaussians of five widths, summed."""
    square = (unit - center).square().sum(dim=-1)
    widths = (0.125, 0.25, 0.5, 1.0, 2.0)
    return torch.stack([torch.exp(-square / (2 * width)) for width in widths]).sum(dim=0)


def _take(x: Tensor, chosen: Tensor) -> Kept:
    places = chosen.sort().values
    return x.flatten(0, 1).index_select(0, places), places


# ------------------------------------------------------------------------------------------------
# Checks
# ------------------------------------------------------------------------------------------------


def check_evs(x: Tensor, output: Kept, *, kept: int) -> None:
    """No kept token is more similar, in float64, than a dropped one, up to the dtype's rounding.

    Raises:
        IncorrectResultError: it is, or the tokens are not ``kept`` of the features.
    """
    is_kept = _mask_of(x, output, kept)
    if bool(is_kept.all()):
        return
    exact = dissimilarity(x.double()).flatten()
    least_kept, most_dropped = exact[is_kept].min().item(), exact[~is_kept].max().item()
    rounding = 1e-5 if x.dtype == torch.float32 else 2 * torch.finfo(x.dtype).eps
    if least_kept < most_dropped - rounding:
        raise IncorrectResultError(
            f"kept a token of dissimilarity {least_kept:.6f}, dropped one of {most_dropped:.6f}"
        )


def check_vidcom2(x: Tensor, output: Kept, *, kept: int) -> None:
    """Of the tokens that float64 keeps, a hundredth may be others: near-ties.

    Raises:
        IncorrectResultError: more are, or the tokens are not ``kept`` of the features.
    """
    is_kept = _mask_of(x, output, kept)
    exact = torch.zeros_like(is_kept).index_fill_(0, vidcom2(x.double(), kept)[1], True)
    others = int((is_kept & ~exact).sum())
    if others > kept // 100:
        raise IncorrectResultError(f"{others} of {kept} tokens are not those that float64 keeps")


def _mask_of(x: Tensor, output: Kept, kept: int) -> Tensor:
    """[T * N] which tokens were kept."""
    tokens, places = output
    is_kept = torch.zeros(len(x) * x.shape[1], dtype=torch.bool, device=x.device)
    is_kept.index_fill_(0, places, True)
    if len(places) != kept or int(is_kept.sum()) != kept:
        raise IncorrectResultError(f"{int(is_kept.sum())} tokens are kept, not {kept}")
    if not torch.equal(tokens, x.flatten(0, 1)[places]):
        raise IncorrectResultError("the tokens are not those at the kept places")
    return is_kept
