"""Compaction of many tensors along one dimension: both implementations against indexing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunevid_kernels import compact
from prunevid_kernels.kernels import _device

IMPLS = pytest.mark.parametrize("impl", ["reference", "triton"])
DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.complex128,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def numbered(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Each entry another value, as far as the dtype goes."""
    count = torch.Size(shape).numel()
    if dtype == torch.bool:
        return (torch.arange(count) % 3 == 0).view(shape)
    return (torch.arange(count) % 127).to(dtype).view(shape)


def by_indexing(tensor: Tensor, index: Tensor, dim: int) -> Tensor:
    if index.ndim == 1:
        return tensor.movedim(dim, 0)[index].movedim(0, dim)
    rows = zip(tensor, index, strict=True)
    return torch.stack([by_indexing(row, of_row, dim % tensor.ndim - 1) for row, of_row in rows])


def assert_compact(tensors: list[Tensor], index: Tensor, dim: int, impl: str) -> None:
    results = compact(tensors, index, dim=dim, impl=impl)
    assert len(results) == len(tensors)
    for tensor, result in zip(tensors, results, strict=True):
        expected = by_indexing(tensor, index, dim)
        assert result.dtype == tensor.dtype
        assert result.is_contiguous()
        assert result.shape == expected.shape
        assert torch.equal(result, expected)


@IMPLS
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_dtypes(dtype: torch.dtype, impl: str) -> None:
    index = torch.tensor([8, 0, 3, 3])
    assert_compact([numbered(2, 3, 9, 5, dtype=dtype)], index, 2, impl)


@IMPLS
@pytest.mark.parametrize("inner", [1, 2, 3, 5, 8, 17, 64, 130])
def test_inner_sizes(inner: int, impl: str) -> None:
    """Rows of 2 to 260 bytes: 16-byte words where they fit, down to single bytes."""
    x = numbered(2, 2, 7, inner, dtype=torch.float16)
    bytes_ = numbered(2, 2, 7, inner, dtype=torch.int8)
    index = torch.tensor([6, 1, 2])
    assert_compact([x], index, 2, impl)
    assert_compact([x, bytes_], index, 2, impl)


@IMPLS
@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -2])
def test_dimensions(dim: int, impl: str) -> None:
    assert_compact([numbered(6, 6, 6, 6)], torch.tensor([5, 0, 4]), dim, impl)


@IMPLS
def test_a_row_of_the_index_for_each_batch_entry(impl: str) -> None:
    index = torch.tensor([[0, 2, 4], [5, 5, 1]])
    assert_compact([numbered(2, 3, 6, 4), numbered(2, 1, 6, 8)], index, 2, impl)
    assert_compact([numbered(2, 6), numbered(2, 6, 3)], index, 1, impl)


@IMPLS
def test_layers_of_a_cache_with_hidden_states_and_positions(impl: str) -> None:
    """Tensors of different shapes and dtypes, equally long along the dimension that counts."""
    keys = [numbered(2, heads, 11, 8, dtype=torch.bfloat16) for heads in (1, 2, 2, 4)]
    hidden, positions = numbered(2, 1, 11, 24), torch.arange(44).view(2, 2, 11)
    assert_compact([*keys, hidden, positions], torch.tensor([0, 3, 10]), 2, impl)


@IMPLS
@pytest.mark.parametrize(
    "name", ["transposed", "cut", "offset", "expanded", "channels-strided", "reversed-order"]
)
def test_strided(name: str, impl: str) -> None:
    x = numbered(2, 3, 9, 8, dtype=torch.float16)
    view = {
        "transposed": x.transpose(1, 2).contiguous().transpose(1, 2),
        "cut": numbered(2, 3, 9, 16, dtype=torch.float16)[..., :8],
        "offset": numbered(2, 3, 9, 9, dtype=torch.float16)[..., 1:],
        "expanded": numbered(2, 1, 9, 8, dtype=torch.float16).expand(2, 3, 9, 8),
        "channels-strided": numbered(2, 3, 9, 16, dtype=torch.float16)[..., ::2],
        "reversed-order": x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    }[name]
    before = view.clone()
    assert_compact([view], torch.tensor([8, 2, 5]), 2, impl)
    assert torch.equal(view, before)


@IMPLS
def test_strided_index(impl: str) -> None:
    index = torch.tensor([[1, 7], [2, 7], [0, 7]])
    assert_compact([numbered(4, 5)], index[:, 0], 0, impl)
    assert_compact([numbered(2, 9)], index.T, 1, impl)


@IMPLS
@pytest.mark.parametrize("shape", [(0,), (2, 0)], ids=str)
def test_nothing_kept(shape: tuple[int, ...], impl: str) -> None:
    index = torch.empty(shape, dtype=torch.int64)
    results = compact([numbered(2, 5, 3), numbered(2, 5)], index, dim=1, impl=impl)
    assert [list(result.shape) for result in results] == [[2, 0, 3], [2, 0]]


@IMPLS
def test_empty_tensors(impl: str) -> None:
    tensors = [numbered(2, 5, 0), numbered(0, 5, 3), numbered(2, 5, 3)]
    assert_compact(tensors, torch.tensor([1, 4]), 1, impl)


@IMPLS
def test_everything_kept(impl: str) -> None:
    x = numbered(1, 2, 200, 16)
    assert_compact([x], torch.arange(200), 2, impl)


def test_gpu_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device, "architecture", lambda device: "none of the table")
    index = torch.randperm(50, generator=torch.Generator().manual_seed(0))[:37]
    assert_compact([numbered(1, 2, 50, 70), numbered(1, 1, 50, 300)], index, 2, "triton")


@settings(max_examples=25, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(data=st.data())
def test_random(data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, 2))
    length = data.draw(st.integers(1, 20))
    batch = data.draw(st.integers(1, 3)) if dim else length
    tensors = []
    for _ in range(data.draw(st.integers(1, 5))):
        shape = data.draw(st.lists(st.integers(1, 6), min_size=dim + 1, max_size=4))
        shape[0], shape[dim] = batch, length
        tensors.append(numbered(*shape, dtype=data.draw(st.sampled_from(DTYPES))))
    rows = data.draw(st.booleans()) and dim > 0
    kept = data.draw(st.integers(0, 25))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    index = torch.randint(length, (batch, kept) if rows else (kept,), generator=generator)
    assert_compact(tensors, index, dim, "triton")
    assert_compact(tensors, index, dim, "reference")


X, INDEX = numbered(2, 5, 3), torch.tensor([0, 4])


@IMPLS
@pytest.mark.parametrize(
    ("tensors", "index", "dim", "error", "message"),
    [
        pytest.param([], INDEX, 1, ValueError, "tensors .*got none", id="no-tensor"),
        pytest.param([X, 3], INDEX, 1, TypeError, r"tensors\[1\] .*got int", id="int"),
        pytest.param([X], [0, 4], 1, TypeError, "index .*got list", id="list"),
        pytest.param([X], INDEX.int(), 1, TypeError, "index .*got torch.int32", id="int32"),
        pytest.param([X], INDEX[None, None], 1, ValueError, r"index .*\[1, 1, 2\]", id="3-D"),
        pytest.param([X], INDEX, 3, ValueError, r"dim .*tensors\[0\].*got 3", id="dim"),
        pytest.param([X], INDEX, -4, ValueError, "dim .*got -4", id="negative-dim"),
        pytest.param(
            [X, X[:, :4]], INDEX, 1, ValueError, r"tensors\[1\] .*5 entries", id="lengths"
        ),
        pytest.param([X], INDEX.expand(3, 2), 1, ValueError, "3 entries of dim", id="batch"),
        pytest.param([X], INDEX.expand(2, 2), 0, ValueError, "dim other than 0", id="dim-0"),
        pytest.param([X.to("meta")], INDEX, 1, ValueError, "device of index, cpu", id="device"),
    ],
)
def test_refused(
    tensors: Any, index: Any, dim: int, error: type[Exception], message: str, impl: str
) -> None:
    with pytest.raises(error, match=message):
        compact(tensors, index, dim=dim, impl=impl)


def test_index_out_of_range() -> None:
    with pytest.raises((IndexError, RuntimeError)):
        compact([X], torch.tensor([5]), dim=1)
