"""Compaction of many tensors along one dimension: both implementations against indexing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_grid import COMPACT_INNER_SIZES, shipped_blocks, small_blocks
from torch import Tensor
from triton.runtime.interpreter import GridExecutor

from prunevid_kernels import compact

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
def test_each_dtype_is_copied_bit_for_bit(dtype: torch.dtype, impl: str) -> None:
    index = torch.tensor([8, 0, 3, 3])
    assert_compact([numbered(2, 3, 9, 5, dtype=dtype)], index, 2, impl)


@IMPLS
@pytest.mark.parametrize("inner", COMPACT_INNER_SIZES)
def test_rows_of_any_number_of_bytes(inner: int, impl: str) -> None:
    """Rows of 2 to 260 bytes: 16-byte words where they fit, down to single bytes."""
    x = numbered(2, 2, 7, inner, dtype=torch.float16)
    bytes_ = numbered(2, 2, 7, inner, dtype=torch.int8)
    index = torch.tensor([6, 1, 2])
    assert_compact([x], index, 2, impl)
    assert_compact([x, bytes_], index, 2, impl)


@IMPLS
@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -2])
def test_along_each_dimension(dim: int, impl: str) -> None:
    shape = [2, 3, 2, 3]
    shape[dim] = 6
    assert_compact([numbered(*shape)], torch.tensor([5, 0, 4]), dim, impl)


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
def test_each_kind_of_strides(name: str, impl: str) -> None:
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


PERMUTED = torch.randperm(50, generator=torch.Generator().manual_seed(0))


def test_several_blocks_of_the_index_and_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """18 entries in blocks of 16, rows of 35 and 50 words in blocks of 16."""
    small_blocks(monkeypatch)
    tensors = [numbered(1, 2, 50, 70), numbered(1, 1, 50, 50, dtype=torch.int64)]
    assert_compact(tensors, PERMUTED[:18], 2, "triton")


@pytest.mark.full
def test_blocks_that_ship_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped_blocks(monkeypatch)
    tensors = [numbered(1, 2, 50, 70), numbered(1, 1, 50, 300)]
    assert_compact(tensors, PERMUTED[:37], 2, "triton")


def assert_drawn(data: st.DataObject) -> None:
    """Tensors, a dimension and an index of hypothesis's choice."""
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


# A failing example is reported as it is: looking for a smaller one takes the interpreter minutes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


@settings(max_examples=8, phases=PHASES)
@given(data=st.data())
def test_what_hypothesis_draws(data: st.DataObject) -> None:
    assert_drawn(data)


@pytest.mark.full
@settings(max_examples=100, phases=PHASES)
@given(data=st.data())
def test_more_of_what_hypothesis_draws(data: st.DataObject) -> None:
    assert_drawn(data)


def test_more_rows_than_a_grid_s_second_axis_holds() -> None:
    """70,000 rows before ``dim``: a grid's second axis ends at 65,535."""
    x = numbered(1, 70_000, 8, 4, dtype=torch.int8)
    index = torch.tensor([7, 2])
    assert_compact([x], index, 2, "reference")
    grids: list[tuple[int, ...]] = []

    def launched(executor: Any, *args: Any, **kwargs: Any) -> None:
        grids.append(executor.grid)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GridExecutor, "__call__", launched)
        compact([x], index, dim=2, impl="triton")
    assert all(size <= 65_535 for grid in grids for size in grid[1:])
    assert max(grid[0] for grid in grids) >= 70_000


@IMPLS
def test_many_kinds_of_tensors(impl: str) -> None:
    """More addresses than one launch takes, in an order that mixes shapes, strides and dtypes."""
    tensors = []
    for position in range(80):
        x = numbered(1, 1 + position % 2, 6, 4 + position % 3, dtype=DTYPES[position % 4])
        tensors.append(x.transpose(1, 2).contiguous().transpose(1, 2) if position % 5 == 0 else x)
    assert_compact(tensors, torch.tensor([5, 0, 1]), 2, impl)


def test_entries_out_of_range_are_zeros_on_a_gpu_and_read_nothing_else() -> None:
    x = numbered(1, 2, 6, 4)[:, :, 1:5] + 1
    (found,) = compact([x], torch.tensor([4, -1, 2, 2**40]), dim=2, impl="triton")
    assert torch.equal(found[:, :, 2], x[:, :, 2])
    assert (found[:, :, [0, 1, 3]] == 0).all()


@IMPLS
def test_results_are_written_to_tensors_of_the_caller(impl: str) -> None:
    tensors = [numbered(2, 3, 9, 5), numbered(2, 1, 9, 4, dtype=torch.int8)]
    index = torch.tensor([8, 0, 3])
    expected = compact(tensors, index, dim=2, impl=impl)
    out = [torch.zeros_like(tensor) for tensor in expected]
    found = compact(tensors, index, dim=2, impl=impl, out=out)
    for one, target, wanted in zip(found, out, expected, strict=True):
        assert one is target and torch.equal(target, wanted)


@IMPLS
def test_results_share_no_memory(impl: str) -> None:
    """A cache's layers are freed one by one."""
    results = compact([numbered(1, 2, 9, 4)] * 3, torch.tensor([1, 2]), dim=2, impl=impl)
    assert len({result.untyped_storage().data_ptr() for result in results}) == 3


X, INDEX = numbered(2, 5, 3), torch.tensor([0, 4])


@IMPLS
@pytest.mark.parametrize(
    ("tensors", "index", "dim", "error", "message"),
    [
        pytest.param([], INDEX, 1, ValueError, "tensors .*got none", id="no-tensor"),
        pytest.param(X, INDEX, 1, TypeError, "tensors .*got one tensor", id="bare-tensor"),
        pytest.param([X], INDEX, 1.0, TypeError, "dim .*got 1.0", id="float-dim"),
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
def test_wrong_arguments_are_refused(
    tensors: Any, index: Any, dim: int, error: type[Exception], message: str, impl: str
) -> None:
    with pytest.raises(error, match=message):
        compact(tensors, index, dim=dim, impl=impl)


OUT = torch.empty(2, 2, 3)


@IMPLS
@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        pytest.param(OUT, TypeError, "out .*got one tensor", id="bare-tensor"),
        pytest.param([], ValueError, "each of 1, got 0", id="too-few"),
        pytest.param([None], TypeError, r"out\[0\] .*got NoneType", id="none"),
        pytest.param([OUT[:1]], ValueError, r"out\[0\] .*\[2, 2, 3\]", id="shape"),
        pytest.param([OUT.half()], TypeError, r"out\[0\] .*float32, got torch.float16", id="dtype"),
        pytest.param([OUT.to("meta")], ValueError, r"out\[0\] .*cpu, got meta", id="device"),
        pytest.param([torch.empty(2, 3, 2).mT], ValueError, r"out\[0\] .*contiguous", id="strides"),
        pytest.param(
            [X.view(-1)[18:].view(2, 2, 3)],
            ValueError,
            r"out\[0\] must not share memory with tensors\[0\]",
            id="in-place",
        ),
    ],
)
def test_an_out_that_does_not_fit_is_refused(
    out: Any, error: type[Exception], message: str, impl: str
) -> None:
    with pytest.raises(error, match=message):
        compact([X], INDEX, dim=1, impl=impl, out=out)


@IMPLS
def test_two_results_in_one_place_are_refused(impl: str) -> None:
    with pytest.raises(ValueError, match=r"out\[1\] must not share memory with out\[0\]"):
        compact([X, X], INDEX, dim=1, impl=impl, out=[OUT, OUT])


@pytest.mark.parametrize(
    ("index", "place"),
    [
        pytest.param(torch.tensor([0, 5]), r"got 5 at place \[1\]", id="too-large"),
        pytest.param(torch.tensor([-1]), r"got -1 at place \[0\]", id="negative"),
        pytest.param(torch.tensor([[0, 0], [0, 9]]), r"got 9 at place \[1, 1\]", id="rows"),
    ],
)
def test_index_out_of_range_is_named(index: torch.Tensor, place: str) -> None:
    with pytest.raises(ValueError, match=f"index must be from 0 to 4, {place}"):
        compact([X[:2]], index, dim=1, impl="reference")
