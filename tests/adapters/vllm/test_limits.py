"""What the plugin refuses before a worker sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prunevid_kernels.adapters.vllm.guard.limits import (
    MAX_POINTS,
    POSITIONS,
    check_media,
    check_positions,
    check_size,
    check_timestamps,
    positions_of_a_video,
)
from prunevid_kernels.adapters.vllm.merging import merge_within
from prunevid_kernels.adapters.vllm.settings import checked_retain
from prunevid_kernels.kernels import _device

pytestmark = pytest.mark.one_version
NAN, INF = float("nan"), float("inf")


def config(**vision: Any) -> SimpleNamespace:
    """Of a model with grids: patches of 2 x 2 pixels and 2 frames, 2 x 2 of them a token."""
    sizes = {"spatial_merge_size": 2, "temporal_patch_size": 2, "patch_size": 2, "in_channels": 3}
    return SimpleNamespace(
        vision_config=SimpleNamespace(**sizes | vision),
        get_text_config=lambda: SimpleNamespace(hidden_size=8),
    )


def embedded(values: Any = None, grid: Any = (3, 4, 2), **more: Any) -> dict[str, Any]:
    """One video's embeddings: 3 frames of 2 tokens."""
    tokens = torch.randn(6, 8) if values is None else values
    return {"video_embeds": tokens, "video_grid_thw": torch.tensor([grid]), **more}


def pixels(rows: int = 24, width: int = 24, value: float = 0.0) -> dict[str, Any]:
    """One video's patches: 3 x 4 x 2 of 3 channels, 2 frames, 2 x 2 pixels."""
    values = torch.zeros(rows, width)
    values[-1, -1] = value
    return {"pixel_values_videos": values, "video_grid_thw": torch.tensor([[3, 4, 2]])}


def test_what_a_tower_takes_passes() -> None:
    check_media({}, config())
    check_media(embedded(), config())
    check_media(embedded(second_per_grid_ts=[0.5]), config())
    check_media(embedded(second_per_grid_ts=torch.tensor([[0.5]])), config())
    check_media(pixels(), config())
    check_media(embedded(torch.randn(6, 24)), config(deepstack_visual_indexes=[1, 2]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(embedded(torch.full((6, 8), NAN)), "video_embeds must be finite", id="nan"),
        pytest.param(pixels(value=-INF), "pixel_values_videos must be finite", id="infinite-pixel"),
        pytest.param(
            embedded(torch.zeros(5, 8)), r"video_embeds must be \[6, 8\].*\[5, 8\]", id="few"
        ),
        pytest.param(embedded(torch.zeros(6, 9)), r"video_embeds must be \[6, 8\]", id="width"),
        pytest.param(embedded(torch.zeros(6)), r"video_embeds must be \[6, 8\]", id="one-axis"),
        pytest.param(
            embedded(torch.zeros(6, 8, dtype=torch.int64)),
            "video_embeds must hold floats",
            id="int",
        ),
        pytest.param(embedded(grid=(3, 4)), r"video_grid_thw must be \[items, 3\]", id="two-axes"),
        pytest.param(
            embedded(grid=(-3, 4, -2)), "video_grid_thw must hold frames >= 1", id="negative"
        ),
        pytest.param(embedded(grid=(0, 4, 2)), "video_grid_thw must hold frames", id="no-frame"),
        pytest.param(embedded(grid=(3, 3, 2)), "in multiples of 2", id="odd-rows"),
        pytest.param(embedded(grid=(3.0, 4.0, 2.0)), "must hold integers", id="float-grid"),
        pytest.param(
            embedded(grid=(2**40, 2**20, 2**20)), "video_embeds must be .3022314549", id="overflow"
        ),
        pytest.param(
            pixels(width=12), r"pixel_values_videos must be \[24, 24\].*12\]", id="patch-size"
        ),
        pytest.param(pixels(rows=20), r"pixel_values_videos must be \[24, 24\]", id="patches"),
        pytest.param(
            embedded(second_per_grid_ts=[NAN]), "second_per_grid_ts must be positive", id="nan-s"
        ),
        pytest.param(
            embedded(second_per_grid_ts=[INF]), "second_per_grid_ts must be positive", id="inf-s"
        ),
        pytest.param(embedded(second_per_grid_ts=[-1.0]), "positive and finite", id="negative-s"),
        pytest.param(
            embedded(second_per_grid_ts=[1.0, 1.0]), "must have one entry a video", id="two-s"
        ),
    ],
)
def test_what_a_tower_does_not_take_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_media(data, config())


def test_pictures_have_the_size_of_a_tower_without_grids() -> None:
    plain = SimpleNamespace(vision_config=SimpleNamespace(image_size=14))
    check_media({"pixel_values_videos": [torch.zeros(5, 3, 14, 14)]}, plain)
    check_media({"pixel_values": torch.zeros(2, 5, 3, 14, 14)}, plain)
    for field, shape in (("pixel_values_videos", (5, 3, 7, 7)), ("pixel_values", (0, 3, 14, 14))):
        with pytest.raises(ValueError, match=rf"{field} must be \[pictures, 3, 14, 14\]"):
            check_media({field: [torch.zeros(shape)]}, plain)
    with pytest.raises(ValueError, match="video_embeds must come with video_grid_thw"):
        check_media({"video_embeds": torch.zeros(6, 8)}, plain)


def test_the_kernels_limits() -> None:
    assert MAX_POINTS == _device.MAX_POINTS
    check_size(MAX_POINTS, MAX_POINTS)
    with pytest.raises(ValueError, match="video must have at most 4096 frames to be.*got 4097"):
        check_size(MAX_POINTS + 1, 1)
    with pytest.raises(ValueError, match="at most 4096 tokens a frame to be merged, got 5000"):
        check_size(1, 5000)


def test_a_video_lasts_as_long_as_positions_reach() -> None:
    nine_hours = 9 * 3600
    check_positions([2], [nine_hours], 2.0, POSITIONS)
    check_positions([nine_hours * 2], [0.5], 2.0, POSITIONS)
    with pytest.raises(ValueError, match=r"second_per_grid_ts: a video must last at most 9\.1 h"):
        check_positions([2, 2], [1.0, 10 * 3600], 2.0, POSITIONS)
    with pytest.raises(ValueError, match="65536 positions at 2 a second"):
        check_positions([32770], [1.0], 2.0, POSITIONS)


def test_every_frame_has_a_timestamp() -> None:
    check_timestamps([[0.5, 1.5], torch.tensor([0.5])], [2, 1])
    for timestamps in (None, [], [[0.5, 1.5]], [[0.5], [0.5]]):
        with pytest.raises(ValueError, match=r"timestamps must be as many.*\[2, 1\]"):
            check_timestamps(timestamps, [2, 1])


@pytest.mark.parametrize("bad", [NAN, INF, -0.5])
def test_timestamps_are_times(bad: float) -> None:
    for timestamps in ([[0.5, bad]], [torch.tensor([0.5, bad])]):
        with pytest.raises(ValueError, match="timestamps must be finite and not negative"):
            check_timestamps(timestamps, [2])
    check_timestamps([[0.0, 0.5]], [2])


def test_all_videos_of_a_prompt_fit_the_rotary_table() -> None:
    assert positions_of_a_video(0, 131072, 4096) == POSITIONS
    assert positions_of_a_video(1, 131072, 4096) == POSITIONS
    assert positions_of_a_video(2, 131072, 4096) == 63488
    assert positions_of_a_video(3, 131072, 4096) * 3 + 4096 <= 131072
    assert positions_of_a_video(9, 4096, 4096) == 0


@pytest.mark.parametrize("value", [10**400, -(10**400), 10**5000], ids=["big", "small", "huge"])
def test_a_share_too_large_for_a_float_is_out_of_range(value: int) -> None:
    with pytest.raises(ValueError, match=r"retain must be a share in \(0, 1\], got an integer of"):
        checked_retain(value, "retain")


def test_what_a_message_repeats_is_short() -> None:
    with pytest.raises(ValueError) as caught:
        checked_retain(["x" * 10**6], "retain")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("bad", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize("tokens", [5, 24], ids=["merged", "all"])
def test_features_that_are_not_finite_raise_nothing_and_are_seen(bad: float, tokens: int) -> None:
    features = torch.randn(3, 8, 16)
    features[1, 2, 3] = bad
    merged = merge_within(features, tokens)
    assert merged.tokens.shape == (tokens, 16)
    assert not merged.tokens.isfinite().all()
    if tokens < 24:
        assert merged.tokens.isnan().all()
    assert merged.layout.merged_anchor.shape == (tokens,)
    assert 0 <= merged.layout.merged_anchor.min() and merged.layout.merged_anchor.max() < 24


def test_what_is_kept_whole_has_no_limit_and_its_own_places() -> None:
    features = torch.randn(2, MAX_POINTS + 4, 4)
    merged = merge_within(features, 2 * (MAX_POINTS + 4))
    assert torch.equal(merged.tokens, features.flatten(0, 1))
    assert torch.equal(merged.layout.merged_anchor, torch.arange(2 * (MAX_POINTS + 4)))
    assert torch.equal(merged.layout.source_to_merged.flatten(), merged.layout.merged_anchor)
    assert merged.layout.group_sizes.sum() == 2 * (MAX_POINTS + 4)
