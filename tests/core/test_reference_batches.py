"""The reference takes frames and groups many at a time: with the bits of one at a time, and few
calls of operators, however many groups there are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prunevid_kernels import MergedVideo, PruneVidConfig, dpc_knn, merge_video, reference
from prunevid_kernels.benchmarks.cost.kernels.cases import video_features
from prunevid_kernels.reference import clustering, floats, plan


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def merged(x: Tensor, config: PruneVidConfig) -> tuple[MergedVideo, reference.MergePlan]:
    return merge_video(x, config, impl="reference"), reference.plan_merge(x, config)


def take_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floats, "CACHED_VALUES", 1)
    for module in (clustering, plan):
        monkeypatch.setattr(module, "CACHED_PAIRS", 1)


VIDEOS = {
    "scenes": lambda: video_features(40, 31, 65, seed=3),
    "one token": lambda: video_features(17, 1, 130, seed=1),
    "one channel": lambda: noise(9, 20, 1),
    "ties": lambda: noise(16, 21, 12).round(),
    "massive": lambda: noise(12, 18, 507) * 0.01 + 300,
    "zero": lambda: torch.zeros(6, 20, 8),
    "huge": lambda: noise(10, 16, 12) * 1e30,
}


@pytest.mark.parametrize(
    "config",
    [
        PruneVidConfig(),
        PruneVidConfig(min_cluster_tokens=1, num_neighbors=12, tau=0.4),
        PruneVidConfig(budget=0.2),
        PruneVidConfig(budget=5),
        PruneVidConfig(budget=0.9),
    ],
    ids=["threshold", "small-groups", "budget", "shared", "room"],
)
@pytest.mark.parametrize("kind", VIDEOS)
def test_a_merge_has_the_bits_of_one_frame_and_one_group_at_a_time(
    kind: str, config: PruneVidConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = VIDEOS[kind]()
    together, plan_together = merged(x, config)
    take_one_at_a_time(monkeypatch)
    apart, plan_apart = merged(x, config)
    assert torch.equal(together.tokens, apart.tokens)
    assert torch.equal(plan_together.source_to_merged, plan_apart.source_to_merged)
    assert torch.equal(plan_together.center_position, plan_apart.center_position)


@pytest.mark.parametrize("num_neighbors", [1, 7, 20])
def test_rows_of_other_lengths_change_no_bit_of_a_row(num_neighbors: int) -> None:
    """Neither do rows with fewer points than neighbours, nor ties, nor the cut into batches."""
    x = noise(40, 90, 5)
    x[::3] = x[::3].round()
    lengths = [3 + 37 * row % 88 for row in range(40)]
    assert min(lengths) == 3 and len(x) * max(lengths) ** 2 > clustering.CACHED_PAIRS
    together = dpc_knn(x, 3, num_neighbors=num_neighbors, lengths=lengths, impl="reference")
    for row, length in enumerate(lengths):
        alone = dpc_knn(x[row : row + 1, :length], 3, num_neighbors=num_neighbors, impl="reference")
        assert torch.equal(together.centers[row], alone.centers[0])
        for name in ("labels", "density", "score"):
            values = getattr(together, name)[row]
            assert torch.equal(values[:length], getattr(alone, name)[0])
            assert (values[length:] == (-1 if name == "labels" else 0)).all()


class CountCalls(TorchFunctionMode):
    """Counts torch's functions and methods that are called, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += func.__name__ != "__get__"  # an attribute
        return func(*args, **kwargs or {})


def test_a_small_video_takes_few_calls() -> None:
    """Where frames are small, the calls are what a merge costs. They were 2,279 here when groups
    were clustered one by one."""
    x = video_features(32, 36, 128, seed=0)
    with CountCalls() as counted:
        merge_video(x, PruneVidConfig(budget=0.2), impl="reference")
    assert 300 < counted.count <= 800
