"""The interpreter of the tests computes what Triton's own does."""

from __future__ import annotations

import numpy as np
import pytest
import quick_interpreter
import torch
import triton.language as tl
from triton.runtime import interpreter

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
    monkeypatch.setattr(interpreter, "_patch_builtin", quick_interpreter.search_builtins)
    monkeypatch.setattr(interpreter, "_get_np_dtype", quick_interpreter.search_dtype)
    for found, expected in zip(quick, results(), strict=True):
        assert torch.equal(found, expected)
