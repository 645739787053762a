"""Latency and its check by hand, for models that keep their positions, add planes, have frames
apart or see them as images, or have layers without keys and values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prunevid_kernels.benchmarks.cost.harness import IncorrectResultError
from prunevid_kernels.benchmarks.cost.latency.checks import check_method
from prunevid_kernels.benchmarks.cost.latency.rows import LatencySettings, latency_rows
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


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("model", "method", "options"),
    [
        ("qwen2.5-vl-7b", "prunevid", {"layer": 2, **MERGE}),
        ("qwen3-vl-8b", "fastv", {"k": 3}),
        ("qwen3.5-9b", "merge_only", MERGE),
        ("qwen2-vl-7b", "prunevid", {"layer": 2, **MERGE}),
        ("llava-next-video-7b", "prunevid", {"layer": 2, **MERGE}),
        ("internvl3-8b", "prunevid", {"layer": 2, **MERGE}),
        ("internvl3.5-4b", "prumerge", {}),
        ("smolvlm2-2.2b", "fastv", {"k": 3}),
        ("videollama3-7b", "prunevid", {"layer": 2, **MERGE}),
    ],
)
def test_a_tiny_stand_in_passes(model, method, options):
    subject, prompts = tiny(model)
    assert len(prompts.places) == prompts.unpruned.videos[0].tokens_before
    check_method(subject, prompts, method, options)


@pytest.mark.parametrize("model", ["qwen3.5-9b", "internvl3-8b"])
def test_rows_are_measured(model):
    """Bytes are those of keys and values; frames that are images are announced to the model."""
    subject = load_subject(model, torch.device("cpu"), torch.float32, is_reduced=True)
    unpruned, pruned = latency_rows(
        subject,
        methods={"merge_only": {"budget": 0.25}},
        frames=(8,),
        batches=(2,),
        settings=LatencySettings(is_timed=False),
    )
    assert [(row.status, row.reason) for row in (unpruned, pruned)] == [("not timed", None)] * 2
    assert all(4 * merged == pruned.visual_tokens for merged in pruned.merged_tokens)
    assert 0 < pruned.kv_bytes < unpruned.kv_bytes


def test_a_video_said_to_be_elsewhere_is_found():
    subject, prompts = tiny("qwen3-vl-8b")
    check_method(subject, prompts, "prunevid", {"layer": 2, **MERGE})
    moved = replace(prompts, places=prompts.places - 1)
    with pytest.raises(IncorrectResultError):
        check_method(subject, moved, "prunevid", {"layer": 2, **MERGE})
