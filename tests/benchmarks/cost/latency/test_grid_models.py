"""The check by hand, for models that keep their positions, add planes, or have frames apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prunevid_kernels.benchmarks.cost.harness import IncorrectResultError
from prunevid_kernels.benchmarks.cost.latency.checks import check_method
from prunevid_kernels.benchmarks.cost.latency.subjects import load_subject, make_prompts

pytestmark = pytest.mark.one_version
MERGE = {"min_cluster_tokens": 4}


@pytest.mark.parametrize(
    ("model", "method", "options"),
    [
        ("qwen2.5-vl-7b", "prunevid", {"layer": 2, **MERGE}),
        ("qwen3-vl-8b", "prunevid", {"layer": 2, **MERGE}),
        ("qwen3-vl-8b", "fastv", {"k": 3}),
        ("qwen3.5-9b", "merge_only", MERGE),
    ],
)
def test_a_tiny_stand_in_passes_and_a_false_report_does_not(model, method, options):
    subject = load_subject(model, torch.device("cpu"), torch.float32, is_reduced=True)
    prompts = make_prompts(subject, 8, 2)
    assert len(prompts.places) == prompts.unpruned.tokens_before
    check_method(subject, prompts, method, options)
    moved = replace(prompts, places=prompts.places - 1)
    with pytest.raises(IncorrectResultError):
        check_method(subject, moved, method, options)
