"""Controls of PruneVid's selection: random tokens in the same numbers, and none at all.

:class:`RandomDrop` asks PruneVid how many tokens it would leave of each video, and takes as many at
random, in both places: before the decoder, of the video's own tokens, as many as PruneVid's merged
ones, the rest dropped and not merged; after the selecting layer, of those, as many as PruneVid
keeps. So every layer runs on exactly as many tokens as with PruneVid; what differs is which.

:class:`DropAll` is PruneVid up to the selecting layer and keeps nothing there: how much of an
answer the text has read out of the video by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig, merge_videos, select_tokens

from ...engine.layer_attention import LayerAttention
from ...engine.method import PruningMethod, VideoSelection
from ...engine.prompt import VideoPlace
from ..options import require_count
from ..subset import subset_layout

_SEEDS_PER_VIDEO = 1 << 20  # videos in a batch before two calls' draws could meet


@dataclass(frozen=True)
class RandomVideo(MergedVideo):
    """A video of which random tokens were taken.

    Attributes:
        kept: [K] int64, ascending: those of them that stay after the selecting layer.
    """

    kept: Tensor = field(kw_only=True)


class RandomDrop(PruningMethod):
    """Random tokens, as many as PruneVid.

    Args:
        config: of the PruneVid whose numbers are taken.
        seed: of the draws. They depend on it, on a video's place in its batch, and on nothing that
            ran before; for a draw of its own, a sample gets a seed of its own.
    """

    name = "random_drop"
    prunes = True

    def __init__(self, config: PruneVidConfig, seed: int = 0) -> None:
        require_count("seed", seed, minimum=0)
        self.config, self.seed = config, seed
        self.layer = config.layer if config.select else None

    def __repr__(self) -> str:
        return f"RandomDrop(seed={self.seed}, {self.config})"

    def merge(self, features: Tensor, frames: Sequence[int]) -> list[MergedVideo]:
        width = features.shape[1]
        videos = merge_videos(features, frames, self.config)
        parts = features.split(list(frames))
        return [
            self._draw(part.flatten(0, 1), width, video, self.seed * _SEEDS_PER_VIDEO + index)
            for index, (part, video) in enumerate(zip(parts, videos, strict=True))
        ]

    def _draw(self, tokens: Tensor, width: int, video: MergedVideo, seed: int) -> RandomVideo:
        generator = torch.Generator().manual_seed(seed)
        size = len(video.tokens)

        def draw(total: int, count: int) -> Tensor:
            return torch.randperm(total, generator=generator)[:count].sort().values

        taken = draw(len(tokens), size).to(tokens.device)
        kept = len(select_tokens(torch.zeros(size), video.layout, self.config))
        layout = subset_layout(len(tokens) // width, width, taken)
        return RandomVideo(
            tokens[taken], layout, video.first_bad_frame, kept=draw(size, kept).to(tokens.device)
        )

    def select_video(
        self, attention: LayerAttention, place: VideoPlace, video: MergedVideo
    ) -> VideoSelection:
        assert isinstance(video, RandomVideo)
        return VideoSelection(None, video.kept)


class DropAll(PruningMethod):
    """PruneVid with a selection that keeps nothing.

    Args:
        config: of the PruneVid.
    """

    name = "drop_all"
    prunes = True

    def __init__(self, config: PruneVidConfig) -> None:
        self.config, self.layer = config, config.layer

    def __repr__(self) -> str:
        return f"DropAll({self.config})"

    def merge(self, features: Tensor, frames: Sequence[int]) -> list[MergedVideo]:
        return merge_videos(features, frames, self.config)

    def select_video(
        self, attention: LayerAttention, place: VideoPlace, video: MergedVideo
    ) -> VideoSelection:
        return VideoSelection(None, torch.arange(0, device=video.tokens.device))
