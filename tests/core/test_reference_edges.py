"""The cases that the authors' code leaves undefined, each as ``reference`` defines it, in both
implementations."""

from __future__ import annotations

import pytest
import torch
from oracle import assert_averages, assert_decisions, assert_invariants, same_layout
from torch import Tensor

from prunevid_kernels import (
    MergedVideo,
    PruneVidConfig,
    dpc_knn,
    merge_video,
    merge_videos,
    segment_frames,
    select_tokens,
)

pytestmark = pytest.mark.parametrize("impl", ["reference", "triton"])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def merged(x: Tensor, impl: str, **config: float) -> MergedVideo:
    """The merge of x, whose invariants hold and whose layout is the reference's."""
    settings = PruneVidConfig(**config)
    result = merge_video(x, settings, impl=impl)
    assert_invariants(x, settings, result)
    assert same_layout(result.layout, merge_video(x, settings, impl="reference").layout)
    return result


# ------------------------------------------------------------------------------------------------
# Few frames, few tokens, few clusters
# ------------------------------------------------------------------------------------------------


@pytest.mark.sample(3)
@pytest.mark.parametrize("frames", [2, 3, 6])
def test_fewer_frames_than_neighbors(impl: str, frames: int) -> None:
    x = noise(frames, 20, 24)
    result = merged(x, impl, segment_ratio=0.5)
    assert_averages(x, result, error=1e-6)
    labels = dpc_knn(x.mean(dim=1)[None], 1, num_neighbors=7, impl=impl)
    all_points = dpc_knn(x.mean(dim=1)[None], 1, num_neighbors=frames, impl=impl)
    assert torch.equal(labels.density, all_points.density)


@pytest.mark.parametrize("frames", [2, 3])
def test_no_whole_temporal_cluster_is_one_segment(impl: str, frames: int) -> None:
    assert int(frames * 0.25) == 0
    layout = merged(noise(frames, 4, 6), impl, segment_ratio=0.25).layout
    assert layout.segment_lengths.tolist() == [frames]


@pytest.mark.parametrize("tokens", [1, 14, 15, 33])
def test_one_frame_is_one_dynamic_segment(impl: str, tokens: int) -> None:
    x = noise(1, tokens, 10)
    layout = merged(x, impl).layout
    assert layout.segment_lengths.tolist() == [1]
    assert not layout.static_mask().any()
    assert layout.group_sizes.tolist() == [0, tokens if tokens <= 14 else tokens // 2]


def test_segments_are_never_single_frames(impl: str) -> None:
    """Ten frames that have nothing to do with each other, as many clusters as frames, and less."""
    for ratio in (0.25, 0.5, 1.0):
        segments = segment_frames(noise(10, 5), PruneVidConfig(segment_ratio=ratio), impl=impl)
        assert torch.bincount(segments).min() >= 2


def test_one_cluster_a_frame_is_one_segment(impl: str) -> None:
    layout = merged(noise(9, 3, 5), impl, segment_ratio=1.0).layout
    assert layout.segment_lengths.tolist() == [9]


def test_one_token_a_frame(impl: str) -> None:
    x = noise(9, 1, 12)
    result = merged(x, impl)
    assert not result.layout.static_mask().any()
    assert torch.equal(result.tokens, x[:, 0])
    still = merged(noise(1, 1, 12).expand(9, 1, 12), impl)
    assert still.tokens.shape == (1, 12)
    assert still.layout.static_mask().all()


def test_one_channel(impl: str) -> None:
    x = noise(8, 18, 1)
    x[1:, ::2] = x[:1, ::2]
    # The cosine of two numbers is the sign of their product.
    result = merged(x, impl, segment_ratio=0.1)
    signs = x.sign()
    is_static = (signs == signs[0]).all(dim=(0, 2))
    assert is_static.any() and not is_static.all()
    assert torch.equal(result.layout.static_mask(), is_static.expand(8, 18))


def test_no_whole_cluster_is_one_cluster(impl: str) -> None:
    assert int(16 * 0.05) == 0
    x = noise(4, 16, 8)
    layout = merged(x, impl, cluster_ratio=0.05, tau=0.99).layout
    assert layout.group_sizes.tolist() == [0, 1, 1, 1, 1]


def test_ratios_are_cut_in_double_precision(impl: str) -> None:
    assert int(100 * 0.29) == 28
    layout = merged(noise(1, 100, 6), impl, cluster_ratio=0.29).layout
    assert layout.num_merged == 28


def test_cluster_ratio_of_one_merges_nothing(impl: str) -> None:
    x = noise(3, 20, 8)
    result = merged(x, impl, cluster_ratio=1.0, tau=0.99)
    assert (result.layout.merged_count == 1).all()
    assert torch.equal(result.tokens, x.flatten(0, 1)[result.layout.merged_anchor])


# ------------------------------------------------------------------------------------------------
# All static, all dynamic, empty groups
# ------------------------------------------------------------------------------------------------


def test_identical_frames_are_one_static_segment(impl: str) -> None:
    x = noise(1, 30, 16).expand(12, 30, 16)
    result = merged(x, impl)
    assert result.layout.segment_lengths.tolist() == [12]
    assert result.layout.group_sizes.tolist() == [15] + [0] * 12
    assert_averages(x, result, error=1e-6)


def test_everything_dynamic(impl: str) -> None:
    layout = merged(noise(8, 30, 16), impl, tau=0.99).layout
    assert not layout.static_mask().any()
    assert layout.static_sizes().sum() == 0
    assert layout.num_merged == 8 * 15


def test_empty_groups_stay_empty_in_the_selection(impl: str) -> None:
    config = PruneVidConfig(keep_ratio=0.4)
    for x in (noise(1, 30, 16).expand(6, 30, 16), noise(6, 30, 16)):
        layout = merged(x, impl).layout
        kept = select_tokens(noise(layout.num_merged, seed=1), layout, config)
        assert (layout.group_sizes == 0).any()
        sizes = [int(size * 0.4) for size in layout.group_sizes.tolist()]
        assert torch.bincount(layout.merged_groups()[kept], minlength=7).tolist() == sizes


@pytest.mark.parametrize("zero", [0.0, -0.0], ids=["zero", "minus-zero"])
def test_all_zero_is_dynamic(impl: str, zero: float) -> None:
    result = merged(torch.full((6, 20, 8), zero), impl)
    assert result.layout.segment_lengths.tolist() == [6]
    assert not result.layout.static_mask().any()
    assert (result.tokens == 0).all()


def test_sign_of_zero_decides_nothing(impl: str) -> None:
    x = noise(8, 20, 12).round()
    flipped = torch.where(x == 0, -x, x)
    assert torch.signbit(flipped[x == 0]).any()
    assert same_layout(merged(x, impl).layout, merged(flipped, impl).layout)


def test_rounding_decides_at_a_threshold_of_one(impl: str) -> None:
    """No cosine exceeds 1 but by rounding: whatever comes out, it is within that."""
    x, config = noise(1, 30, 16).expand(6, 30, 16), PruneVidConfig(tau=1.0)
    result = merge_video(x, config, impl=impl)
    assert_invariants(x, config, result)
    assert_decisions(x, config, result.layout, impl=impl)


def test_exactly_still_scenes_are_segments(impl: str) -> None:
    """Equal frames tie in everything; the lower index wins, so that scenes are found."""
    scenes = noise(3, 20, 16).repeat_interleave(torch.tensor([4, 7, 5]), dim=0)
    layout = merged(scenes, impl).layout
    assert layout.segment_lengths.tolist() == [4, 7, 5]
    assert layout.static_mask().all()


def test_equal_tokens_go_to_the_lowest_center(impl: str) -> None:
    x = torch.ones(1, 20, 4)
    layout = merged(x, impl).layout
    # All scores are 0, so the first ten tokens are centres; the others join the first of them.
    assert layout.source_to_merged[0].tolist() == [*range(10), *[0] * 10]


# ------------------------------------------------------------------------------------------------
# Values at the ends of the number range
# ------------------------------------------------------------------------------------------------


@pytest.mark.sample(5)
@pytest.mark.parametrize("scale", [1e30, 1e-30], ids=["huge", "tiny"])
@pytest.mark.parametrize("shape", [(8, 20, 12), (1, 30, 5), (3, 1, 7)], ids=str)
def test_extreme_magnitudes(impl: str, shape: tuple[int, ...], scale: float) -> None:
    """Squares overflow or vanish; still each token lands in one merged token, their finite mean."""
    x = noise(*shape) * scale
    config = PruneVidConfig()
    result = merge_video(x, config, impl=impl)
    assert_invariants(x, config, result)
    assert_averages(x, result, error=1e-6)
    assert result.tokens.isfinite().all()


def test_extreme_magnitudes_in_float16(impl: str) -> None:
    x = (noise(6, 20, 12) * 2e4).clamp(-6e4, 6e4).half()
    assert_averages(x, merged(x, impl), error=2.0**-11)


# ------------------------------------------------------------------------------------------------
# Features that are not finite
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (float("nan"), torch.float32),
        (float("inf"), torch.float32),
        (float("-inf"), torch.bfloat16),
        (float("nan"), torch.float16),
    ],
    ids=str,
)
def test_not_finite(impl: str, value: float, dtype: torch.dtype) -> None:
    x = noise(7, 5, 9).to(dtype)
    x[4, 2, 8] = value
    x[6] = value
    with pytest.raises(ValueError, match=r"features must be finite: video 0, frame 4 "):
        merge_video(x, PruneVidConfig(), impl=impl)


def test_not_finite_in_a_later_video(impl: str) -> None:
    x = noise(9, 2, 200)
    x[8, 1, 199] = float("nan")
    with pytest.raises(ValueError, match=r"features must be finite: video 2, frame 3 "):
        merge_videos(x, [3, 2, 4], PruneVidConfig(), impl=impl)
    x[1, 0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"features must be finite: video 0, frame 1 "):
        merge_videos(x, [3, 2, 4], PruneVidConfig(), impl=impl)
