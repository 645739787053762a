"""The environment that the other tests rely on is really there."""

import os

import pytest
import torch
import triton
from triton.runtime.interpreter import InterpretedFunction


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_fresh_floating_memory_is_nan(dtype):
    like = torch.zeros(3, dtype=dtype)
    for fresh in (torch.empty(3, dtype=dtype), torch.empty_like(like), like.new_empty(3)):
        assert fresh.isnan().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64], ids=str)
def test_fresh_integer_memory_is_out_of_range(dtype):
    assert (torch.empty(3, dtype=dtype) == torch.iinfo(dtype).max).all()


def test_kernels_run_under_the_interpreter():
    assert isinstance(triton.jit(lambda: None), InterpretedFunction)


def test_transformers_is_the_version_asked_for():
    expected = os.environ.get("PRUNEVID_EXPECT_TRANSFORMERS")
    if expected is None:
        pytest.skip("PRUNEVID_EXPECT_TRANSFORMERS is not set: any supported version will do")
    import transformers

    assert transformers.__version__ == expected
