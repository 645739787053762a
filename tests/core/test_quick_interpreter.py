"""The interpreter of the tests computes what Triton's own does."""

from __future__ import annotations

import numpy as np
import pytest
import quick_interpreter
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from prunevid_kernels import PruneVidConfig, dpc_knn, merge_video, score_visual_tokens


def test_the_type_of_every_number_is_triton_s() -> None:
    numbers = [
        *(tl.int1, tl.int8, tl.int16, tl.int32, tl.int64),
        *(tl.uint8, tl.uint16, tl.uint32, tl.uint64),
        *(tl.float16, tl.bfloat16, tl.float32, tl.float64, tl.float8e5, tl.float8e4nv),
    ]
    for number in numbers:
        for dtype in (number, tl.pointer_type(number), tl.block_type(number, [4])):
            found = quick_interpreter.numpy_dtype(dtype)
            assert isinstance(found, np.dtype)
            assert found == quick_interpreter.search_dtype(dtype)
    pointers = tl.block_type(tl.pointer_type(tl.float32), [4])
    assert quick_interpreter.numpy_dtype(pointers) == np.uint64


@pytest.mark.parametrize("package", [tl, tl.core, tl.tensor, tl.math], ids=lambda p: p.__name__)
def test_no_builtin_is_missed(package: object) -> None:
    """Those that a launch has replaced for good hold what they replace."""
    builtins = set()
    for name in dir(package):
        value = getattr(package, name)
        kept = (getattr(value, "__kwdefaults__", None) or {}).get("member", value)
        if tl.core.is_builtin(kept):
            builtins.add(name)
    assert builtins and builtins <= set(quick_interpreter.builtins_of(package))


def test_kernels_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 12, 9, generator=generator)
    x[1:4] = x[0]
    query = torch.randn(1, 2, 3, 16, generator=generator)
    key = torch.randn(1, 2, 20, 16, generator=generator)

    def results() -> list[torch.Tensor]:
        merged = merge_video(x, PruneVidConfig(), impl="triton")
        clusters = dpc_knn(x, 4, impl="triton")
        scores = score_visual_tokens(query, key, slice(2, 15), impl="triton")
        return [merged.tokens, merged.layout.source_to_merged, *clusters, scores]

    quick = results()
    for owner, name, form, original in quick_interpreter.forms():
        assert getattr(owner, name) is form
        monkeypatch.setattr(owner, name, original)
    for found, expected in zip(quick, results(), strict=True):
        assert torch.equal(found, expected)


@triton.jit
def _calculate(a_ptr, b_ptr, c_ptr, OPERATION: tl.constexpr):
    lanes = tl.arange(0, 4)
    a, b = tl.load(a_ptr + lanes), tl.load(b_ptr + lanes)
    if OPERATION == "add":
        c = a + b
    elif OPERATION == "sub":
        c = a - b
    else:
        c = a * b
    tl.store(c_ptr + lanes, c)


LARGEST = 2**31 - 1


@pytest.mark.parametrize(
    ("operation", "a", "b"),
    [("add", LARGEST, 1), ("sub", -LARGEST, 2), ("mul", 2**16, -(2**16))],
    ids=["add", "sub", "mul"],
)
def test_integers_that_overflow_are_found(operation: str, a: int, b: int) -> None:
    calculate = getattr(torch, operation)
    for dtype in (torch.int32, torch.int64):
        small = torch.tensor([0, 3, -1, 2], dtype=dtype)
        out = torch.empty_like(small)
        _calculate[(1,)](small, small + 1, out, operation)
        assert torch.equal(out, calculate(small, small + 1))
    left, right, out = torch.tensor([[0, 0, a, 0], [0, 0, b, 0], [0, 0, 0, 0]])
    _calculate[(1,)](left, right, out, operation)
    assert torch.equal(out, calculate(left, right))
    left, right, out = (side.int() for side in (left, right, out))
    with pytest.raises(InterpreterError, match=f"int32 overflow in {operation}"):
        _calculate[(1,)](left, right, out, operation)


def test_a_shape_is_triton_s() -> None:
    for element in (tl.int32, tl.float16, tl.pointer_type(tl.float32)):
        for sizes in ([4], [2, 8], [tl.constexpr(4), 2]):
            found, expected = tl.block_type(element, sizes), object.__new__(tl.block_type)
            quick_interpreter.new_block_type(expected, element, sizes)
            assert found == expected and found.numel == expected.numel
            assert found.name == expected.name
            tensor, own = tl.tensor(None, found), object.__new__(tl.tensor)
            quick_interpreter.new_tensor(own, None, found)
            assert [size.value for size in tensor.shape] == [size.value for size in own.shape]
            assert tensor.numel.value == own.numel.value and tensor.dtype == own.dtype
