"""The contract of a pruning method: what it decides. How that is carried out inside a model, with
hooks, caches, masks and positions, is the engine's and is the same for every method.

A method may act in three places, and overrides what it does there:

==========================================  ================================================
before the decoder, each video on its own   ``merge_video``; all of a call at once: ``merge``
at the end of one decoder layer             ``select_video``; all at once: ``select``
on what each layer has cached               ``compress``
==========================================  ================================================

The base class acts in none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from prunevid_kernels import MergedVideo, PruneVidConfig, merge_video

from .interface import ModelAdapter, PromptVisuals
from .layer_attention import LayerAttention
from .prompt import MergedBatch, MergedPrompt, VideoPlace


class VideoSelection(NamedTuple):
    """What is left of one video.

    Attributes:
        scores: [L] float32, by which its merged tokens were chosen; None where there were none.
        kept: [K] int64, ascending: the merged tokens to keep.
    """

    scores: Tensor | None
    kept: Tensor


# Of each prompt of a batch, for each of its videos.
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

    def read_prompts(self, prompts: Sequence[PromptVisuals], embeds: Tensor) -> None:
        """See whole prompts, questions included, just before :meth:`merge` gets their videos: those
        with equally many tokens a frame together, by prompt and place.

        Args:
            prompts: what is not text in each.
            embeds: [B, S, C] what the decoder was to take in, visual features in their places.
        """

    def merge(self, features: Tensor, frames: Sequence[int]) -> list[MergedVideo]:
        """The tokens of videos that go into the decoder.

        Args:
            features: [sum(frames), N, C] of all videos of a call, one after the other.
            frames: frames of each video.
        """
        return [self.merge_video(video) for video in features.split(list(frames))]

    def merge_video(self, features: Tensor) -> MergedVideo:
        """The tokens of one video [T, N, C] that go into the decoder."""
        return merge_video(features, PruneVidConfig(merge=False))

    def select(self, attention: LayerAttention, batch: MergedBatch) -> Selections:
        """What to keep of each video of each prompt after :attr:`layer`.

        Args:
            attention: of that layer.
            batch: the prompts that ran through it.
        """
        return [
            [self.select_video(attention, place, video) for place, video in row]
            for row in batch.each_video()
        ]

    def select_video(
        self, attention: LayerAttention, place: VideoPlace, video: MergedVideo
    ) -> VideoSelection:
        """What to keep of one video after :attr:`layer`.

        Args:
            attention: of that layer.
            place: where the video's tokens are among the rows of ``attention``.
            video: those tokens as they went into the decoder.
        """
        return keep_all(video)

    def compress(
        self, attention: LayerAttention, prompts: Sequence[MergedPrompt]
    ) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [Hkv, K, D] that one layer's cache holds of each prompt from now on; K is
        the same in every layer.

        Args:
            attention: of that layer, which knows its keys and values.
            prompts: what is in each row of it.
        """
        return [attention.entries(row, prompt) for row, prompt in enumerate(prompts)]


def keep_all(video: MergedVideo) -> VideoSelection:
    """Every merged token of a video, chosen by nothing."""
    return VideoSelection(None, torch.arange(len(video.tokens), device=video.tokens.device))
