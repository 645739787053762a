"""The error that the examination allows holds for a pessimistic tensor core, and is no wider."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunevid_kernels import PruneVidConfig, merge_video
from prunevid_kernels.benchmarks.cost.kernels.cases import video_features
from prunevid_kernels.benchmarks.cost.kernels.near_ties import contradiction, examine
from prunevid_kernels.benchmarks.cost.kernels.rounding import (
    frame_offset,
    points_offset,
    square_error,
)
from prunevid_kernels.reference import dpc_knn


def cut_off(x: Tensor) -> Tensor:
    """float64 to float32 towards zero."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.trunc(mantissa * 2**24) / 2**24, exponent)


def pessimistic_gram(points: Tensor, step: int) -> Tensor:
    """Products [n, n] of float64 points: ``step`` channels at a time are added to a sum, which is
    cut off to float32 each time."""
    total = points.new_zeros(len(points), len(points))
    for c in range(0, points.shape[1], step):
        block = points[:, c : c + step]
        total = cut_off(total + block @ block.T)
    return total


def squares(gram: Tensor, channels: int) -> Tensor:
    """Scaled squared distances, as the kernels take them from a Gram matrix."""
    norm = gram.diagonal()
    return (norm[:, None] + norm[None, :] - 2 * gram).clamp(min=0) / channels


def tokens(massive: float) -> Tensor:
    """One frame's tokens [40, 1024], of bfloat16 values, in float64."""
    x = video_features(1, 40, 1024, seed=3, massive=massive)[0]
    x[20:] = x[:20] + 0.02 * torch.randn(20, 1024, generator=torch.Generator().manual_seed(0))
    return x.bfloat16().double()


@pytest.mark.parametrize("massive", [0.0, 30.0, 1000.0, 5000.0])
@pytest.mark.parametrize("step", [1, 16], ids=["a-channel-at-a-time", "16-at-a-time"])
@pytest.mark.parametrize("offset", [frame_offset, points_offset])
def test_holds_for_sums_that_are_cut_off(massive, step, offset):
    points = tokens(massive)
    near_zero = points - offset(points)
    exact = (points[:, None] - points[None]).square().sum(dim=2) / points.shape[1]
    error = (squares(pessimistic_gram(near_zero, step), points.shape[1]) - exact).abs()
    allowed = square_error(near_zero)
    assert (error <= allowed).all()
    if step == 1:  # and could not be a hundredth
        assert error.max() > 0.01 * allowed.max()


def test_does_not_hold_where_a_massive_channel_is_multiplied():
    points = tokens(5000.0)
    exact = (points[:, None] - points[None]).square().sum(dim=2) / points.shape[1]
    error = (squares(pessimistic_gram(points, 16), points.shape[1]) - exact).abs()
    assert (error > square_error(points - frame_offset(points))).any()


@pytest.mark.parametrize("massive", [0.0, 1000.0])
def test_no_offset_is_taken_from_what_lies_around_0(massive):
    points = tokens(massive)
    taken = frame_offset(points) != 0
    assert int(taken.sum()) == (0 if massive == 0 else 64 * 4)
    assert (points - frame_offset(points)).norm(dim=1).max() < 60


@pytest.mark.parametrize("massive", [0.0, 1000.0, 5000.0])
def test_clusters_of_a_pessimistic_tensor_core_are_accepted(massive):
    points = tokens(massive)
    square = squares(pessimistic_gram(points - frame_offset(points), 16), 1024)
    # The method on those distances: points of which they are the distances, up to rounding.
    labels = labels_by(square.sqrt(), clusters=20, neighbors=7)
    assert contradiction(points, labels, 20, 7, 0.0, frame_offset(points)) is None


def labels_by(distance: Tensor, clusters: int, neighbors: int) -> Tensor:
    """Density-peak clusters by given distances [n, n]."""
    nearest = distance.topk(neighbors, dim=1, largest=False).values
    density = (-nearest.square().mean(dim=1)).exp()
    index = torch.arange(len(distance))
    is_denser = (density > density[:, None]) | (
        (density == density[:, None]) & (index < index[:, None])
    )
    parent = distance.masked_fill(~is_denser, torch.inf).amin(dim=1)
    score = density * torch.where(is_denser.any(dim=1), parent, distance.max())
    centers = torch.sort(score, descending=True, stable=True).indices[:clusters]
    labels = distance[centers].argmin(dim=0)
    labels[centers] = torch.arange(clusters)
    return labels


def test_wrong_clusters_of_tokens_with_massive_channels_are_found():
    points = tokens(1000.0)
    labels = dpc_knn(points[None], 20, 7, None)[0][0]
    moved = labels.clone()
    moved[(labels == torch.bincount(labels).argmax()).nonzero()[-1]] = 19
    offset = frame_offset(points)
    assert contradiction(points, labels, 20, 7, 0.0, offset) is None
    assert contradiction(points, moved, 20, 7, 0.0, offset) is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_examination_of_a_video_with_massive_channels(dtype):
    x = video_features(12, 40, 256, seed=5, massive=1000.0, dtype=dtype)
    config = PruneVidConfig()
    for impl in ("reference", "triton"):
        verdict = examine(x, config, merge_video(x, config, impl=impl))
        assert not verdict.errors and verdict.near_ties == 0
