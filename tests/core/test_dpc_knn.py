"""Density-peak clustering by itself: both implementations, ragged rows, ties, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden import arrays, index, tensor
from kernel_grid import CLUSTER_GOLDEN_UNITS, CLUSTER_SHAPES, shipped_blocks, small_blocks
from oracle import assert_clusters, point_distances
from torch import Tensor

from prunevid_kernels import DpcKnn, dpc_knn

IMPLS = pytest.mark.parametrize("impl", ["reference", "triton"])


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_result(x: Tensor, clusters: DpcKnn, num_clusters: int, num_neighbors: int = 7) -> None:
    """Shapes, types, what the fields say of each other, and float64's verdict on each row."""
    batch, n, _ = x.shape
    assert clusters.labels.shape == clusters.density.shape == clusters.score.shape == (batch, n)
    assert clusters.centers.shape == (batch, num_clusters)
    assert clusters.labels.dtype == clusters.centers.dtype == torch.int64
    assert clusters.density.dtype == clusters.score.dtype == torch.float32
    for row in range(batch):
        centers = clusters.centers[row]
        assert clusters.labels[row, centers].tolist() == list(range(num_clusters))
        scores = clusters.score[row, centers]
        assert (scores[:-1] >= scores[1:]).all()
        assert_clusters(x[row], clusters.labels[row], num_clusters, num_neighbors)


@IMPLS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("n", "channels", "num_clusters"), CLUSTER_SHAPES)
def test_points_are_clustered_as_by_the_reference(
    n: int, channels: int, num_clusters: int, dtype: torch.dtype, impl: str
) -> None:
    x = noise(2, n, channels, dtype=dtype)
    clusters = dpc_knn(x, num_clusters, impl=impl)
    assert_result(x, clusters, num_clusters)
    expected = dpc_knn(x, num_clusters, impl="reference")
    assert torch.equal(clusters.labels, expected.labels)
    assert torch.equal(clusters.centers, expected.centers)


@pytest.mark.parametrize("unit", CLUSTER_GOLDEN_UNITS)
def test_golden_in_the_kernel(unit: str) -> None:
    """Like the reference on the golden units, those with duplicates and tiny spread among them."""
    record = next(record for record in index()["dpc_units"] if record["unit"] == unit)
    x = tensor(arrays("dpc_units.npz")[f"{unit}_x_f16"])[None]
    kernel = dpc_knn(x, record["K"], num_neighbors=record["k"], impl="triton")
    expected = dpc_knn(x, record["K"], num_neighbors=record["k"], impl="reference")
    if record["stable_index"] or record["duplicate_points"]:
        assert torch.equal(kernel.labels, expected.labels)
        assert torch.equal(kernel.centers, expected.centers)
    assert_clusters(x[0], kernel.labels[0], record["K"], record["k"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_density_and_score_are_within_the_error_budget(dtype: torch.dtype) -> None:
    """Density and score: no farther from float64 than the reference, plus the expanded square's
    error, which is a few steps of the squared norms."""
    x = noise(1, 50, 40, dtype=dtype)
    points = x[0].double()
    nearest = point_distances(points).sort(dim=1).values[:, :7]
    density = (-nearest.square().mean(dim=1)).exp()
    kernel, eager = (dpc_knn(x, 9, impl=impl) for impl in ("triton", "reference"))
    square_error = 8 * 2.0**-23 * 4 * points.square().mean(dim=1).max()
    eager_error = (eager.density[0] - density).abs()
    assert ((kernel.density[0] - density).abs() <= eager_error + square_error * density).all()
    parent = kernel.score[0] / kernel.density[0]
    distance = point_distances(points)
    # The parent distance is one of the row's own distances, or the largest of all.
    candidates = torch.cat([distance, distance.max().expand(50, 1)], dim=1)
    gap = (candidates - parent[:, None]).abs().amin(dim=1)
    assert (gap <= 1e-5 * distance.max()).all()


@IMPLS
def test_rows_of_different_length(impl: str) -> None:
    """A row's result is that of its first points alone, bit for bit; -1 and 0 stand after them."""
    x = noise(3, 30, 11)
    lengths = [5, 30, 4]
    clusters = dpc_knn(x, 4, lengths=lengths, impl=impl)
    for row, length in enumerate(lengths):
        alone = dpc_knn(x[row : row + 1, :length], 4, impl=impl)
        assert torch.equal(clusters.labels[row, :length], alone.labels[0])
        assert torch.equal(clusters.centers[row], alone.centers[0])
        assert torch.equal(clusters.density[row, :length], alone.density[0])
        assert torch.equal(clusters.score[row, :length], alone.score[0])
        assert (clusters.labels[row, length:] == -1).all()
        assert (clusters.density[row, length:] == 0).all()
        assert (clusters.score[row, length:] == 0).all()


@IMPLS
def test_lengths_shorter_than_all(impl: str) -> None:
    clusters = dpc_knn(noise(2, 9, 4), 2, lengths=[3, 2], impl=impl)
    assert clusters.labels.shape == (2, 9)
    assert (clusters.labels[:, 3:] == -1).all()


@IMPLS
def test_points_after_the_length_do_not_count(impl: str) -> None:
    x = noise(2, 12, 6)
    filled = x.clone()
    filled[0, 8:] = float("nan")
    a, b = (dpc_knn(values, 3, lengths=[8, 12], impl=impl) for values in (x, filled))
    assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


@IMPLS
def test_strides_change_no_bit(impl: str) -> None:
    x = noise(3, 20, 10)
    expected = dpc_knn(x, 5, impl=impl)
    for view in (
        x.transpose(0, 1).contiguous().transpose(0, 1),
        x.transpose(1, 2).contiguous().transpose(1, 2),
        torch.cat([x, x], dim=2)[..., :10],
    ):
        result = dpc_knn(view, 5, impl=impl)
        assert all(torch.equal(one, other) for one, other in zip(result, expected, strict=True))


@IMPLS
@pytest.mark.parametrize("num_neighbors", [1, 2, 19, 20, 50])
def test_any_number_of_neighbors(num_neighbors: int, impl: str) -> None:
    x = noise(1, 20, 8)
    clusters = dpc_knn(x, 6, num_neighbors=num_neighbors, impl=impl)
    assert torch.equal(clusters.labels, dpc_knn(x, 6, num_neighbors=num_neighbors).labels)
    assert_result(x, clusters, 6, num_neighbors)
    if num_neighbors == 1:  # the point itself, at distance 0
        assert (clusters.density == 1).all()


@IMPLS
def test_ties_go_to_the_lower_index(impl: str) -> None:
    """Two places of three equal points each: the densest is the first of the fuller ones."""
    a, b = torch.zeros(4), torch.ones(4)
    x = torch.stack([b, a, a, b, a, b])[None]
    clusters = dpc_knn(x, 3, num_neighbors=3, impl=impl)
    assert (clusters.density == 1).all()
    # Point 0 is the densest of equals, 1 the densest of the zeros; all others score 0.
    assert clusters.score.tolist() == [[1, 1, 0, 0, 0, 0]]
    assert clusters.centers.tolist() == [[0, 1, 2]]
    assert clusters.labels.tolist() == [[0, 1, 2, 0, 1, 0]]


@pytest.mark.parametrize("num_neighbors", [1, 2, 6, 7, 16, 40])
def test_equal_distances_count_as_often_as_they_occur(num_neighbors: int) -> None:
    """A set of points on a line, most distances occur twice, beside one without equal distances;
    16 columns are a tile, so that of 16 points none are outside."""
    line = torch.arange(16.0)[:, None].expand(16, 2)
    x = torch.stack((line, noise(1, 16, 2)[0], line.square()))
    density = dpc_knn(x, 3, num_neighbors=num_neighbors, impl="triton").density
    expected = dpc_knn(x, 3, num_neighbors=num_neighbors, impl="reference").density
    torch.testing.assert_close(density, expected, rtol=1e-5, atol=1e-30)


@IMPLS
def test_equal_points_have_equal_results(impl: str) -> None:
    x = noise(1, 60, 37)
    x[0, 30:] = x[0, :30]
    clusters = dpc_knn(x, 8, impl=impl)
    assert torch.equal(clusters.density[0, :30], clusters.density[0, 30:])
    assert (clusters.score[0, 30:] == 0).all()


@IMPLS
@pytest.mark.parametrize("scale", [1e-30, 1e25], ids=["tiny", "huge"])
def test_extreme_magnitudes(scale: float, impl: str) -> None:
    clusters = dpc_knn(noise(1, 30, 9) * scale, 7, impl=impl)
    assert sorted(clusters.labels[0].unique().tolist()) == list(range(7))
    assert clusters.labels[0, clusters.centers[0]].tolist() == list(range(7))


def assert_as_the_reference(points: int, channels: int, num_clusters: int) -> None:
    """Of two rows, the second shorter."""
    x, lengths = noise(2, points, channels), [points, points * 3 // 5]
    kernel, expected = (
        dpc_knn(x, num_clusters, lengths=lengths, impl=impl) for impl in ("triton", "reference")
    )
    assert torch.equal(kernel.labels, expected.labels)
    assert torch.equal(kernel.centers, expected.centers)


def test_several_tiles_and_splits_of_the_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """35 points in tiles of 16, 70 channels in splits of 32 and blocks of 16."""
    small_blocks(monkeypatch)
    assert_as_the_reference(35, 70, 12)


@pytest.mark.full
def test_blocks_that_ship_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped_blocks(monkeypatch)
    assert_as_the_reference(70, 530, 20)


X = noise(2, 10, 4)


@IMPLS
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param({"x": X[0]}, ValueError, r"x .*\[B, N, C\], got shape \[10, 4\]", id="2-D"),
        pytest.param({"x": X.int()}, TypeError, "x .*got torch.int32", id="int32"),
        pytest.param({"x": X[:, :0]}, ValueError, "x .*empty dimension", id="no-point"),
        pytest.param({"num_clusters": 0}, ValueError, r"num_clusters .*\[1, 10\]", id="none"),
        pytest.param({"num_clusters": 11}, ValueError, "num_clusters .*got 11", id="many"),
        pytest.param({"num_clusters": 2.0}, TypeError, "num_clusters .*got 2.0", id="float"),
        pytest.param({"num_neighbors": 0}, ValueError, "num_neighbors .*got 0", id="neighbors"),
        pytest.param({"lengths": [10]}, ValueError, "lengths .*2 entries, got 1", id="one-length"),
        pytest.param({"lengths": [10, 11]}, ValueError, "lengths .*got 11", id="long"),
        pytest.param({"lengths": [10, 0]}, ValueError, "lengths .*got 0", id="empty"),
        pytest.param({"lengths": [10, 2]}, ValueError, "num_clusters .*got 3", id="shortest"),
        pytest.param({"lengths": torch.ones(2)}, TypeError, "lengths .*tensor", id="tensor"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: dict[str, Any], error: type[Exception], message: str, impl: str
) -> None:
    with pytest.raises(error, match=message):
        dpc_knn(**{"x": X, "num_clusters": 3, **arguments}, impl=impl)


def test_too_many_points_for_the_kernel() -> None:
    with pytest.raises(ValueError, match="at most 4096 points .*got 4097"):
        dpc_knn(torch.zeros(1, 4097, 1), 1, impl="triton")


@IMPLS
def test_a_point_whose_distances_overflow_is_no_best_centre(impl: str) -> None:
    """Its density is 0 and its parent at infinity: a score of 0, not 0 times infinity."""
    x = noise(1, 20, 12)
    x[0, 3, 4] = 3e38
    clusters = dpc_knn(x, 10, impl=impl)
    expected = dpc_knn(x, 10, impl="reference")
    assert clusters.density[0, 3] == 0 and clusters.score[0, 3] == 0
    assert 3 not in clusters.centers and torch.equal(clusters.labels, expected.labels)
