"""FastVID (Shen et al., NeurIPS 2025, https://arxiv.org/abs/2503.11187): keep what the tower looks
at, and cluster the rest of a segment into a few of its frames.

1. Segments end where neighbouring frames are among the ``c - 1`` least alike, or less alike than
   tau. A frame's descriptor is the mean of its tokens here; the paper's models take the output of a
   pooling head that transformers' checkpoints do not have.
2. Of a frame's ``R = int(N r)`` tokens, ``R - int(R d)`` go to the salient: those of highest
   importance, which stay as they are.
3. The others share ``X = int(R d)`` a frame. In a segment of L frames the last one and every p-th
   before it are anchor frames, with ``X L // ceil(L / p)`` centres each: the best by density-peak
   score among the tokens of the frame that are not salient.
4. Every token of the segment that is not salient goes to its most similar centre, anew for each
   anchor frame. A centre to which m came becomes ``w centre + (1 - w) mean``,
   ``w = max(1 / (m + 1), beta)``.

A token is averaged into one centre of each anchor frame; the layout records that of its own frame,
or of the next anchor frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from prunevid_kernels import MergedVideo

from ..attention import best
from ..comparing import cosines, density_scores, frame_similarity, group_means, runs
from ..options import require_between, require_count, require_ratio
from ..record import pruning_method
from ..subset import first_bad_frame, subset_layout
from ..vision import TowerGuided

NEIGHBORS = 4


class Anchor(NamedTuple):
    """An anchor frame of a segment: which frame, its centres [n] among the points of the frame, the
    labels [L * (N - S)] of the segment's points, tokens [n, C]."""

    frame: int
    centers: Tensor
    labels: Tensor
    tokens: Tensor


@pruning_method("FastVID", needs=("tower",), changes=("merges",), knob="retention_ratio")
@dataclass(eq=False)
class FastVid(TowerGuided):
    """FastVID.

    Args:
        retention_ratio: r, share of the tokens that is kept.
        c: fewest segments.
        tau: frames less alike than this are of different segments.
        d: share of what is kept that goes to the centres.
        p: distance of anchor frames.
        beta: least weight of a centre among what is averaged into it.
    """

    retention_ratio: float = 0.10
    c: int = 8
    tau: float = 0.9
    d: float = 0.4
    p: int = 4
    beta: float = 0.6

    name = "fastvid"
    prunes = True

    def __post_init__(self) -> None:
        require_ratio("retention_ratio", self.retention_ratio)
        for name in ("c", "p"):
            require_count(name, getattr(self, name), minimum=1)
        require_between("tau", self.tau, -1, 1)
        for name in ("d", "beta"):
            require_between(name, getattr(self, name), 0, 1)

    def merge_seen(self, features: Tensor, weights: Tensor, keys: Tensor) -> MergedVideo:
        frames, width = weights.shape
        x, device = features.float(), features.device
        kept = max(1, int(width * self.retention_ratio))
        shared = int(kept * self.d)
        salient = best(weights, kept - shared)  # [T, S]
        is_rest = torch.ones_like(weights, dtype=torch.bool).scatter_(1, salient, False)
        rest = is_rest.nonzero()[:, 1].view(frames, -1)  # [T, N - S]
        first = torch.arange(frames, device=device)[:, None] * width
        anchors = [(salient + first).flatten()]
        tokens = [x.gather(1, _wide(salient, x)).flatten(0, 1)]
        target = torch.full((frames * width,), -1, device=device)  # flat index of the anchor
        target[anchors[0]] = anchors[0]
        if shared and rest.shape[1]:
            points = x.gather(1, _wide(rest, x))  # [T, N - S, C]
            scores = density_scores(points, NEIGHBORS)[0]
            places = rest + first
            parts = segments(x.mean(dim=1), self.c, self.tau)
            if self.p == 1:  # every frame as if alone
                parts = [(frame, frame + 1) for frame in range(frames)]
            for start, stop in parts:
                found = self._centres(points[start:stop], scores[start:stop], shared)
                for anchor_frame, centers, labels, merged in found:
                    centers = places[start + anchor_frame][centers]
                    anchors.append(centers)
                    tokens.append(merged)
                    # Later anchor frames come first, so what is nearer overwrites.
                    own = places[start : start + anchor_frame + 1]
                    target[own.flatten()] = centers[labels[: own.numel()]]
                    target[centers] = centers  # even where an equal centre took its own token
        flat, order = torch.cat(anchors).sort()
        source = torch.where(target < 0, -1, torch.searchsorted(flat, target))
        layout = subset_layout(frames, width, flat, source)
        merged = torch.cat(tokens)[order].to(features.dtype)
        return MergedVideo(merged, layout, first_bad_frame(features))

    def _centres(self, points: Tensor, scores: Tensor, shared: int) -> list[Anchor]:
        """Steps 3 and 4 for a segment [L, N - S, C]: its anchor frames, the last one first."""
        length, size = scores.shape
        count = min(size, shared * length // -(-length // self.p))
        pool, found = points.flatten(0, 1), []
        for frame in range(length - 1, -1, -self.p):
            centers = torch.sort(scores[frame], descending=True, stable=True).indices[:count]
            points_there = points[frame][centers]
            labels = cosines(pool, points_there).argmax(dim=1)
            came = torch.bincount(labels, minlength=count)[:, None]
            weight = (1 / (came + 1.0)).clamp(min=self.beta)
            means = group_means(pool, labels, count)
            merged = weight * points_there + (1 - weight) * means
            found.append(Anchor(frame, centers, labels, merged))
        return found


def segments(frames: Tensor, count: int, tau: float) -> list[tuple[int, int]]:
    """Step 1: (start, stop) of the segments of frames [T, C]."""
    alike = frame_similarity(frames)
    is_cut = alike < tau
    is_cut[best(-alike, min(count - 1, len(alike)))] = True
    return runs(is_cut)


def _wide(places: Tensor, x: Tensor) -> Tensor:
    """places [T, M] as an index into x [T, N, C]."""
    return places[..., None].expand(-1, -1, x.shape[-1])
