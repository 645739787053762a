"""The benchmark's inputs: the published shapes, and videos that the merge treats like real ones."""

from __future__ import annotations

import random

import pytest
import torch

from prunevid_kernels import PruneVidConfig, merge_video
from prunevid_kernels.benchmarks.cost.kernels.cases import (
    FRAMES,
    MEAN_SCENE_FRAMES,
    MODELS,
    REDUCED,
    Case,
    attention_inputs,
    compaction_inputs,
    real_cases,
    scene_lengths,
    video_features,
)


@pytest.mark.parametrize(
    ("model", "frames", "tokens", "channels", "head_dim"),
    [
        pytest.param("pllava-7b", 16, 144, 4096, 128, id="pllava"),
        pytest.param("st-llm-7b", 16, 32, 4096, 128, id="st-llm"),
        pytest.param("llava-onevision-7b", 32, 196, 3584, 128, id="onevision-7b"),
        pytest.param("llava-onevision-0.5b", 32, 196, 896, 64, id="onevision-0.5b"),
    ],
)
def test_shapes_are_the_published_ones(model, frames, tokens, channels, head_dim):
    shape = MODELS[model]
    assert (shape.frames, shape.tokens_per_frame, shape.channels) == (frames, tokens, channels)
    assert shape.head_dim == head_dim
    assert shape.decoder.num_heads % shape.decoder.num_kv_heads == 0


def test_cases_are_models_times_frames_times_dtypes():
    cases = list(real_cases(("pllava-7b", "st-llm-7b"), FRAMES, ("bf16", "fp16")))
    assert len(cases) == 2 * len(FRAMES) * 2 == len({case.name for case in cases})
    published = [case.frames for case in real_cases(tuple(MODELS), None, ("bf16",))]
    assert published == [shape.frames for shape in MODELS.values()]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        pytest.param((("gpt",), None, ("bf16",)), "model", id="model"),
        pytest.param((("pllava-7b",), None, ("int8",)), "dtype", id="dtype"),
        pytest.param((("pllava-7b",), (0,), ("bf16",)), "frames", id="frames"),
    ],
)
def test_unknown_cases_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        list(real_cases(*arguments))


@pytest.mark.parametrize("frames", [1, 3, 4, 8, 9, 63, 512])
def test_scenes_fill_the_video_and_have_two_frames_or_more(frames):
    for seed in range(20):
        lengths = scene_lengths(frames, random.Random(seed))
        assert sum(lengths) == frames
        assert min(lengths) >= min(frames, MEAN_SCENE_FRAMES // 2)


@pytest.mark.parametrize(
    ("frames", "tokens"),
    [
        pytest.param(32, 196, id="onevision"),
        pytest.param(16, 144, id="pllava"),
        pytest.param(16, 32, id="st-llm"),
    ],
)
def test_merge_leaves_about_what_it_leaves_of_real_videos(frames, tokens):
    ratios, static = [], []
    for seed in range(4):
        features = video_features(frames, tokens, 128, seed=seed)
        assert features.std().item() == pytest.approx(1.1, abs=0.1)
        layout = merge_video(features, PruneVidConfig(), impl="reference").layout
        ratios.append(layout.num_merged / features[..., 0].numel())
        static.append(layout.static_mask().float().mean().item())
        assert 1 < layout.num_segments < frames / 2
    assert 0.3 < sum(ratios) / len(ratios) < 0.45
    assert 0.15 < sum(static) / len(static) < 0.6


def test_videos_are_seeded_and_rounded_only_at_the_end():
    first, again = (video_features(9, 31, 24, seed=5) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, video_features(9, 31, 24, seed=6))
    half = video_features(9, 31, 24, seed=5, dtype=torch.bfloat16)
    assert torch.equal(half, first.bfloat16())


def test_decoder_inputs_have_the_prompt_of_the_case():
    case = Case(REDUCED, 8, "bf16")
    attention = attention_inputs(case, seed=0, device="cpu", batch=2)
    assert attention.query.shape == (2, 4, case.merged_length, 16)
    assert attention.key.shape == (2, 2, case.merged_length, 16)
    assert attention.question_query.shape[2] == REDUCED.text_after
    assert attention.visual_slice.stop - attention.visual_slice.start == case.merged_tokens

    compaction = compaction_inputs(case, seed=0, device="cpu")
    assert len(compaction.tensors) == 1 + 2 * (REDUCED.layer + 1)
    assert all(tensor.shape[2] == case.merged_length for tensor in compaction.tensors)
    kept = compaction.index
    assert torch.equal(kept, kept.unique())
    assert len(kept) == REDUCED.text_before + case.kept_tokens + REDUCED.text_after
    assert kept[-1] == case.merged_length - 1
