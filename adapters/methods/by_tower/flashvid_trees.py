"""FlashVID's merging (steps 3 to 5 of :mod:`.flashvid`): over time, then within each frame.

3. In a segment of several frames, a token that is not selected finds the most similar such token of
   the frame before. It moves there if they are more alike than a threshold; if fewer than
   ``b L`` of the segment would stay, the least alike of those that move stay as well.
4. From the last frame to the first, a token that moves adds what it has come to, and 1 to the
   count by which the receiver is divided if it stays. So a chain of three equal frames gives 1.5
   times the token: the original's, kept.
5. Of what stays and is not selected, each frame has its share of ``B L``, as density-peak centres;
   a token is the mean of those nearest to its centre. A segment of one frame takes all of its
   tokens, selected ones too.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..comparing import cosines, density_scores, group_means

NEIGHBORS = 7


class Merged(NamedTuple):
    """Merged tokens: tokens [L, C] float32, anchors [L] flat indices, and source [T, N], into which
    of them each token went, -1 for those that went into none."""

    tokens: Tensor
    anchors: Tensor
    source: Tensor


def merge_trees(
    x: Tensor, is_selected: Tensor, parts: list[tuple[int, int]], shared: int, threshold: float
) -> Merged:
    """Merge the tokens that are not selected.

    Args:
        x: [T, N, C] float32.
        is_selected: [T, N] bool, equally many in each frame.
        parts: (start, stop) of the segments.
        shared: B, merged tokens of a frame; 0: none are made.
        threshold: of step 3.
    """
    frames, width, _ = x.shape
    source = torch.full((frames, width), -1, device=x.device)
    if not shared:
        return Merged(x[0, :0], source[0, :0], source)
    target, moves = _moves(x, is_selected, parts, shared, threshold)
    sums, root = _trees(x, target, moves)
    tokens: list[Tensor] = []
    anchors: list[Tensor] = []
    made = torch.full((frames * width,), -1, device=x.device)
    count = 0
    for start, stop in parts:
        stays = ~(moves | is_selected)[start:stop]
        if stop - start == 1:
            stays = torch.ones_like(stays)
        held = stays.sum(dim=1).tolist()
        share = shared * (stop - start) / max(1, sum(held))
        for frame, size in enumerate(held, start):
            places = stays[frame - start].nonzero()[:, 0]
            labels, merged, centers = _clusters(sums[frame, places], math.ceil(size * share), share)
            tokens.append(merged)
            anchors.append(frame * width + places[centers])
            made[frame * width + places] = count + labels
            count += len(merged)
    return Merged(torch.cat(tokens), torch.cat(anchors), made[root])


def _moves(
    x: Tensor, is_selected: Tensor, parts: list[tuple[int, int]], shared: int, threshold: float
) -> tuple[Tensor, Tensor]:
    """Step 3: where each token would go in the frame before [T, N], and which do [T, N] bool."""
    frames, width, _ = x.shape
    best = torch.full((frames, width), -1.0, device=x.device)
    target = torch.zeros(frames, width, dtype=torch.int64, device=x.device)
    if frames > 1:
        alike = cosines(x[1:], x[:-1])  # [T - 1, n, m]
        is_out = is_selected[1:, :, None] | is_selected[:-1, None]
        highest = alike.masked_fill_(is_out, -1.0).max(dim=2)
        best[1:] = highest.values
        target[1:] = alike.argmax(dim=2)
    moves = torch.zeros_like(is_selected)
    size = shared + int(is_selected[0].sum())
    for start, stop in parts:
        best[start] = -1.0
        found, length = best[start:stop], stop - start
        if length == 1:
            continue
        own = found > threshold
        if length * width - int(own.sum()) < size * length:
            last = length * width - size * length  # so many move at most
            border = torch.sort(found.flatten(), descending=True).values[max(0, last - 1)]
            own = found > border.clamp(min=-1 + 1e-6)
            if not last:
                own = torch.zeros_like(own)
        moves[start:stop] = own
    return target, moves


def _trees(x: Tensor, target: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Step 4: what each token that stays has come to [T, N, C], and the flat index [T, N] of the
    token in which each one ends."""
    frames, width, channels = x.shape
    sums = x.clone()
    counts = torch.ones(frames, width, dtype=torch.float32, device=x.device)
    for frame in range(frames - 1, 0, -1):
        moving = moves[frame].nonzero()[:, 0]
        to = target[frame, moving]
        sums[frame - 1].index_add_(0, to, sums[frame, moving])
        counts[frame - 1].index_add_(0, to, torch.ones_like(to, dtype=torch.float32))
    root = torch.arange(frames * width, device=x.device).view(frames, width)
    for frame in range(1, frames):
        root[frame] = torch.where(moves[frame], root[frame - 1][target[frame]], root[frame])
    return sums / counts[..., None], root


def _clusters(points: Tensor, count: int, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Step 5 for the tokens [n, C] of a frame: labels [n], tokens and centres of the clusters."""
    index = torch.arange(len(points), device=points.device)
    if count == 0 or share >= 1:
        return index, points, index
    scores, distance = density_scores(points, min(count, NEIGHBORS))
    centers = torch.sort(scores, descending=True, stable=True).indices[:count]
    labels = distance[centers].argmin(dim=0)
    labels[centers] = index[: len(centers)]
    return labels, group_means(points, labels, len(centers)), centers
