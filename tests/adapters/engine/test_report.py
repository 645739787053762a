"""What the report says of each call, checked against what the decoder really ran on."""

from __future__ import annotations

import time
import warnings

import pytest
import torch
from tiny_models import (
    CONFIG,
    TOKENS_PER_FRAME,
    clip,
    features,
    generate,
    left_pad,
    question,
    text_tokens,
    video_tokens,
)

from prunevid_kernels import PruneVidConfig, merge_video, select_tokens
from prunevid_kernels.adapters import NothingKeptWarning, PruneReport, prune
from prunevid_kernels.adapters.engine.report import StageTimer
from prunevid_kernels.adapters.methods.prunevid import PruneVid


def test_a_line_for_each_call(model):
    with prune(model, CONFIG) as handle:
        assert str(handle.report) == "no call"
        with pytest.raises(ValueError, match="the report is empty"):
            _ = handle.report.last
        generate(model, question())
        generate(model, {"input_ids": torch.tensor([text_tokens(4)])}, tokens=3)
        generate(model, question(frames=4))
    report = handle.report
    assert [call.kind for call in report.calls] == ["pruned", "text-only", "pruned"]
    first, second, third = str(report).splitlines()
    assert first.startswith("call 0: 1 video(s) in 1 prompt: 128 visual tokens -> ")
    assert second == "call 1: text-only, passed through (1 prompt)"
    assert "64 visual tokens" in third and "after layer 1 of 5" in third
    assert report.last is report.calls[2] and report.pruned_calls == report.calls[::2]
    report.clear()
    assert report == PruneReport()


def test_counts_are_the_lengths_that_layers_ran_on(model):
    lengths: list[int] = []
    hooks = [
        layer.self_attn.o_proj.register_forward_hook(
            lambda module, args, output: lengths.append(args[0].shape[1])
        )
        for layer in model.model.language_model.layers
    ]
    with prune(model, CONFIG) as handle:
        model(**question())
    for hook in hooks:
        hook.remove()
    call = handle.report.last
    other = call.other_tokens[0]
    assert other == 13
    expected = [round(ratio * call.tokens_before) for ratio in call.retained_ratio_per_layer]
    assert [length - other for length in lengths] == expected
    assert (call.num_layers, call.layer, len(expected)) == (5, 1, 5)
    assert call.tokens_before > call.tokens_merged > call.tokens_kept > 0


def test_records_hold_what_the_core_decided(model):
    clips = torch.stack([clip(8, 1), clip(8, 2)])
    video = video_tokens(8)
    ids, mask = left_pad(
        [
            text_tokens(3) + video + text_tokens(2, 1) + video + text_tokens(4, 2),
            text_tokens(5, 3),
        ]
    )
    with prune(model, CONFIG) as handle:
        model(input_ids=ids, attention_mask=mask, pixel_values_videos=clips)
    records = handle.report.last.videos
    assert [record.prompt for record in records] == [0, 0]
    size = 8 * TOKENS_PER_FRAME
    assert [record.span for record in records] == [(3, 3 + size), (6 + size, 6 + 2 * size)]
    for record, pixels in zip(records, clips, strict=True):
        merged = merge_video(features(model, pixels), CONFIG)
        assert record.layout.source_to_merged.equal(merged.layout.source_to_merged)
        assert record.tokens_merged == len(merged.tokens) == len(record.scores)
        assert record.scores.dtype == torch.float32
        assert record.kept.equal(select_tokens(record.scores, merged.layout, CONFIG))
    assert handle.report.last.other_tokens == (3 + 1 + 2 + 1 + 4, 5)


def test_stages_are_timed(model):
    started = time.perf_counter()
    with prune(model, CONFIG) as handle:
        model(**question())
    total = time.perf_counter() - started
    call = handle.report.last
    parts = [call.merge_seconds, call.score_seconds, call.gather_seconds]
    assert min(parts) > 0 and sum(parts) < total
    with prune(model, PruneVidConfig(select=False)) as handle:
        model(**question())
    assert handle.report.last.score_seconds == handle.report.last.gather_seconds == 0


def test_timer_adds_up():
    timer = StageTimer()
    for _ in range(2):
        with timer.measure("merge", torch.device("cpu")):
            time.sleep(0.01)
    assert timer.seconds("merge") >= 0.02
    assert timer.seconds("gather") == 0


def test_a_video_of_which_nothing_is_kept_is_a_warning():
    class Attention:
        def score(self, mode, place):
            return torch.rand(len(merged.tokens))

    config = PruneVidConfig(budget=2)
    merged = merge_video(torch.randn(8, 9, 16), config)
    with pytest.warns(NothingKeptWarning, match="of the 2 merged tokens of a video none was kept"):
        selection = PruneVid(config).select_video(Attention(), None, merged)
    assert len(selection.kept) == 0
    config = PruneVidConfig(budget=30)
    merged = merge_video(torch.randn(8, 9, 16), config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(PruneVid(config).select_video(Attention(), None, merged).kept) > 0
