"""LLaVA-PruMerge+ (Shang et al., https://arxiv.org/abs/2403.15388): keep the tokens of each frame
that the vision tower itself looks at, spread some more evenly, and add to each what is alike.

For a frame of N tokens with importance a (see :mod:`..vision`, scaled to sum to 1) and keys k:

* the outliers, ``a > Q3 + 1.5 (Q3 - Q1)``, are kept; r is their share. A frame without one keeps
  the most important token as its outlier;
* so is every s-th token from the first on, ``s = int(int(1 / r) / 3)``, at least 1;
* each kept token adds its ``neighbors`` most similar tokens (product of keys, itself excluded),
  weighted by their importance: ``y_i + sum of a_j y_j``;
* what was not kept makes one more token, its mean weighted by importance, at the frame's end.

About 55% of the tokens stay, and the language model runs on no others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_kernels import MergedVideo, TokenLayout

from ..options import require_count
from ..record import pruning_method
from ..vision import TowerGuided


@pruning_method("LLaVA-PruMerge+", needs=("tower",), changes=("merges",))
@dataclass(eq=False)
class PruMerge(TowerGuided):
    """LLaVA-PruMerge+.

    Args:
        neighbors: how many similar tokens a kept one takes up.
    """

    neighbors: int = 32

    name = "prumerge"
    prunes = True

    def __post_init__(self) -> None:
        require_count("neighbors", self.neighbors, minimum=1)

    def merge_seen(self, features: Tensor, weights: Tensor, keys: Tensor) -> MergedVideo:
        return merge_frames(features, weights, keys.flatten(2), self.neighbors)


def merge_frames(tokens: Tensor, weights: Tensor, keys: Tensor, neighbors: int) -> MergedVideo:
    """Prune one video, frame by frame.

    Args:
        tokens: [T, N, C].
        weights: [T, N] float32, importance.
        keys: [T, N, D] float32.
        neighbors: see :class:`PruMerge`.

    Returns:
        The kept tokens of each frame, then its token for the rest. In the layout, a kept token
        stands for itself alone, the last one of a frame for all that were not kept.
    """
    num_frames, width = weights.shape
    weights = weights / weights.sum(dim=1, keepdim=True)
    merged: list[Tensor] = []
    anchors, counts = [], []
    source = torch.empty(num_frames, width, dtype=torch.int64, device=tokens.device)
    for frame in range(num_frames):
        is_kept = kept_tokens(weights[frame])
        start = sum(map(len, merged))
        kept, rest = is_kept.nonzero()[:, 0], (~is_kept).nonzero()[:, 0]
        frame_tokens = tokens[frame].float()
        merged.append(
            _merge_frame(frame_tokens, weights[frame], keys[frame], kept, rest, neighbors)
        )
        source[frame, kept] = start + torch.arange(len(kept), device=kept.device)
        source[frame, rest] = start + len(kept)
        anchors.append(frame * width + torch.cat((kept, rest[:1])))
        counts += [1] * len(kept) + [len(rest)] * bool(len(rest))
    layout = TokenLayout.from_sizes(
        torch.tensor([num_frames], device="cpu"),
        torch.tensor([0], device="cpu"),
        torch.tensor([len(part) for part in merged], device="cpu"),
        source_to_merged=source,
        merged_anchor=torch.cat(anchors),
        merged_count=torch.tensor(counts, device=tokens.device),
    )
    return MergedVideo(torch.cat(merged).to(tokens.dtype), layout)


def kept_tokens(weights: Tensor) -> Tensor:
    """[N] bool: the outliers among ``weights`` [N], and tokens at even distances."""
    low, high = torch.quantile(weights, weights.new_tensor([0.25, 0.75]))
    is_kept = weights > high + 1.5 * (high - low)
    if not is_kept.any():
        is_kept[weights.argmax()] = True
    share = int(is_kept.sum()) / len(weights)
    is_kept[:: max(1, int(int(1 / share) / 3))] = True
    return is_kept


def _merge_frame(
    tokens: Tensor, weights: Tensor, keys: Tensor, kept: Tensor, rest: Tensor, neighbors: int
) -> Tensor:
    """[K + 1, C], or [K, C] where nothing is left over."""
    similarity = keys[kept] @ keys.T  # [K, N]
    similarity[torch.arange(len(kept), device=kept.device), kept] = -torch.inf
    count = min(neighbors, len(keys) - 1)
    near = torch.sort(similarity, dim=1, descending=True, stable=True).indices[:, :count]
    merged = tokens[kept] + (weights[near][..., None] * tokens[near]).sum(dim=1)
    if not len(rest):
        return merged
    mean = weights[rest] @ tokens[rest] / weights[rest].sum()
    return torch.cat((merged, mean[None]))
