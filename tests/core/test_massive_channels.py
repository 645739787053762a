"""Tokens that are nearly alike, and large in a few channels, as features of trained models are.

What tells such tokens apart is far below the last bit of their products, so the kernels have to
take the common part away first. Every decision is the reference's, which subtracts before it
multiplies.
"""

import pytest
import torch
from oracle import same_layout
from torch import Tensor

from prunevid_kernels import PruneVidConfig, dpc_knn, merge_video, segment_frames

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
SIZES = pytest.mark.parametrize(
    ("size", "noise"),
    [
        pytest.param(1000.0, 0.02, id="1000"),
        pytest.param(5000.0, 0.1, id="5000", marks=pytest.mark.full),
        pytest.param(0.0, 0.02, id="none"),
    ],
)


def near_duplicates(count: int, size: float, noise: float, seed: int = 0) -> Tensor:
    """Points [count, 320], two or so around each of half as many places, in four channels all at
    up to ``size``."""
    generator = torch.Generator().manual_seed(seed)
    places = 0.5 * torch.randn(count // 2, 320, generator=generator)
    chosen = torch.randint(count // 2, (count,), generator=generator)
    points = places[chosen] + noise * torch.randn(count, 320, generator=generator)
    channels = torch.randperm(320, generator=generator)[:4]
    points[:, channels] = size * torch.tensor([1.0, -0.7, 0.5, 0.3])
    return points


@pytest.mark.sample(4)
@SIZES
@DTYPES
@pytest.mark.parametrize("outlier", [False, True], ids=["all-alike", "one-token-without"])
def test_dynamic_tokens(size: float, noise: float, dtype: torch.dtype, outlier: bool) -> None:
    frame = near_duplicates(90, size, noise)
    if outlier:
        frame[17] = torch.randn(320, generator=torch.Generator().manual_seed(9))
    x = frame[None].to(dtype)
    merged, expected = (merge_video(x, PruneVidConfig(), impl=i) for i in ("triton", "reference"))
    assert expected.layout.dynamic_sizes().tolist() == [45]
    assert same_layout(merged.layout, expected.layout)


@pytest.mark.sample(2)
@SIZES
@DTYPES
def test_static_tokens(size: float, noise: float, dtype: torch.dtype) -> None:
    still = near_duplicates(80, size, noise)
    generator = torch.Generator().manual_seed(2)
    x = still + 0.1 * noise * torch.randn(4, 80, 320, generator=generator)
    config = PruneVidConfig(segment_ratio=0.5)
    merged, expected = (
        merge_video(x.to(dtype), config, impl=impl) for impl in ("triton", "reference")
    )
    assert expected.layout.static_sizes().tolist()[0] == 40
    assert same_layout(merged.layout, expected.layout)


@SIZES
def test_segments(size: float, noise: float) -> None:
    descriptors = near_duplicates(40, size, noise).sort(dim=0).values
    config = PruneVidConfig()
    found, expected = (
        segment_frames(descriptors, config, impl=impl) for impl in ("triton", "reference")
    )
    assert torch.equal(found, expected)


@pytest.mark.sample(2)
@SIZES
@DTYPES
def test_dpc_knn(size: float, noise: float, dtype: torch.dtype) -> None:
    points = near_duplicates(90, size, noise).to(dtype)[None]
    found, expected = (dpc_knn(points, 45, impl=impl) for impl in ("triton", "reference"))
    assert torch.equal(found.centers, expected.centers)
    assert torch.equal(found.labels, expected.labels)


def test_equal_tokens_stay_at_distance_0_where_an_offset_is_taken_away() -> None:
    frame = near_duplicates(60, 1000.0, 0.1)
    x = frame[torch.arange(60) // 2][None].bfloat16()  # every token twice
    config = PruneVidConfig(cluster_ratio=0.5)
    merged, expected = (merge_video(x, config, impl=impl) for impl in ("triton", "reference"))
    assert same_layout(merged.layout, expected.layout)
