"""FastV and Look-M, which act inside the decoder, against whole attention matrices."""

from __future__ import annotations

import warnings

import pytest
import torch
from families import EACH_FAMILY, FAMILIES, LLAVA_ONEVISION
from slow_baselines import SlowFastV, SlowLookM
from slow_pruning import STEPS, assert_same
from tiny_models import generate, question, text_tokens
from transformers import StaticCache

from prunevid_kernels.adapters import apply_method
from prunevid_kernels.adapters.methods.registry import METHODS

# The hooks that they use are the engine's, whose tests run on each version, as test_matrix.py does.
pytestmark = pytest.mark.one_version


def slow_for(family, model, name: str, options: dict):
    given = METHODS[name].defaults | options
    return family.slow(model, {"fastv": SlowFastV, "look_m": SlowLookM}[name], *given.values())


# What an eager layer hands on is the same for all families: one of them takes every case.
ATTENTIONS = [
    pytest.param(
        family,
        attention,
        id=f"{family.name}-{attention}",
        marks=pytest.mark.full if attention == "eager" and number else (),
    )
    for number, family in enumerate(FAMILIES)
    for attention in ("eager", "sdpa")
]


@pytest.mark.sample(10)
@pytest.mark.parametrize(("family", "attention"), ATTENTIONS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("fastv", {}, id="fastv"),
        pytest.param("fastv", {"k": 1, "keep_ratio": 0.53}, id="fastv-after-the-first-layer"),
        pytest.param("fastv", {"k": 5}, id="fastv-after-the-last-layer"),
        pytest.param("look_m", {}, id="look-m"),
        pytest.param(
            "look_m", {"recent_ratio": 0.3, "important_ratio": 0.01}, id="look-m-much-text"
        ),
    ],
)
def test_one_video_is_decoded_as_slowly(family, name, options, attention):
    model, inputs = family.build(attention), family.question()
    with apply_method(model, name, options) as handle:
        result = generate(model, inputs)
    slow = slow_for(family, model, name, options)
    slow.feed_prompt(*family.prompts(model, inputs))
    call = handle.report.last
    held = slow.entries()
    expected = [held] * 5
    if name == "fastv":
        assert call.videos[0].kept.tolist() == slow.kept[0]
        full_layers = options.get("k", 2)
        expected[:full_layers] = [len(slow.block)] * full_layers
    assert call.cached_tokens == (tuple(expected),)
    lengths = [layer.keys.shape[2] for layer in result.past_key_values.layers]
    assert lengths == [length + STEPS - 1 for length in expected]
    assert_same(result, 0, slow)


@pytest.mark.sample(4)
@EACH_FAMILY
@pytest.mark.parametrize("name", ["fastv", "look_m"])
def test_a_padded_batch_is_decoded_as_slowly(family, name):
    model, inputs = family.build(), family.batch()
    with apply_method(model, name, {}) as handle:
        result = generate(model, inputs)
    for row, pieces in enumerate(family.prompts(model, inputs)):
        slow = slow_for(family, model, name, {})
        slow.feed_prompt(pieces)
        assert_same(result, row, slow)
        own = [video.kept for video in handle.report.last.videos if video.prompt == row]
        if name == "fastv":
            assert [kept.tolist() for kept in own] == slow.kept


@pytest.mark.parametrize("name", ["fastv", "look_m"])
def test_text_after_the_answer(model, name):
    """A second turn goes on from the cut cache, with several tokens at once."""
    inputs, more = question(frames=4), text_tokens(5, 9)
    with apply_method(model, name, {}):
        first = generate(model, inputs)
        ids = torch.cat((first.sequences, torch.tensor([more])), dim=1)
        second = generate(
            model,
            {
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "past_key_values": first.past_key_values,
            },
        )
    slow = slow_for(LLAVA_ONEVISION, model, name, {})
    slow.feed_prompt(*LLAVA_ONEVISION.prompts(model, inputs))
    tokens, _ = slow.greedy(STEPS)
    assert first.sequences[0, -STEPS:].tolist() == tokens
    slow.feed_tokens(more)
    assert_same(second, 0, slow)


def test_fastv_second_video_after_a_cut_cache(model):
    inputs, more = question(frames=4), question(frames=3, seed=7)
    with apply_method(model, "fastv", {}) as handle:
        outputs = model(**inputs)
        result = generate(
            model,
            {
                "input_ids": more["input_ids"],
                "attention_mask": torch.ones(
                    1, inputs["input_ids"].shape[1] + more["input_ids"].shape[1], dtype=torch.int64
                ),
                "pixel_values_videos": more["pixel_values_videos"],
                "past_key_values": outputs.past_key_values,
            },
        )
    slow = slow_for(LLAVA_ONEVISION, model, "fastv", {})
    for turn in (inputs, more):
        slow.feed_prompt(*LLAVA_ONEVISION.prompts(model, turn))
    assert handle.report.last.videos[0].kept.tolist() == slow.kept[-1]
    assert_same(result, 0, slow)


@pytest.mark.parametrize("name", ["fastv", "look_m"])
def test_beams_have_the_scores_of_the_slow_decoder(name):
    model, inputs = LLAVA_ONEVISION.build(), LLAVA_ONEVISION.question()
    with apply_method(model, name, {}):
        result = generate(
            model, inputs, tokens=5, num_beams=3, num_return_sequences=3, output_scores=True
        )
    assert len(result.sequences) == 3
    for sequence, score in zip(result.sequences, result.sequences_scores, strict=True):
        slow = slow_for(LLAVA_ONEVISION, model, name, {})
        slow.feed_prompt(*LLAVA_ONEVISION.prompts(model, inputs))
        total = 0.0
        for token in sequence[-5:].tolist():
            total += slow.logits().log_softmax(-1)[token].item()
            slow.feed_tokens([token])
        assert abs(total / 5 - score.item()) <= 1e-5


def test_look_m_in_a_static_cache(model):
    with apply_method(model, "look_m", {}):
        expected = generate(model, question(frames=4))
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=128)
        result = generate(model, question(frames=4), past_key_values=cache, disable_compile=True)
    assert result.sequences.equal(expected.sequences)


def test_fastv_refuses_a_static_cache(model):
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=256)
    with apply_method(model, "fastv", {}) as handle:
        with pytest.raises(ValueError, match="fastv leaves layers with caches of two lengths"):
            model(**question(frames=4), past_key_values=cache)
        model(**question(frames=4))
    assert len(handle.report.calls) == 1


def test_fastv_refuses_split_heads(model, monkeypatch):
    from prunevid_kernels.adapters.engine import engine

    monkeypatch.setattr(engine, "tensor_parallel_group", lambda model: object())
    with apply_method(model, "fastv", {}) as handle:
        with pytest.raises(ValueError, match="tensor-parallel"):
            model(**question(frames=4))
        monkeypatch.undo()
        with warnings.catch_warnings():  # a prompt that was refused did not go unpruned
            warnings.simplefilter("error")
            handle.remove()
