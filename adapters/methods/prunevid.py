"""PruneVid (ACL Findings 2025): merge a video's tokens by time and space before the decoder, and
keep, after one of its layers, those that the question attends to.

What is computed is the core's to say (:mod:`prunevid_kernels`); this is its place among the
methods.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig, merge_videos, select_tokens

from ..engine.layer_attention import LayerAttention
from ..engine.method import PruningMethod, VideoSelection
from ..engine.prompt import VideoPlace
from ..engine.report import NothingKeptWarning


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

    def select_video(
        self, attention: LayerAttention, place: VideoPlace, video: MergedVideo
    ) -> VideoSelection:
        scores = attention.score(self.config.score, place)
        kept = select_tokens(scores, video.layout, self.config)
        if not len(kept):
            warnings.warn(
                f"of the {len(scores)} merged tokens of a video none was kept: keep_ratio "
                f"{self.config.keep_ratio:g} of each group, rounded down, is none; give a larger "
                "budget or keep_ratio, or selection='global'",
                NothingKeptWarning,
                stacklevel=2,
            )
        return VideoSelection(scores, kept)
