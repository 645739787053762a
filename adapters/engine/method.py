"""What a pruning method decides. How it is carried out inside a model, with hooks, caches, masks
and positions, is the engine's and is the same for every method.

A method may act in three places: before the decoder (:meth:`~PruningMethod.merge`), at the end of
one decoder layer (:meth:`~PruningMethod.select`), and on what each layer has cached
(:meth:`~PruningMethod.compress`). The base class acts in none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from prunevid_kernels import MergedVideo, PruneVidConfig, merge_videos

from .interface import ModelAdapter
from .prompt import MergedPrompt
from .scoring import LayerAttention


class VideoSelection(NamedTuple):
    """What is left of one video.

    Attributes:
        scores: [L] float32, by which its merged tokens were chosen; None where there were none.
        kept: [K] int64, ascending: the merged tokens to keep.
    """

    scores: Tensor | None
    kept: Tensor


# Of each prompt of a batch, for each of its videos.
Videos: TypeAlias = Sequence[Sequence[MergedVideo]]
Selections: TypeAlias = list[list[VideoSelection]]


class PruningMethod:
    """A method that changes nothing; others override what they do differently.

    Attributes:
        name: what to call it in reports.
        layer: :meth:`select` acts at the end of this 0-based decoder layer; None: never.
        keeps_early_caches: what is dropped there stays in the caches of the layers up to there.
        compresses_caches: :meth:`compress` acts at the end of every decoder layer.
        prunes: whether a prompt of which nothing was dropped is worth a warning.
    """

    name: str = "full"
    layer: int | None = None
    keeps_early_caches: bool = False
    compresses_caches: bool = False
    prunes: bool = False

    @property
    def needs_cache(self) -> bool:
        """Whether it acts inside the decoder, where only a key/value cache carries it on."""
        return self.layer is not None or self.compresses_caches

    def watch(self, model: nn.Module, adapter: ModelAdapter, hooks: ExitStack) -> None:
        """Hook what the method has to see outside the decoder.

        Args:
            model: the model that is pruned.
            adapter: where things live in it.
            hooks: takes the removals.

        Raises:
            ValueError: the model does not have it.
        """

    def merge(self, features: Tensor, frames: Sequence[int]) -> list[MergedVideo]:
        """The tokens of videos that go into the decoder.

        Args:
            features: [sum(frames), N, C] of all videos of a call, one after the other.
            frames: frames of each video.
        """
        return merge_videos(features, frames, PruneVidConfig(merge=False))

    def select(
        self, attention: LayerAttention, prompts: Sequence[MergedPrompt], videos: Videos
    ) -> Selections:
        """What to keep of each video of each prompt behind :attr:`layer`, whose attention it is:
        where that makes no difference, what :meth:`keep` says."""
        return [[VideoSelection(None, self.keep(video)) for video in row] for row in videos]

    def keep(self, video: MergedVideo) -> Tensor:
        """[K] int64, ascending: the tokens of a video to keep, whatever is asked; all of them."""
        return torch.arange(len(video.tokens), device=video.tokens.device)

    def compress(
        self, attention: LayerAttention, prompts: Sequence[MergedPrompt]
    ) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [Hkv, K, D] that one layer's cache holds of each prompt from now on; K is
        the same in every layer."""
        return [attention.entries(row, prompt) for row, prompt in enumerate(prompts)]
