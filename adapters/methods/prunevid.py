"""PruneVid (ACL Findings 2025): merge a video's tokens by time and space before the decoder, and
keep, after one of its layers, those that the question attends to.

What is computed is the core's to say (:mod:`prunevid_kernels`); this is its place among the
methods.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig, merge_videos, select_tokens

from ..engine.method import PruningMethod, Selections, Videos, VideoSelection
from ..engine.prompt import MergedPrompt
from ..engine.scoring import LayerAttention


class PruneVid(PruningMethod):
    """Merge by time and space, keep what the question attends to (see :class:`PruneVidConfig`)."""

    prunes = True

    def __init__(self, config: PruneVidConfig, name: str = "prunevid") -> None:
        self.config, self.name = config, name
        self.layer = config.layer if config.select else None

    def __repr__(self) -> str:
        return repr(self.config)

    def merge(self, features: Tensor, frames: Sequence[int]) -> list[MergedVideo]:
        return merge_videos(features, frames, self.config)

    def select(
        self, attention: LayerAttention, prompts: Sequence[MergedPrompt], videos: Videos
    ) -> Selections:
        selections = []
        for row, (prompt, row_videos) in enumerate(zip(prompts, videos, strict=True)):
            scores = [
                attention.score(self.config.score, row, prompt, index, len(video.tokens))
                for index, video in enumerate(row_videos)
            ]
            selections.append(
                [
                    VideoSelection(score, select_tokens(score, video.layout, self.config))
                    for score, video in zip(scores, row_videos, strict=True)
                ]
            )
        return selections
