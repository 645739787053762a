"""Latency rows: every method of every family is checked by hand, and what is wrong is not timed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prunevid_kernels import MergedVideo
from prunevid_kernels.adapters.engine import prefill
from prunevid_kernels.adapters.methods.prunevid import PruneVid
from prunevid_kernels.adapters.methods.registry import METHODS
from prunevid_kernels.benchmarks.cost.harness import IncorrectResultError
from prunevid_kernels.benchmarks.cost.latency import checks as latency_checks
from prunevid_kernels.benchmarks.cost.latency import rows as latency
from prunevid_kernels.benchmarks.cost.latency.random_models import random_model
from prunevid_kernels.benchmarks.cost.latency.rows import LatencySettings, latency_rows
from prunevid_kernels.benchmarks.cost.latency.stages import STAGES
from prunevid_kernels.benchmarks.cost.latency.subjects import (
    load_subject,
    make_prompts,
    read_frames,
)

CPU = torch.device("cpu")
FRAMES = 4
UNTIMED = LatencySettings(is_timed=False)
QUICK = LatencySettings(warmups=0, runs=5, decode_runs=2, read_runs=2, output_tokens=3)


@pytest.fixture(scope="module")
def subject():
    return load_subject("llava-onevision-0.5b", CPU, torch.float32, is_reduced=True)


def rows(subject, *methods, settings=UNTIMED, batches=(1,), **options):
    chosen = {name: subject.options(name) for name in methods}
    return list(
        latency_rows(
            subject,
            methods=chosen,
            frames=(FRAMES,),
            batches=batches,
            settings=settings,
            **options,
        )
    )


SAMPLE = [
    *"full prunevid merge_only select_only fastv prumerge look_m random_drop drop_all".split(),
    *"evs flashvid cdpruner downsample".split(),
]


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["llava-onevision-7b", "pllava-7b", "st-llm-7b"])
def test_every_method_of_every_family_passes_its_check(name, request) -> None:
    """Without --full, of the methods that only merge a sample."""
    taken = METHODS if request.config.getoption("--full") else SAMPLE
    methods = [method for method in taken if (name, method) != ("st-llm-7b", "downsample")]
    found = rows(load_subject(name, CPU, torch.float32, is_reduced=True), *methods, batches=(2,))
    assert {row.method: (row.status, row.reason) for row in found} == {
        method: ("not timed", None) for method in methods
    }
    pruned = next(row for row in found if row.method == "prunevid")
    assert len(pruned.merged_tokens) == len(pruned.kept_tokens) == 2
    # Each row of the batch has a video of its own.
    assert pruned.merged_tokens[0] != pruned.merged_tokens[1]
    assert all(0 < n < pruned.visual_tokens for n in pruned.merged_tokens + pruned.kept_tokens)
    unpruned = found[0]
    assert pruned.kv_bytes < unpruned.kv_bytes
    assert all(0 < pruned.flops[form] < unpruned.flops[form] for form in ("paper", "exact"))


def test_half_precision_passes_its_check(subject) -> None:
    half = load_subject("llava-onevision-0.5b", CPU, torch.bfloat16, is_reduced=True)
    assert [row.reason for row in rows(half, "prunevid", "merge_only")] == [None] * 3


def test_the_embedded_model_keeps_its_own_features() -> None:
    embedded = load_subject(None, CPU, torch.float32, is_reduced=True)
    found = rows(embedded, "prunevid")
    assert [(row.features, row.status) for row in found] == [("model's own", "not timed")] * 2


def test_a_timed_row_is_split_into_stages(subject) -> None:
    unpruned, pruned = rows(subject, "prunevid", settings=QUICK)
    assert unpruned.method == "full" and unpruned.speedup == 1.0
    for row in (unpruned, pruned):
        assert row.status == "ok" and row.runs == 5 and row.cold_ms > 0
        assert list(row.stages) == list(STAGES)
        assert all(time.p10 <= time.median <= time.p90 for time in row.stages.values())
        assert row.read_ms.median > 0 and row.ms_per_token.median > 0
        assert 0 < row.tokens_per_s < 1000 * 3 / row.ms_per_token.p10
        assert row.peak_memory_bytes is None  # of a CPU nothing is known
    assert pruned.speedup == unpruned.first_token_ms.median / pruned.first_token_ms.median
    assert all(unpruned.stages[name].median == 0 for name in ("merge", "scoring", "gather"))
    assert all(time.median > 0 for time in pruned.stages.values())


def test_stages_add_up_to_the_time_to_the_first_token(subject) -> None:
    prompts = make_prompts(subject, FRAMES, 1)
    row = latency._empty_row(subject, "prunevid", subject.options("prunevid"), FRAMES, 1, QUICK)
    with latency._answering(row, subject, prompts) as answer:
        one, several = answer(1).times, answer(3).times
    assert one.decode_ms == 0 and several.decode_ms > 0
    for times in (one, several):
        assert sum(times.stages.values()) == pytest.approx(times.first_token_ms)


# ------------------------------------------------------------------------------------------------
# Faults
# ------------------------------------------------------------------------------------------------


def wrong_merge(monkeypatch) -> None:
    merge = PruneVid.merge

    def noisy(self, features, frames):
        return [
            MergedVideo(video.tokens + 0.01, video.layout)
            for video in merge(self, features, frames)
        ]

    monkeypatch.setattr(PruneVid, "merge", noisy)


def wrong_hidden_states(monkeypatch) -> None:
    compact = prefill.compact

    def shifted(tensors, index, *, dim):
        return compact(tensors, (index - 1).clamp_min(0), dim=dim)

    monkeypatch.setattr(prefill, "compact", shifted)


def wrong_caches(monkeypatch) -> None:
    gather = prefill.gather_entries

    def shifted(cache, layers, entries):
        return gather(cache, layers, (entries - 1).clamp_min(0))

    monkeypatch.setattr(prefill, "gather_entries", shifted)


def wrong_report(monkeypatch) -> None:
    record = prefill._record

    def less(running):
        call = record(running)
        lengths = tuple(tuple(n - 1 for n in prompt) for prompt in call.cached_tokens)
        return replace(call, cached_tokens=lengths)

    monkeypatch.setattr(prefill, "_record", less)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        pytest.param(wrong_merge, "merged tokens: ", id="merge"),
        pytest.param(wrong_hidden_states, "logits of token 1: ", id="hidden-states"),
        pytest.param(wrong_caches, "logits of token 2: ", id="caches"),
        pytest.param(wrong_report, "the caches hold ", id="report"),
    ],
)
def test_a_wrong_method_is_not_timed(subject, monkeypatch, plant, reason) -> None:
    plant(monkeypatch)
    unpruned, pruned = rows(subject, "prunevid", settings=QUICK)
    assert pruned.status == "incorrect" and pruned.reason.startswith(reason)
    assert pruned.first_token_ms is pruned.ms_per_token is pruned.cold_ms is pruned.speedup is None
    assert pruned.stages == {} and pruned.flops == {} and pruned.runs == 0


def test_an_answer_of_another_length_is_an_error(subject, monkeypatch) -> None:
    prompts = make_prompts(subject, FRAMES, 1)
    model = subject.video_model.model
    short = {"max_new_tokens": 1, "min_new_tokens": 1}
    monkeypatch.setattr(
        model, "generate", lambda **options: type(model).generate(model, **{**options, **short})
    )
    with pytest.raises(IncorrectResultError, match="1 tokens were generated, not 3"):
        latency_checks.generate(model, prompts, 3)


def test_what_cannot_run_leaves_the_other_rows(subject, monkeypatch) -> None:
    apply = latency.apply_method

    def fail(model, name, options):
        if name == "fastv":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")
        return apply(model, name, options)

    monkeypatch.setattr(latency, "apply_method", fail)
    found = rows(subject, "fastv", "merge_only")
    assert [row.status for row in found] == ["not timed", "failed", "not timed"]
    assert found[1].reason == "OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB"


def test_no_row_is_begun_when_time_is_up(subject) -> None:
    left = iter([True, False])
    found = rows(subject, "prunevid", has_time=lambda: next(left))
    assert [row.method for row in found] == ["full"]


# ------------------------------------------------------------------------------------------------
# Inputs
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 193])
def test_more_frames_than_the_clip_has_are_read_from_its_start(count) -> None:
    frames = read_frames(count)
    assert len(frames) == count
    assert count <= 192 or (frames[192:] == frames[: count - 192]).all()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llava-onevision-7b", 8.03e9),
        ("llava-onevision-0.5b", 1.03e9),
        ("pllava-7b", 7.06e9),
        ("st-llm-7b", 8.05e9),
    ],
)
def test_random_models_have_the_published_sizes(name, parameters) -> None:
    model = random_model(name, torch.device("meta"), torch.bfloat16, is_reduced=False).model
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.02)
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("once_s", "expected"), [(0.1, 50), (1.0, 20), (9.0, 5)], ids=["all", "some", "least"]
)
def test_slow_rows_have_fewer_runs(once_s, expected) -> None:
    assert LatencySettings(seconds=20.0).affordable(50, once_s, least=5) == expected
