"""The rows of a stage: which there are, and what each says that it is."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from doubling import CPU

from prunevid_kernels.benchmarks.cost.harness import IncorrectResultError
from prunevid_kernels.benchmarks.cost.kernels import eager_variants, stages
from prunevid_kernels.benchmarks.cost.kernels.cases import REDUCED, Case, attention_inputs

CASE = Case(REDUCED, REDUCED.frames, "fp32")


def test_every_eager_variant_but_the_loops_has_a_compiled_form():
    for benchmark in stages.stage_benchmarks(CASE, CPU, ours="reference"):
        compiled = [v.name for v in benchmark.variants if v.is_compiled]
        ours = [v.name for v in benchmark.variants if v.name.startswith("prunevid_kernels")]
        eager = len(benchmark.variants) - len(compiled) - len(ours)
        assert len(compiled) == eager - (benchmark.name == "merge")
        assert all(name.endswith(", torch.compile") for name in compiled)


@pytest.mark.parametrize("ours", ["triton", "reference"])
def test_our_rows_say_which_implementation_they_are(ours):
    names = {
        variant.name
        for benchmark in stages.stage_benchmarks(CASE, CPU, ours=ours, with_compile=False)
        for variant in benchmark.variants
        if variant.name.startswith("prunevid_kernels")
    }
    name = {"triton": "prunevid_kernels", "reference": "prunevid_kernels, reference"}[ours]
    assert names == {name, f"{name}, budget"}


def largest_attention_of_each_key(query, key, reduction):
    """What the documentation of ``flash-colreduce`` says of it: [B, H, S], one key head a query
    head."""
    assert reduction == "max" and query.is_contiguous() and query.shape[1] == key.shape[1]
    attention = (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)
    return attention.amax(dim=2).to(query.dtype)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_flash_colreduce_is_given_what_it_knows(dtype, monkeypatch):
    assert not eager_variants.has_flash_colreduce()  # no extra brings it
    module = ModuleType("flash_colreduce")
    module.flash_colreduce = largest_attention_of_each_key
    monkeypatch.setitem(sys.modules, "flash_colreduce", module)
    inputs = attention_inputs(Case(REDUCED, 4, dtype), seed=0, device="cpu")
    assert inputs.query.shape[1] > inputs.key.shape[1]
    scores = eager_variants.flash_colreduce_scores(inputs)
    assert scores.dtype == torch.float32
    stages._check_scores(inputs, scores)
    with pytest.raises(IncorrectResultError):
        stages._check_scores(inputs, scores.roll(1, dims=1))
