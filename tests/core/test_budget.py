"""Budget mode: exactly K merged tokens, same structure as threshold mode, kernels equal to the
reference."""

import pytest
import torch
from torch import Tensor

from prunevid_kernels import (
    MergedVideo,
    PruneVidConfig,
    TokenLayout,
    budget_tokens,
    merge_video,
    merge_videos,
)
from prunevid_kernels.reference import spend_budget

HOST_FIELDS = ("segment_lengths", "group_sizes", "group_is_static", "group_segment")
DEVICE_FIELDS = ("source_to_merged", "merged_anchor", "merged_count")


def scenes(frames: int, tokens: int, channels: int, *, seed: int, moving: float = 0.4) -> Tensor:
    """Scenes of three frames; a share of the positions moves, the others hold still but for
    noise."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn((frames // 3 + 1, tokens, channels), generator=generator)
    moves = torch.rand((1, tokens, 1), generator=generator) < moving
    noise = torch.randn((frames, tokens, channels), generator=generator)
    return scene[torch.arange(frames) // 3] + noise * torch.where(moves, 0.7, 0.05)


def assert_same(video: MergedVideo, expected: MergedVideo) -> None:
    for name in HOST_FIELDS + DEVICE_FIELDS:
        found, wanted = getattr(video.layout, name), getattr(expected.layout, name)
        assert found.dtype == wanted.dtype, name
        assert torch.equal(found, wanted), name
    torch.testing.assert_close(video.tokens, expected.tokens, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("frames", "tokens", "retain", "expected"),
    [
        pytest.param(32, 196, 0.17, 1066, id="share"),  # 1066.24
        pytest.param(4, 25, 0.29, 28, id="product-in-double-precision"),  # 28.999999999999996
        pytest.param(5, 1, 0.5, 2, id="no-bankers-rounding"),
        pytest.param(3, 7, 0.001, 1, id="at-least-one"),
        pytest.param(3, 7, 1.0, 21, id="everything"),
        pytest.param(3, 7, 20, 20, id="count"),
        pytest.param(3, 7, 99, 21, id="more-than-there-is"),
    ],
)
def test_budget_tokens(frames: int, tokens: int, retain: float, expected: int) -> None:
    assert budget_tokens(frames, tokens, retain) == expected


@pytest.mark.parametrize(
    ("retain", "error"),
    [(0, ValueError), (-3, ValueError), (0.0, ValueError), (1.5, ValueError), (True, TypeError)],
    ids=str,
)
def test_budget_tokens_refuses(retain: float, error: type[Exception]) -> None:
    with pytest.raises(error, match="retain"):
        budget_tokens(8, 10, retain)
    with pytest.raises(error, match="budget"):
        PruneVidConfig(budget=retain)


def test_spending_passes_through_the_threshold_counts_and_never_leaves_the_bounds() -> None:
    counts, sizes, capacities = [5, 0, 14, 8, 1], [10, 0, 14, 17, 1], [40, 0, 14, 17, 3]
    previous = [1, 0, 1, 1, 1]
    for budget in range(4, sum(capacities) + 1):
        spent = spend_budget(budget, counts, sizes, capacities)
        assert sum(spent) == budget
        assert all(0 <= s <= capacity for s, capacity in zip(spent, capacities, strict=True))
        assert all(s >= 1 for s, size in zip(spent, sizes, strict=True) if size)
        # Largest remainders are not monotone; no group may fall back by more than its rounding.
        assert all(s >= p - 1 for s, p in zip(spent, previous, strict=True))
        previous = spent
    assert spend_budget(sum(counts), counts, sizes, capacities) == counts
    assert spend_budget(sum(sizes), counts, sizes, capacities) == sizes
    assert spend_budget(sum(capacities), counts, sizes, capacities) == capacities


@pytest.mark.sample(7)
@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize("budget", [1, 2, 7, 19, 60, 0.35, 150, 239], ids=str)
def test_gives_exactly_the_budget_and_averages_by_the_map(budget: float, impl: str) -> None:
    x = scenes(12, 20, 16, seed=1)
    video = merge_video(x, PruneVidConfig(budget=budget), impl=impl)
    expected = budget_tokens(12, 20, budget)
    layout = video.layout
    assert video.tokens.shape == (expected, 16)
    assert layout.num_merged == int(layout.group_sizes.sum()) == expected
    targets = layout.source_to_merged.flatten()
    assert int(targets.min()) == 0  # no token is left out
    assert int(targets.max()) == expected - 1
    assert torch.equal(torch.bincount(targets, minlength=expected), layout.merged_count)
    means = torch.zeros(expected, 16).index_add_(0, targets, x.view(-1, 16))
    means /= layout.merged_count[:, None]
    torch.testing.assert_close(video.tokens, means, rtol=1e-4, atol=1e-5)
    first = torch.full((expected,), len(targets)).scatter_reduce(
        0, targets, torch.arange(len(targets)), "amin"
    )
    assert torch.equal(layout.merged_anchor, first)


@pytest.mark.sample(2)
@pytest.mark.parametrize("budget", [3, 40, 90, 0.6], ids=str)
def test_structure_is_that_of_threshold_mode(budget: float) -> None:
    x = scenes(11, 24, 16, seed=2)
    threshold = merge_video(x, PruneVidConfig()).layout
    layout = merge_video(x, PruneVidConfig(budget=budget), impl="triton").layout
    for name in ("segment_lengths", "group_is_static", "group_segment"):
        assert torch.equal(getattr(layout, name), getattr(threshold, name))
    alone = torch.ones((11, 24), dtype=torch.bool)
    if budget == 3:  # less than one token a group: those whose token no other group shares
        alone = shares_of(threshold, 3)[1]
    assert torch.equal(layout.static_mask()[alone], threshold.static_mask()[alone])


def shares_of(threshold: TokenLayout, budget: int) -> tuple[Tensor, Tensor]:
    """By the definition, for a budget below the G groups that hold tokens: the token
    ``g * budget // G`` [T, N] of each source token's group g, and [T, N] whether no other group
    has it."""
    group = threshold.merged_groups()[threshold.source_to_merged]
    held = group.unique()
    token_of_group = torch.arange(len(held)) * budget // len(held)
    is_alone = torch.bincount(token_of_group) == 1
    tokens = token_of_group[torch.searchsorted(held, group)]
    return tokens, is_alone[tokens]


@pytest.mark.sample(3)
@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize(
    ("moving", "budgets"),
    [
        pytest.param(0.4, [1, 7], id="groups-of-both-kinds"),
        pytest.param(0.0, [1], id="nothing-moves"),
        pytest.param(1.0, [5], id="everything-moves"),
    ],
)
def test_a_budget_below_one_token_a_group_leaves_no_token_out(
    moving: float, budgets: list[int], impl: str
) -> None:
    x = scenes(8, 12, 8, seed=6, moving=moving)
    threshold = merge_video(x, PruneVidConfig(tau=0.6)).layout
    held = int((threshold.group_sizes > 0).sum())
    for budget in budgets:
        assert budget < held
        layout = merge_video(x, PruneVidConfig(tau=0.6, budget=budget), impl=impl).layout
        assert torch.equal(layout.source_to_merged, shares_of(threshold, budget)[0])
        assert layout.group_sizes.tolist().count(1) == budget
        assert int(layout.group_sizes.sum()) == budget
        assert bool((layout.group_sizes[threshold.group_sizes == 0] == 0).all())


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_groups_share_over_more_frames_than_a_block_of_tokens(impl: str) -> None:
    x = scenes(20, 2, 4, seed=7)
    threshold = merge_video(x, PruneVidConfig()).layout
    for budget in (1, 15):
        video = merge_video(x, PruneVidConfig(budget=budget), impl=impl)
        assert torch.equal(video.layout.source_to_merged, shares_of(threshold, budget)[0])
        if budget == 1:
            torch.testing.assert_close(video.tokens[0], x.mean(dim=(0, 1)))


def test_the_threshold_count_as_budget_gives_the_threshold_result() -> None:
    x = scenes(9, 40, 16, seed=3)
    threshold = merge_video(x, PruneVidConfig())
    for impl in ("reference", "triton"):
        config = PruneVidConfig(budget=threshold.layout.num_merged)
        assert_same(merge_video(x, config, impl=impl), threshold)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("budget", "dtype"),
    [(5, torch.float32), (30, torch.bfloat16), (0.5, torch.float16), (0.97, torch.float32)],
    ids=str,
)
def test_kernels_equal_the_reference_on_a_ragged_batch(budget: float, dtype: torch.dtype) -> None:
    frames = [1, 7, 2, 9]
    x = torch.cat([scenes(t, 21, 12, seed=t) for t in frames]).to(dtype)
    config = PruneVidConfig(budget=budget)
    batch = merge_videos(x, frames, config, impl="triton")
    reference = merge_videos(x, frames, config, impl="reference")
    for video, expected, alone in zip(batch, reference, x.split(frames), strict=True):
        for name in HOST_FIELDS + DEVICE_FIELDS:
            assert torch.equal(getattr(video.layout, name), getattr(expected.layout, name)), name
        error = (video.tokens.float() - expected.tokens.float()).abs().max()
        assert error <= 2 * torch.finfo(dtype).eps * x.float().abs().max()
        single = merge_video(alone, config, impl="triton")
        assert torch.equal(single.tokens, video.tokens)
        assert torch.equal(single.layout.source_to_merged, video.layout.source_to_merged)


@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize("budget", [60, 1000, 1.0], ids=str)
def test_room_for_everything_is_the_identity(budget: float, impl: str) -> None:
    x = scenes(6, 10, 8, seed=4)
    video = merge_video(x, PruneVidConfig(budget=budget), impl=impl)
    assert torch.equal(video.tokens, x.view(60, 8))
    assert torch.equal(video.layout.source_to_merged, torch.arange(60).view(6, 10))
    assert video.layout.merged_count.tolist() == [1] * 60


def test_a_batch_may_hold_videos_with_and_without_room() -> None:
    frames = [2, 9, 1]
    x = torch.cat([scenes(t, 15, 8, seed=10 + t) for t in frames])
    small, large, single = merge_videos(x, frames, PruneVidConfig(budget=31), impl="triton")
    assert torch.equal(small.tokens, x[:2].reshape(30, 8))
    assert torch.equal(single.tokens, x[11:].reshape(15, 8))
    assert_same(large, merge_video(x[2:11], PruneVidConfig(budget=31)))


def test_a_bad_frame_is_an_error_on_the_host_and_a_flag_on_the_device() -> None:
    x = scenes(8, 15, 8, seed=5)
    x[5, 3, 2] = float("nan")
    config = PruneVidConfig(budget=40)
    with pytest.raises(ValueError, match="video 0, frame 5"):
        merge_video(x, config, impl="reference")
    flag = merge_video(x, config, impl="triton").first_bad_frame
    assert flag is not None and flag.ndim == 0 and int(flag) == 5
    good = merge_video(scenes(8, 15, 8, seed=5), config, impl="triton").first_bad_frame
    assert good is not None and int(good) == 8
