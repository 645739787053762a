"""LLaVA-PruMerge+ (Shang et al., https://arxiv.org/abs/2403.15388): keep the tokens of each frame
that the vision tower itself looks at, spread some more evenly, and add to each what is alike.

For a frame of N tokens with importance a (see :mod:`..vision`, scaled to sum to 1) and keys k:

* the outliers, ``a > Q3 + 1.5 (Q3 - Q1)``, are kept; r is their share. A frame without one keeps
  the most important token as its outlier;
* so is every s-th token from the first on, ``s = int(int(1 / r) / 3)``, at least 1;
* each kept token adds its ``neighbors`` most similar tokens (product of keys, itself excluded),
  weighted by their importance: ``y_i + sum of a_j y_j``;
* what was not kept makes one more token, its mean weighted by importance, at the frame's end.

About 55% of the tokens stay, and the language model runs on no others. Attention runs in the vision
tower, so features that come already encoded, without a run of the tower, cannot be pruned so.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunevid_kernels import MergedVideo, TokenLayout

from ...engine.interface import ModelAdapter, VisionAttention
from ...engine.method import PruningMethod
from ..options import require_count
from ..vision import importance


@dataclass(eq=False)
class Seen:
    """What one run of the vision tower has shown, on its way to the decoder.

    Attributes:
        owner: the method that watched.
        rows: [F, P, heads * D] of the query and the key projection.
        tokens: [T, N, 1 + D]: importance and key of each visual token, once the encoder is done.
    """

    owner: object
    rows: dict[str, Tensor] = field(default_factory=dict)
    tokens: Tensor | None = None


_seen: ContextVar[Seen | None] = ContextVar("prumerge_seen", default=None)


@dataclass(eq=False)
class PruMerge(PruningMethod):
    """LLaVA-PruMerge+.

    Args:
        neighbors: how many similar tokens a kept one takes up.
    """

    neighbors: int = 32

    name = "prumerge"
    prunes = True

    def __post_init__(self) -> None:
        require_count("neighbors", self.neighbors, minimum=1)

    def watch(self, model: nn.Module, adapter: ModelAdapter, hooks: ExitStack) -> None:
        vision = adapter.vision_attention(model)

        def capture(name: str, projection: nn.Module) -> None:
            def after(module: nn.Module, args: Any, output: Tensor) -> None:
                if module is projection:  # and not a copy of the model, which has the hook as well
                    seen = _seen.get()
                    if seen is None or seen.owner is not self or name in seen.rows:
                        seen = Seen(self)
                        _seen.set(seen)
                    seen.rows[name] = output

            hooks.callback(projection.register_forward_hook(after).remove)

        def finish(module: nn.Module, args: Any, output: Any) -> None:
            seen = _seen.get()
            if module is vision.encoder and seen is not None and seen.owner is self:
                seen.tokens = _pooled(vision, seen.rows, len(args[0]))
                seen.rows.clear()

        capture("query", vision.query)
        capture("key", vision.key)
        hooks.callback(vision.encoder.register_forward_hook(finish).remove)

    def merge(self, features: Tensor, frames: Sequence[int]) -> list[MergedVideo]:
        shown = self._take(list(frames)).to(features.device)
        return [
            merge_frames(tokens, video[..., 0], video[..., 1:], self.neighbors)
            for tokens, video in zip(
                features.split(list(frames)), shown.split(list(frames)), strict=True
            )
        ]

    def _take(self, frames: list[int]) -> Tensor:
        """[sum(frames), N, 1 + D] of the videos that the decoder is about to get."""
        seen = _seen.get()
        _seen.set(None)
        if seen is None or seen.owner is not self or seen.tokens is None:
            raise ValueError(
                "prumerge reads the vision tower's attention, but the videos came without a run of "
                "the tower; give pixels"
            )
        # generate repeats encoded videos for its beams and returned sequences.
        repeats = max(1, sum(frames) // len(seen.tokens))
        shown = frames[::repeats]
        if sum(shown) != len(seen.tokens):
            raise ValueError(
                f"the vision tower last saw {len(seen.tokens)} frames, but the prompts have videos "
                f"of {frames} frames; prumerge cannot tell videos from images in one prompt"
            )
        videos = seen.tokens.split(shown)
        return torch.cat([video for video in videos for _ in range(repeats)])


def _pooled(vision: VisionAttention, rows: dict[str, Tensor], videos: int) -> Tensor:
    """[T, N, 1 + D] float32."""
    weights = importance(vision, rows["query"], rows["key"])
    keys = rows["key"][:, vision.tokens].float()
    return vision.pool(torch.cat((weights[..., None], keys), dim=-1), videos)


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
        torch.tensor([num_frames]),
        torch.tensor([0]),
        torch.tensor([len(part) for part in merged]),
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
    similarity[torch.arange(len(kept)), kept] = -torch.inf
    count = min(neighbors, len(keys) - 1)
    near = torch.sort(similarity, dim=1, descending=True, stable=True).indices[:, :count]
    merged = tokens[kept] + (weights[near][..., None] * tokens[near]).sum(dim=1)
    if not len(rest):
        return merged
    mean = weights[rest] @ tokens[rest] / weights[rest].sum()
    return torch.cat((merged, mean[None]))
