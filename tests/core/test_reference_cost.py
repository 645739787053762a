"""The reference on a CPU: what it holds in memory, how exact its distances are, which gradients
pass, and that no default device of the caller's reaches into it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from prunevid_kernels import PruneVidConfig, TokenLayout, reference
from prunevid_kernels.benchmarks.cost.kernels.cases import video_features

BUDGET = PruneVidConfig(budget=37)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------
# Memory
# ------------------------------------------------------------------------------------------------


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes of tensors that one call holds at a time, its output included.

    Torch's allocator reports every allocation and release, those inside operators too.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        output = work()
    del output
    held = peak = 0
    events = profiled.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def test_peak_is_seen() -> None:
    def work() -> Tensor:
        scratch = torch.ones(1000, dtype=torch.float64)  # and its sum, and the conversion of that
        return scratch.sum().float()

    assert 8000 < peak_bytes(work) < 8500


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["scenes", "still", "moving"])
def test_merge_holds_little_beyond_its_features(kind: str, dtype: torch.dtype) -> None:
    """2.5 times the features at most, output included; one conversion of bfloat16 to float32 is 2
    already."""
    x = {
        "scenes": lambda: video_features(24, 64, 512, seed=0),
        "still": lambda: noise(1, 64, 512).repeat(24, 1, 1) + 0.1 * noise(24, 64, 512),
        "moving": lambda: noise(24, 64, 512),
    }[kind]().to(dtype)
    config = PruneVidConfig()
    assert reference.merge_video(x, config).layout.num_merged >= 32
    features_bytes = x.numel() * x.element_size()
    assert peak_bytes(lambda: reference.merge_videos(x, [24], config)) <= 2.5 * features_bytes


def test_keys_are_not_repeated_for_the_query_heads_that_share_them() -> None:
    query, key = noise(1, 28, 2, 64), noise(1, 4, 900, 64)
    repeated_bytes = 7 * key.numel() * 4
    peak = peak_bytes(
        lambda: reference.score_visual_tokens(query, key, slice(5, 800), 0.1, 8, None)
    )
    assert peak < repeated_bytes / 2


def test_query_heads_that_share_a_key_head() -> None:
    """Rows are put together by key head and taken apart again: head 5 of 6 reads key head 1 of 2,
    and each of its rows has its own causal bound."""
    query, key = noise(2, 6, 3, 16), noise(2, 2, 20, 16, seed=1)
    key_mask = noise(2, 20, seed=2) > -0.5
    scores = reference.score_visual_tokens(query, key, slice(0, 20), 0.3, 15, key_mask)
    expected = torch.zeros(2, 20)
    for batch in range(2):
        for head in range(6):
            for row in range(3):
                sees = key_mask[batch] & (torch.arange(20) <= 15 + row)
                logits = 0.3 * key[batch, head // 3] @ query[batch, head, row]
                attention = logits.masked_fill(~sees, -torch.inf).softmax(dim=0)
                expected[batch] = torch.maximum(expected[batch], attention)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------
# Distances
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "spread"), [(1353.0, 0.02), (6760.0, 0.1)])
def test_massive_channels_do_not_drown_distances(norm: float, spread: float) -> None:
    """Four channels that are large in every token, as vision towers have them, and tokens that are
    nearly equal: distances are a few float32 steps from float64's, and so no cluster changes."""
    points = noise(20, 512).repeat_interleave(5, dim=0) + spread * noise(100, 512, seed=1)
    points[:, [3, 77, 200, 410]] += norm / 2
    distance = reference.point_distances(points[None])
    exact = reference.point_distances(points[None].double())
    torch.testing.assert_close(distance.double(), exact, rtol=2e-6, atol=0.0)
    labels = reference.cluster_points(points, 50, 7).labels
    assert torch.equal(labels, reference.cluster_points(points.double(), 50, 7).labels)


def test_equal_points_are_at_distance_zero() -> None:
    points = noise(9, 4099).repeat(11, 1)
    first, second = torch.triu_indices(99, 99, offset=1)
    same = first % 9 == second % 9
    assert torch.equal(reference.point_distances(points[None])[0] == 0, same)


@pytest.mark.parametrize("n", [1, 2])
def test_one_and_two_points(n: int) -> None:
    points = torch.tensor([[3.0, 0.0], [0.0, 4.0]])[:n]
    expected = torch.full((1, n - 1), 5 / 2**0.5)
    torch.testing.assert_close(reference.point_distances(points[None]), expected)


# ------------------------------------------------------------------------------------------------
# Gradients
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [PruneVidConfig(), BUDGET, PruneVidConfig(budget=5)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_gradients_flow_through_the_means(config: PruneVidConfig, dtype: torch.dtype) -> None:
    """With the plan held constant, a source has a ``1 / merged_count`` part of its merged token: at
    any budget, also where groups share a token."""
    x = noise(8, 20, 6).to(dtype).requires_grad_()
    merged = reference.merge_video(x, config)
    weight = noise(*merged.tokens.shape, seed=1).to(dtype)
    (gradient,) = torch.autograd.grad(merged.tokens, x, weight)
    layout = merged.layout
    parts = weight.float() / layout.merged_count[:, None]
    assert (layout.source_to_merged >= 0).all()
    expected = parts[layout.source_to_merged]
    torch.testing.assert_close(gradient.float(), expected, rtol=2.0**-8, atol=0.0)


def test_gradients_of_means_are_right() -> None:
    x = noise(5, 16, 3).double().requires_grad_()
    layout = reference.merge_video(x, PruneVidConfig()).layout

    def average(features: Tensor) -> Tensor:
        return reference.average_sources(features, layout.source_to_merged, layout.merged_count)

    assert torch.autograd.gradcheck(average, x)


def test_decisions_leave_no_graph() -> None:
    x = noise(8, 20, 6).requires_grad_()
    layout = reference.merge_video(x, PruneVidConfig()).layout
    plan = reference.plan_merge(x, PruneVidConfig())
    for value in (*vars(layout).values(), plan.source_to_merged, plan.center_position):
        assert not value.requires_grad


# ------------------------------------------------------------------------------------------------
# Devices
# ------------------------------------------------------------------------------------------------


def test_means_on_another_device_are_added_in_order() -> None:
    """The branch that a GPU takes, on a device without memory: one row for each merged token, in
    the features' dtype."""
    x = torch.empty((4, 6, 8), dtype=torch.bfloat16, device="meta")
    targets = torch.empty((4, 6), dtype=torch.int64, device="meta")
    count = torch.empty((5,), dtype=torch.int64, device="meta")
    tokens = reference.average_sources(x, targets, count)
    assert (tokens.shape, tokens.dtype) == ((5, 8), torch.bfloat16)
    total = torch.zeros(6, 8)
    values, target = noise(40, 8), torch.arange(40) % 6
    in_order = total.index_put((target,), values, accumulate=True)
    assert torch.equal(in_order, total.index_add(0, target, values))


@pytest.fixture
def other_default_device():  # type: ignore[no-untyped-def]
    """What ``torch.set_default_device`` of another device does, without a GPU: a tensor made
    without a device has no memory, and meets no tensor on the CPU."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("config", [PruneVidConfig(), BUDGET], ids=["threshold", "budget"])
def test_default_device_reaches_no_merge(
    config: PruneVidConfig, other_default_device: None
) -> None:
    x = torch.randn(9, 20, 6, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    layout = reference.merge_videos(x, [9], config)[0].layout
    for value in vars(layout).values():
        assert value.is_cpu
    assert layout.static_mask().is_cpu
    assert layout.frame_segments().is_cpu and layout.merged_groups().is_cpu
    scores = torch.zeros(layout.num_merged, device="cpu")
    assert reference.select_tokens(scores, layout, config).is_cpu


def test_default_device_reaches_no_layout(other_default_device: None) -> None:
    cpu = torch.device("cpu")
    identity = TokenLayout.identity(3, 4, cpu)
    rows = torch.tensor([[0, 0, 1], [0, 0, 0], [4, 4, 4]], device=cpu)
    deferred = TokenLayout.deferred(
        *rows,
        source_to_merged=identity.source_to_merged,
        merged_anchor=identity.merged_anchor,
        merged_count=identity.merged_count,
    )
    assert deferred.segment_lengths.tolist() == [2, 1]
    assert identity.segment_lengths.tolist() == [3]
    for layout in (identity, deferred):
        assert layout.static_sizes().is_cpu and layout.dynamic_sizes().is_cpu


def test_default_device_reaches_no_clusters_and_no_scores(other_default_device: None) -> None:
    points = torch.zeros(2, 9, 4, device="cpu")
    labels, centers, density, score = reference.dpc_knn(points, 3, 2, [9, 5])
    assert labels.is_cpu and centers.is_cpu and density.is_cpu and score.is_cpu
    query, key = torch.zeros(1, 2, 3, 4, device="cpu"), torch.zeros(1, 2, 5, 4, device="cpu")
    assert reference.score_visual_tokens(query, key, slice(0, 4), 0.5, 2, None).is_cpu
