"""The check by hand, for models that keep their positions, add planes, or have frames apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prunevid_kernels.benchmarks.cost.harness import IncorrectResultError
from prunevid_kernels.benchmarks.cost.latency.checks import check_method
from prunevid_kernels.benchmarks.cost.latency.subjects import (
    Prompts,
    Subject,
    load_subject,
    make_prompts,
)

pytestmark = pytest.mark.one_version
MERGE = {"min_cluster_tokens": 4}


def tiny(model: str) -> tuple[Subject, Prompts]:
    subject = load_subject(model, torch.device("cpu"), torch.float32, is_reduced=True)
    return subject, make_prompts(subject, 8, 2)


@pytest.mark.parametrize(
    ("model", "method", "options"),
    [
        ("qwen2.5-vl-7b", "prunevid", {"layer": 2, **MERGE}),
        ("qwen3-vl-8b", "fastv", {"k": 3}),
        ("qwen3.5-9b", "merge_only", MERGE),
    ],
)
def test_a_tiny_stand_in_passes(model, method, options):
    subject, prompts = tiny(model)
    assert len(prompts.places) == prompts.unpruned.videos[0].tokens_before
    check_method(subject, prompts, method, options)


def test_a_video_said_to_be_elsewhere_is_found():
    subject, prompts = tiny("qwen3-vl-8b")
    check_method(subject, prompts, "prunevid", {"layer": 2, **MERGE})
    moved = replace(prompts, places=prompts.places - 1)
    with pytest.raises(IncorrectResultError):
        check_method(subject, moved, "prunevid", {"layer": 2, **MERGE})
