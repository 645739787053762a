"""Element offsets beyond 2^31: the kernels reach the last elements of tensors that large.

The tensors lie in sparse files, of which only the pages that are touched take memory.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from triton.runtime.interpreter import GridExecutor

from prunevid_kernels import compact, score_visual_tokens
from prunevid_kernels.kernels import _device
from prunevid_kernels.kernels._device import config_table
from prunevid_kernels.kernels.dpc_knn import Points, dpc_knn, score_points
from prunevid_kernels.kernels.group_clusters import GroupClusters
from prunevid_kernels.kernels.means.group_mean import group_mean

LIMIT = 2**31


@pytest.fixture
def sparse(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Make a 1-D float16 tensor of zeros of any length, of which only touched pages exist."""

    def make(elements: int) -> Tensor:
        path = tmp_path / f"sparse-{elements}"
        with path.open("wb") as file:
            file.truncate(2 * elements)
        return torch.from_file(str(path), shared=True, size=elements, dtype=torch.float16)

    return make


def test_compact_with_a_large_stride(sparse) -> None:  # type: ignore[no-untyped-def]
    entries, stride, inner = 5, LIMIT // 4 + 64, 24
    storage = sparse(entries * stride)
    tensor = storage.as_strided((1, 1, entries, inner), (entries * stride, stride, stride, 1))
    tensor[0, 0, 4] = torch.arange(inner, dtype=torch.float16)
    tensor[0, 0, 3] = -1.0
    taken = compact([tensor], torch.tensor([3, 4]), dim=2, impl="triton")[0]
    assert 4 * stride > LIMIT
    assert torch.equal(taken[0, 0, 1], torch.arange(inner, dtype=torch.float16))
    assert torch.equal(taken[0, 0, 0], torch.full((inner,), -1.0, dtype=torch.float16))


def test_scores_with_large_strides(sparse) -> None:  # type: ignore[no-untyped-def]
    keys, stride, dim = 6, LIMIT // 5 + 16, 16
    storage = sparse(keys * stride)
    key = storage.as_strided((1, 1, keys, dim), (keys * stride, keys * stride, stride, 1))
    query_storage = sparse(3 * (LIMIT // 2 + 8))
    query = query_storage.as_strided(
        (1, 1, 3, dim), (3 * (LIMIT // 2 + 8), 3 * (LIMIT // 2 + 8), LIMIT // 2 + 8, 1)
    )
    generator = torch.Generator().manual_seed(0)
    key.copy_(torch.randn((1, 1, keys, dim), generator=generator))
    query.copy_(torch.randn((1, 1, 3, dim), generator=generator))
    found = score_visual_tokens(query, key, slice(1, 6), impl="triton")
    near = query.clone().contiguous(), key.clone().contiguous()
    expected = score_visual_tokens(*near, slice(1, 6), impl="reference")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)


def test_means_of_the_last_frame_of_a_long_video(
    sparse,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Few programs, for the interpreter's sake.
    block = {"BLOCK_L": 1, "BLOCK_M": 2, "BLOCK_C": 2**18}
    monkeypatch.setitem(config_table()["group_mean"], "interpreter", block)
    frames, tokens, channels = 1025, 2, 2**20 + 64
    assert frames * tokens * channels > LIMIT
    x = sparse(frames * tokens * channels).view(frames, tokens, channels)
    x[-1, 0, :8], x[-1, 1, :8] = 2.0, 4.0
    # One merged token: both tokens of the last frame.
    rows = torch.zeros((3, frames * tokens), dtype=torch.int32)
    rows[0, 0], rows[2, 0] = frames - 1, 2
    member = torch.zeros((frames, tokens), dtype=torch.int32)
    member[frames - 1] = torch.tensor([0, 1])
    unused = torch.empty(0, dtype=torch.int64)
    clusters = GroupClusters(unused, unused, unused, rows[0], rows[1], rows[2], member)
    merged = group_mean(
        x,
        torch.tensor([0], dtype=torch.int32),
        torch.tensor([1], dtype=torch.int32),
        torch.ones(frames, dtype=torch.int32),
        clusters,
        1,
    )
    assert merged[0, :9].tolist() == [3.0] * 8 + [0.0]


def test_parts_of_products_that_lie_far_apart(sparse) -> None:  # type: ignore[no-untyped-def]
    """The third of three parts begins 2^31 elements after the first."""
    n, pitch, stride = 6, 16, LIMIT // 2
    storage = sparse(2 * (2 * stride + n * pitch)).view(torch.float32)
    matrices = storage.as_strided((3, n, pitch), (stride, pitch, 1))
    parts = torch.randn((3, n, 5), generator=torch.Generator().manual_seed(0))
    products = parts @ parts.transpose(1, 2)
    matrices[:, :, :n] = products
    norms = products.diagonal(dim1=1, dim2=2).contiguous()
    first_row, end_row = torch.tensor([[0], [n]], dtype=torch.int32)
    density, score = torch.empty((2, n))
    points = Points(matrices[0], norms[0], pitch, 3, stride, n, first_row, end_row, n, 15)
    square = score_points(points, 2, density, score)
    truth = torch.cdist(*[parts.transpose(0, 1).flatten(1).double()] * 2).square()
    assert (square[:, :n] - truth).abs().max() <= 1e-5 * truth.max()


def test_more_sets_than_a_grid_has_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA grids end at 65,535 but in their first dimension."""
    grids = []

    def launch(executor: GridExecutor, *args: object, **kwargs: object) -> None:
        grids.append(executor.grid)

    monkeypatch.setattr(GridExecutor, "__call__", launch)
    monkeypatch.setattr(_device, "architecture", lambda device: "sm_90")
    dpc_knn(torch.empty((70_000, 20, 600), device="meta"), 4, 7, None)
    assert len(grids) == 4 and all(grid[0] >= 70_000 for grid in grids)
    assert all(extent <= 65_535 for grid in grids for extent in grid[1:])
