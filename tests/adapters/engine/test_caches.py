"""A pruned cache in a caller's hands: copied, cropped, static, fed by loops and over turns."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny_models
import torch
from slow_pruning import assert_close
from tiny_models import (
    CONFIG,
    clip,
    generate,
    logits_of,
    question,
    text_tokens,
    two_prompts,
    video_tokens,
)
from transformers import StaticCache

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import prune

SCORES = pytest.mark.parametrize("score", ["nope", "rope"])


def test_copied_cache_goes_on_on_its_own(model):
    inputs = two_prompts()
    with prune(model, CONFIG):
        result = generate(model, inputs, tokens=3)
        ids = result.sequences
        mask = torch.cat((inputs["attention_mask"], torch.ones(2, 3, dtype=torch.int64)), dim=1)
        twin = copy.deepcopy(result.past_key_values)
        follow = {"input_ids": ids, "attention_mask": mask}
        first = generate(model, {**follow, "past_key_values": result.past_key_values})
        second = generate(model, {**follow, "past_key_values": twin})
    assert first.sequences.equal(second.sequences)
    assert logits_of(first).equal(logits_of(second))


def test_cache_rows_can_be_repeated_and_chosen(model):
    inputs = two_prompts()
    with prune(model, CONFIG):
        result = generate(model, inputs, tokens=3)
        cache = result.past_key_values
        expected = step(model, copy.deepcopy(cache), result.sequences[:, -1:])
        cache.batch_repeat_interleave(2)
        repeated = result.sequences[:, -1:].repeat_interleave(2, dim=0)
        assert_close(step(model, copy.deepcopy(cache), repeated), expected[[0, 0, 1, 1]])
        cache.reorder_cache(torch.tensor([3, 0, 2, 1]))
        moved = step(model, copy.deepcopy(cache), repeated[[3, 0, 2, 1]])
        assert_close(moved, expected[[1, 0, 1, 0]])
        cache.batch_select_indices(torch.tensor([2]))
        assert_close(step(model, cache, repeated[2:3]), expected[1:])


def step(model, cache, ids: torch.Tensor) -> torch.Tensor:
    """One forward call as a bare loop makes it: no mask, no positions."""
    return model(input_ids=ids, past_key_values=cache).logits[:, -1]


def test_cropping_stops_at_the_prompt(model):
    with prune(model, CONFIG):
        result = generate(model, question(), tokens=4)
        cache = result.past_key_values
        length = cache.get_seq_length()
        cache.crop(-2)
        assert cache.get_seq_length() == length - 2
        with pytest.raises(ValueError, match="at most the 1 tokens fed since its prompt"):
            cache.crop(-2)


@SCORES
def test_raw_loop_without_mask_and_positions(model, score):
    inputs = question()
    with prune(model, PruneVidConfig(layer=1, score=score)):
        expected = generate(model, inputs)
        outputs = model(
            input_ids=inputs["input_ids"], pixel_values_videos=inputs["pixel_values_videos"]
        )
        logits = [outputs.logits[:, -1]]
        for _ in range(8):
            outputs = model(
                input_ids=logits[-1].argmax(-1, keepdim=True),
                past_key_values=outputs.past_key_values,
            )
            logits.append(outputs.logits[:, -1])
    assert_close(torch.stack(logits), logits_of(expected))


def test_core_model_called_directly(model):
    """The model without its head is an entry too, with arguments given by place."""
    inputs = question()
    with prune(model, CONFIG) as handle:
        expected = model(**inputs).logits[:, -1]
        hidden = model.model(
            inputs["input_ids"], pixel_values_videos=inputs["pixel_values_videos"]
        ).last_hidden_state
    assert [call.kind for call in handle.report.calls] == ["pruned", "pruned"]
    assert_close(model.lm_head(hidden)[:, -1], expected)


def test_only_new_tokens_of_a_turn(model):
    """The new tokens alone, with a mask over everything, mean the same as the whole chat."""
    new = torch.tensor([text_tokens(5, 3)])
    with prune(model, CONFIG):
        result = generate(model, question())
        ids = torch.cat((result.sequences, new), dim=1)
        mask = torch.ones_like(ids)
        twin = copy.deepcopy(result.past_key_values)
        whole = generate(
            model,
            {
                "input_ids": ids,
                "attention_mask": mask,
                "past_key_values": result.past_key_values,
            },
        )
        tail = generate(
            model,
            {"input_ids": ids[:, -6:], "attention_mask": mask, "past_key_values": twin},
        )
    assert whole.sequences[:, -9:].equal(tail.sequences[:, -9:])
    assert_close(logits_of(whole), logits_of(tail))


def test_generated_placeholder_id_is_only_a_token(model):
    """The model may say the video placeholder itself."""
    inputs = question()
    with prune(model, CONFIG) as handle:
        outputs = model(**inputs)
        ids = torch.tensor([[tiny_models.VIDEO_ID]])
        said = model(input_ids=ids, past_key_values=outputs.past_key_values)
    assert said.logits.shape == (1, 1, tiny_models.VOCABULARY)
    assert len(handle.report.calls) == 1


@SCORES
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_static_cache_equals_dynamic(build, attention, score):
    model, inputs = build("qwen2", attention), two_prompts()
    with prune(model, PruneVidConfig(layer=1, score=score)):
        expected = generate(model, inputs)
        static = generate(model, inputs, cache_implementation="static")
    assert isinstance(static.past_key_values, StaticCache)
    assert static.sequences.equal(expected.sequences)
    assert_close(logits_of(static), logits_of(expected))


def test_static_cache_reused_across_calls(model):
    """Emptied by ``reset()``, it is a plain cache again, for prompts with and without video."""
    inputs = [
        question(8),
        {"input_ids": torch.tensor([text_tokens(12)])},
        two_prompts(),
        question(4, seed=3, after=9),
    ]
    config = model.config.get_text_config()
    caches = {batch: StaticCache(config=config, max_cache_len=200) for batch in (1, 2)}
    with prune(model, CONFIG):
        expected = [generate(model, each) for each in inputs]
        for each, dynamic in zip(inputs, expected, strict=True):
            cache = caches[len(each["input_ids"])]
            result = generate(model, {**each, "past_key_values": cache})
            assert result.sequences.equal(dynamic.sequences)
            assert_close(logits_of(result), logits_of(dynamic))
            cache.reset()
            assert type(cache) is StaticCache
            assert int(cache.get_seq_length()) == 0


def test_conversation_in_a_static_cache(model):
    new = text_tokens(5, 3)
    follow = text_tokens(2, 8) + video_tokens(6) + text_tokens(6, 9)
    turns = []
    for static in (False, True):
        kwargs: dict[str, Any] = {}
        if static:
            config = model.config.get_text_config()
            kwargs["past_key_values"] = StaticCache(config=config, max_cache_len=400)
        with prune(model, CONFIG):
            first = generate(model, question(), **kwargs)
            ids = torch.cat((first.sequences, torch.tensor([new])), dim=1)
            cache = first.past_key_values
            second = generate(model, {"input_ids": ids, "past_key_values": cache})
            ids = torch.cat((second.sequences, torch.tensor([follow])), dim=1)
            third = generate(
                model,
                {
                    "input_ids": ids,
                    "past_key_values": cache,
                    "pixel_values_videos": clip(6, 7)[None],
                },
            )
        turns.append((logits_of(first), logits_of(second), logits_of(third)))
    for dynamic, static in zip(*turns, strict=True):
        assert_close(static, dynamic)
