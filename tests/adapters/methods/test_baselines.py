"""Downsampling and fewer frames: which tokens go into the decoder."""

from __future__ import annotations

import pytest
import torch
from families import LLAVA_ONEVISION, PLLAVA, ST_LLM

from prunevid_kernels.adapters import apply_method
from prunevid_kernels.adapters.methods.baselines.downsample import Downsample, smaller_grid
from prunevid_kernels.adapters.methods.baselines.fewer_frames import FewerFrames, spread_frames


@pytest.mark.parametrize(
    ("grid", "budget", "expected"),
    [
        ((14, 14), 49, (7, 7)),
        ((14, 14), 39, (6, 6)),
        ((14, 14), 20, (5, 4)),
        ((14, 14), 19, (4, 4)),
        ((12, 12), 14, (4, 3)),
        ((3, 5), 1, (1, 1)),
        ((3, 5), 15, (3, 5)),
        ((1, 7), 3, (1, 3)),
    ],
)
def test_the_grid_of_a_budget(grid, budget, expected):
    assert smaller_grid(*grid, budget) == expected


def test_each_token_is_the_mean_of_its_rectangle():
    x = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    merged = Downsample(0.4, grid=(2, 3)).merge_video(x)  # 7 tokens: 2, 2 and 3
    frame = x.float().unflatten(1, (2, 3))
    columns = [
        torch.stack((own[:, :2].mean((0, 1)), own[:, 2].mean(0)))  # two columns, and one
        for own in frame[:2]
    ]
    expected = [*columns, frame[2].mean(0)]
    assert (merged.tokens.float() - torch.cat(expected)).abs().max() <= 0.01
    layout = merged.layout
    assert layout.group_sizes.tolist() == [0, 2, 2, 3]
    assert layout.merged_anchor.tolist() == [0, 2, 6, 8, 12, 13, 14]
    assert layout.merged_count.tolist() == [4, 2, 4, 2, 2, 2, 2]
    assert layout.source_to_merged.tolist() == [
        [0, 0, 1, 0, 0, 1],
        [2, 2, 3, 2, 2, 3],
        [4, 5, 6, 4, 5, 6],
    ]


def test_downsampling_needs_a_grid():
    x = torch.ones(2, 6, 3)
    with pytest.raises(ValueError, match="needs the option grid"):
        Downsample().merge_video(x)
    with pytest.raises(ValueError, match="grid must hold a frame's 6 tokens, got 2 x 2"):
        Downsample(grid=(2, 2)).merge_video(x)
    with pytest.raises(ValueError, match=r"grid must be \[rows, columns\], got \[2\]"):
        Downsample(grid=[2])
    with pytest.raises(ValueError, match="has no grid in which the tokens"):
        apply_method(ST_LLM.build(), "downsample", {})


@pytest.mark.parametrize("family", [LLAVA_ONEVISION, PLLAVA], ids=["llava_onevision", "pllava"])
def test_the_model_says_its_grid(family):
    model, inputs = family.build(), family.question()
    with apply_method(model, "downsample", {"ratio": 0.3}) as handle:
        model(**inputs)
    for video in handle.report.last.videos:
        width = video.layout.tokens_per_frame
        side = round(width**0.5)
        counts = video.layout.merged_count
        assert counts.sum() == video.tokens_before
        assert video.tokens_kept <= max(video.layout.num_frames, 0.3 * video.tokens_before)
        budget = int(video.tokens_before * 0.3) // video.layout.num_frames
        rows, columns = smaller_grid(side, side, budget)
        assert video.layout.group_sizes[1] == rows * columns


@pytest.mark.parametrize(
    ("frames", "width", "ratio", "expected"),
    [
        (32, 196, 0.25, [*range(2, 32, 4)]),
        (8, 10, 0.3, [2, 6]),
        (5, 4, 0.1, [2]),
        (3, 7, 1.0, [0, 1, 2]),
    ],
)
def test_fewer_frames_are_spread(frames, width, ratio, expected):
    assert spread_frames(frames, width, ratio) == expected
    exact = [int((i + 0.5) * frames / len(expected)) for i in range(len(expected))]
    assert exact == expected
    x = torch.randn(frames, width, 3, generator=torch.Generator().manual_seed(0))
    assert FewerFrames(ratio).merge_video(x).tokens.equal(x[expected].flatten(0, 1))
