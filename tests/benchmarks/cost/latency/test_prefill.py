"""A merged prefill beside the plain one: turns, processor time, peak memory, the check before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prunevid_kernels.adapters import ModelError
from prunevid_kernels.benchmarks.cost.harness import IncorrectResultError
from prunevid_kernels.benchmarks.cost.latency import prefill as module
from prunevid_kernels.benchmarks.cost.latency.prefill import compare, main, prefill
from prunevid_kernels.benchmarks.cost.latency.random_models import shallow_model
from prunevid_kernels.benchmarks.cost.latency.subjects import Subject, load_subject, make_prompts

pytestmark = pytest.mark.one_version
MODEL, FRAMES = "qwen2.5-vl-7b", 16
MIB = 2**20


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load_subject(MODEL, torch.device("cpu"), torch.float32, is_reduced=True)


def test_the_command_writes_what_it_measured(subject, tmp_path: Path, monkeypatch, capsys):
    order, measured = [], module.prefill

    def noted(*args, is_merged):
        order.append(is_merged)
        return measured(*args, is_merged=is_merged)

    monkeypatch.setattr(module, "prefill", noted)
    monkeypatch.setattr(module, "shallow_model", lambda *_: subject.video_model)
    threads = torch.get_num_threads()
    assert main(["--frames", str(FRAMES), "--rounds", "2", "--out", str(tmp_path)]) == 0
    assert torch.get_num_threads() == threads
    assert order == [True, False, True, True, False]  # warm, then pairs in alternating order
    results = json.loads(
        Path(json.loads(capsys.readouterr().out.splitlines()[-1])["results"]).read_text()
    )
    assert results["kind"] == "prefill" and results["environment"]["cpu_threads"] == 1
    (row,) = results["rows"]
    plain, merged = row["plain"], row["merged"]
    assert plain["tokens"] == row["visual_tokens"] + row["text_tokens"] > merged["tokens"]
    assert plain["kv_bytes"] * merged["tokens"] == merged["kv_bytes"] * plain["tokens"]
    assert 0 < row["macs_ratio"] < 1
    for side in (plain, merged):
        assert side["cpu_ms"]["median"] > 0 and side["peak_bytes"] > 0
    assert 0 < row["merge_cpu_ms"]["median"] < merged["cpu_ms"]["median"]


def test_the_peak_is_what_was_held_at_most_and_not_in_the_end(subject):
    prompts = make_prompts(subject, FRAMES, 1)
    plain, _ = prefill(subject, prompts, is_merged=False)

    def hold(*_):
        torch.ones(48 * MIB // 4)  # for a moment

    hook = subject.decoder.layers[1].register_forward_pre_hook(hold)
    try:
        held, _ = prefill(subject, prompts, is_merged=False)
    finally:
        hook.remove()
    after, _ = prefill(subject, prompts, is_merged=False)
    assert 40 * MIB < held.peak_bytes - plain.peak_bytes < 60 * MIB
    assert after.peak_bytes < 40 * MIB


def test_nothing_is_measured_of_a_wrong_merge(subject, monkeypatch):
    def elsewhere(*args):
        prompts = make_prompts(*args)
        return replace(prompts, places=prompts.places - 1)

    monkeypatch.setattr(module, "make_prompts", elsewhere)
    monkeypatch.setattr(module, "prefill", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(IncorrectResultError):
        compare(subject, FRAMES, 2)


def test_what_cannot_be_measured_is_said(subject, monkeypatch, tmp_path: Path):
    with pytest.raises(ValueError, match="rounds must be at least 2, got 1"):
        compare(subject, FRAMES, 1)
    with pytest.raises(ValueError, match="model must be one of .*, got 'gpt'"):
        main(["--model", "gpt", "--out", str(tmp_path)])
    monkeypatch.setattr(module, "PROCESS", tmp_path)
    with pytest.raises(ModelError, match="clear_refs, which is missing"):
        compare(subject, FRAMES, 2)


@pytest.mark.parametrize("name", ["qwen2.5-vl-7b", "qwen3-vl-8b"])
def test_a_shallow_model_has_the_published_width_and_frames(name):
    model = shallow_model(name, 3, torch.device("meta"), torch.float32)
    config = model.model.get_decoder().config
    published = {"qwen2.5-vl-7b": (3584, 18944, 28), "qwen3-vl-8b": (4096, 12288, 32)}[name]
    found = (config.hidden_size, config.intermediate_size, config.num_attention_heads)
    assert (found, config.num_hidden_layers) == (published, 3)
    assert model.processor.max_pixels > 24 * 28 * 28


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("llava-onevision-7b", 2, "no tower for videos of any resolution"),
        ("qwen2.5-vl-7b", 0, r"layers must be in \[1, 28\], got 0"),
        ("qwen2.5-vl-7b", 29, r"layers must be in \[1, 28\], got 29"),
    ],
)
def test_a_size_that_cannot_be_shallow_is_refused(name, layers, message):
    with pytest.raises(ValueError, match=message):
        shallow_model(name, layers, torch.device("meta"), torch.float32)
