"""Whole models in float64, pruned as always, so that what is left of a difference is not rounding.

The core takes at most float32. Decisions are made of features and queries rounded to that; tokens
are averaged, gathered and run through the model in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_kernels import MergedVideo, TokenLayout, compact, merge_videos, score_visual_tokens
from prunevid_kernels.adapters.engine import cache, layer_attention, prefill
from prunevid_kernels.adapters.engine.prompt import planes
from prunevid_kernels.adapters.methods import prunevid


def doubled(model: Any) -> Any:
    """A copy of the model in float64."""
    copy = deepcopy(model).double()
    copy.get_decoder().config._experts_implementation = "eager"  # the only one in float64
    return copy


def of_doubles(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs, pixels in float64."""
    return {
        name: value.double() if name.startswith("pixel_values") else value
        for name, value in inputs.items()
    }


def take_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine and PruneVid take float64."""
    monkeypatch.setattr(prunevid, "merge_videos", _merge)
    monkeypatch.setattr(planes, "apply_layout", _means)
    monkeypatch.setattr(layer_attention, "score_visual_tokens", _score)
    for module in (prefill, cache):
        monkeypatch.setattr(module, "compact", _compact)


def _merge(features: Tensor, frames: Sequence[int], config: Any) -> list[MergedVideo]:
    merged = merge_videos(features.float(), frames, config)
    videos = features.split(list(frames))
    return [
        replace(one, tokens=_means(video, one.layout))
        for one, video in zip(merged, videos, strict=True)
    ]


def _means(features: Tensor, layout: TokenLayout) -> Tensor:
    sums = features.new_zeros(layout.num_merged, features.shape[-1])
    sums.index_add_(0, layout.source_to_merged.flatten(), features.flatten(0, 1))
    return sums / layout.merged_count[:, None]


def _score(query: Tensor, key: Tensor, *args: Any, **options: Any) -> Tensor:
    return score_visual_tokens(query.float(), key.float(), *args, **options)


def _compact(tensors: Sequence[Tensor], index: Tensor, *, dim: int) -> list[Tensor]:
    """A double is moved as two floats."""
    pairs = [tensor.contiguous().view(torch.float32) for tensor in tensors]
    return [tensor.view(torch.float64) for tensor in compact(pairs, index, dim=dim)]
