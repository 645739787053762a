"""HoliTom (Shao et al., NeurIPS 2025, https://arxiv.org/abs/2505.21334), its outer stage: the best
windows by dynamic programming, one set of tokens for what is static in a window, and what the tower
looks at of the rest. The nearest relative of PruneVid, with the same layout.

1. A place is the same in frames t and t + 1 if the cosine of its tokens exceeds tau. A window of
   frames a to e saves ``e - a`` tokens for each place that stays the same throughout; the video is
   split into the windows, of at most W frames, that save most, G in all. A longer window replaces a
   shorter one only if it saves more.
2. What is left is cut to ``r' = min(1, r T N / (T N - G))``.
3. Static places of a window are averaged over its frames. ``round(count r')`` of them, by
   density-peak score, are centres, each other one goes to the nearest, and a token is ``beta``
   times its centre and ``1 - beta`` times the mean of those that came.
4. Of the other places of each frame, the ``ceil(count r')`` of highest importance stay.

The inner stage, which merges hidden states inside the decoder, has no place here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_kernels import MergedVideo, TokenLayout

from ..comparing import cosine, density_scores, group_means, lowest_in_rows
from ..options import require_between, require_count, require_ratio
from ..record import pruning_method
from ..subset import first_bad_frame
from ..vision import TowerGuided


@pruning_method("HoliTom's outer stage", needs=("tower",), changes=("merges",), knob="retain_ratio")
@dataclass(eq=False)
class HoliTom(TowerGuided):
    """HoliTom's outer stage.

    Args:
        retain_ratio: r, share of the tokens that is kept.
        tau: least cosine of a place that stays the same.
        beta: weight of a centre.
        k: neighbours of the density.
        window: most frames of a window, W.
    """

    retain_ratio: float = 0.25
    tau: float = 0.8
    beta: float = 0.6
    k: int = 7
    window: int = 1024

    name = "holitom"
    prunes = True

    def __post_init__(self) -> None:
        require_ratio("retain_ratio", self.retain_ratio)
        require_between("tau", self.tau, -1, 1)
        require_between("beta", self.beta, 0, 1)
        for name in ("k", "window"):
            require_count(name, getattr(self, name), minimum=1)

    def merge_seen(self, features: Tensor, weights: Tensor, keys: Tensor) -> MergedVideo:
        (frames, width), device = weights.shape, features.device
        x = features.float()
        same = cosine(x[:-1], x[1:]) > self.tau  # [T - 1, N]
        windows, saved = best_windows(same, self.window)
        ratio = min(1.0, self.retain_ratio / ((frames * width - saved) / (frames * width)))
        is_static = torch.zeros(frames, width, dtype=torch.bool, device=device)
        for first, last in windows:
            if last > first:
                is_static[first : last + 1] = same[first:last].all(dim=0)
        others = width - is_static.sum(dim=1).cpu()  # [T]
        sizes = torch.tensor([math.ceil(count * ratio) for count in others.tolist()], device="cpu")
        # Static places are worth less than any other, and no frame keeps more than it has others.
        order = (-weights).masked_fill(is_static, torch.inf)
        is_kept = lowest_in_rows(order, sizes.to(device))

        tokens, anchors, static_sizes, start = [], [], [], 0
        source = torch.full((frames, width), -1, device=device)
        for first, last in windows:
            places = is_static[first].nonzero()[:, 0]
            labels, merged, centers = self._static(x[first : last + 1, places], ratio)
            if len(merged):
                source[first : last + 1, places] = start + labels
            tokens.append(merged)
            anchors.append(first * width + places[centers])
            static_sizes.append(len(merged))
            kept = is_kept[first : last + 1].nonzero()  # [K, 2]
            kept[:, 0] += first
            tokens.append(x[kept[:, 0], kept[:, 1]])
            anchors.append(kept[:, 0] * width + kept[:, 1])
            start += len(merged)
            source[kept[:, 0], kept[:, 1]] = start + torch.arange(len(kept), device=device)
            start += len(kept)
        layout = TokenLayout.from_sizes(
            torch.tensor([last - first + 1 for first, last in windows], device="cpu"),
            torch.tensor(static_sizes, device="cpu"),
            sizes,
            source_to_merged=source,
            merged_anchor=torch.cat(anchors),
            merged_count=torch.bincount(source.flatten() + 1, minlength=start + 1)[1:],
        )
        return MergedVideo(torch.cat(tokens).to(features.dtype), layout, first_bad_frame(features))

    def _static(self, places: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
        """Step 3 for the static places [W, P, C] of a window: labels [P], tokens [n, C], and the
        centres [n], ascending."""
        points = places.mean(dim=0)
        count = round(len(points) * ratio)
        if count == 0:
            none = torch.arange(0, device=points.device)
            return none, points[:0], none
        scores, distance = density_scores(points, min(self.k, count))
        centers = torch.sort(scores, descending=True, stable=True).indices[:count].sort().values
        labels = distance[centers].argmin(dim=0)
        came = labels.index_fill(0, centers, -1)
        labels[centers] = torch.arange(count, device=points.device)
        has_come = torch.bincount(came + 1, minlength=count + 1)[1:, None] > 0
        mixed = self.beta * points[centers] + (1 - self.beta) * group_means(points, came, count)
        return labels, torch.where(has_come, mixed, points[centers]), centers


def best_windows(same: Tensor, longest: int) -> tuple[list[tuple[int, int]], int]:
    """Step 1: the first and last frame of each window, and the tokens that they save.

    Args:
        same: [T - 1, N] bool, whether a place of frame t is the same in t + 1.
        longest: most frames of a window.
    """
    frames, width = len(same) + 1, same.shape[1]
    streak = torch.zeros(frames, width, dtype=torch.int64, device=same.device)
    for time in range(1, frames):
        streak[time] = (streak[time - 1] + 1) * same[time - 1]
    # [T, T]: at e and d, the places that are the same over the d steps up to e.
    steps = torch.arange(frames, device=same.device)
    held = (streak[..., None] >= steps).sum(dim=1).tolist()
    best, lengths = [0], []
    for end in range(frames):
        gains = [
            best[end - steps] + held[end][steps] * steps for steps in range(min(longest, end + 1))
        ]
        best.append(max(gains))
        lengths.append(gains.index(best[-1]) + 1)
    windows, end = [], frames
    while end:
        windows.append((end - lengths[end - 1], end - 1))
        end -= lengths[end - 1]
    return windows[::-1], best[-1]
