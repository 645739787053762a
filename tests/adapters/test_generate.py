"""Everything that ``generate`` does around a forward call still works on a pruned prompt."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny_models
import torch
from slow_pruning import SlowDecoder
from tiny_models import (
    CONFIG,
    clip,
    features,
    generate,
    left_pad,
    question,
    text_tokens,
    video_tokens,
)
from transformers import AttentionInterface, CompileConfig, StaticCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import prune
from prunevid_kernels.adapters.cache import PrunedCache

SCORES = pytest.mark.parametrize("score", ["nope", "rope"])


def logits_of(result) -> torch.Tensor:
    return torch.stack(result.logits)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def two_prompts() -> dict[str, torch.Tensor]:
    """A padded batch whose rows keep different numbers of tokens."""
    ids, mask = left_pad(
        [
            text_tokens(3) + video_tokens(8) + text_tokens(4, 1),
            text_tokens(9, 2) + video_tokens(8) + text_tokens(6, 3),
        ]
    )
    clips = torch.stack([clip(8, 1), clip(8, 2)])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values_videos": clips}


def row_of(inputs: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    return {name: tensor[row : row + 1] for name, tensor in inputs.items()}


# ------------------------------------------------------------------------------ ways to decode


@SCORES
def test_beam_search_of_a_padded_batch(model, score):
    """Beams reorder the cache's rows, whose padding differs."""
    inputs = two_prompts()
    with prune(model, PruneVidConfig(layer=1, score=score)) as handle:
        together = model.generate(**inputs, max_new_tokens=8, num_beams=3)
        assert len(handle.report.last.videos) == 6
        for row in range(2):
            alone = model.generate(**row_of(inputs, row), max_new_tokens=8, num_beams=3)
            assert together[row, -8:].equal(alone[0, -8:])


def test_beams_have_the_scores_of_the_slow_decoder(model):
    inputs = question()
    with prune(model, CONFIG):
        result = generate(
            model, inputs, tokens=6, num_beams=3, num_return_sequences=3, output_scores=True
        )
    for sequence, score in zip(result.sequences, result.sequences_scores, strict=True):
        slow = slow_prompt(model, inputs, CONFIG)
        total = 0.0
        for token in sequence[-6:].tolist():
            total += slow.logits().log_softmax(-1)[token].item()
            slow.feed_tokens([token])
        assert abs(total / 6 - score.item()) <= 1e-5


def slow_prompt(model, inputs, config, forced=None) -> SlowDecoder:
    """The slow decoder, fed a prompt of :func:`question`."""
    slow = SlowDecoder(model.model.language_model, model.lm_head, config)
    ids = inputs["input_ids"][0].tolist()
    slow.feed_prompt(
        [
            ("text", ids[:5]),
            ("video", features(model, inputs["pixel_values_videos"][0])),
            ("other", model.model.image_newline[None]),
            ("text", ids[-7:]),
        ],
        forced,
    )
    return slow


def test_several_returned_sequences(model):
    inputs = question()
    with prune(model, CONFIG) as handle:
        greedy = generate(model, inputs)
        sampled = generate(
            model, inputs, do_sample=True, top_k=1, num_return_sequences=3
        )  # top_k=1: each sample is the greedy one
        assert [video.prompt for video in handle.report.last.videos] == [0, 1, 2]
    for row in range(3):
        assert sampled.sequences[row].equal(greedy.sequences[0])


def repeating_question() -> dict[str, torch.Tensor]:
    """A prompt in which prompt lookup finds candidates from the first step on."""
    inputs = question()
    words = text_tokens(4, 77)
    ids = inputs["input_ids"][0].tolist()[:-7] + words + words[:3]
    inputs["input_ids"] = torch.tensor([ids])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs


@SCORES
def test_prompt_lookup_equals_greedy(model, score):
    inputs = repeating_question()
    lengths = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    with prune(model, PruneVidConfig(layer=1, score=score)) as handle:
        greedy = generate(model, inputs, tokens=14)
        kept = handle.report.last.videos[0].kept
        lengths.clear()
        looked_up = generate(model, inputs, tokens=14, prompt_lookup_num_tokens=3)
    hook.remove()
    assert lengths[:2] == [144, 141], "three candidates, then the prompt alone, then the rest"
    assert looked_up.sequences.equal(greedy.sequences)
    assert_close(logits_of(looked_up), logits_of(greedy))
    assert handle.report.last.videos[0].kept.equal(kept)


@SCORES
def test_assisted_decoding_equals_greedy(model, score, monkeypatch):
    """The assistant guesses badly, so that candidates are rejected and the cache is cropped."""
    torch.manual_seed(1)
    assistant = copy.deepcopy(model)
    for weight in assistant.model.language_model.parameters():
        weight.add_(torch.randn_like(weight) * 0.02)
    assistant.generation_config.num_assistant_tokens = 4
    assistant.generation_config.assistant_confidence_threshold = 0.0
    cropped: list[int] = []
    crop = PrunedCache.crop
    monkeypatch.setattr(
        PrunedCache, "crop", lambda cache, count: (cropped.append(count), crop(cache, count))
    )
    with prune(model, PruneVidConfig(layer=1, score=score)):
        greedy = generate(model, question(), tokens=14)
        assisted = generate(model, question(), tokens=14, assistant_model=assistant)
    assert min(cropped) < 0, "no candidate was rejected"
    assert assisted.sequences.equal(greedy.sequences)
    assert_close(logits_of(assisted), logits_of(greedy))


def test_sampling_is_reproducible(model):
    with prune(model, CONFIG):
        results = []
        for _ in range(2):
            torch.manual_seed(5)
            results.append(model.generate(**question(), max_new_tokens=9, do_sample=True))
    assert results[0].equal(results[1])


def test_hidden_states_and_attentions_are_recorded(build):
    model = build("qwen2", "eager")
    with prune(model, CONFIG) as handle:
        result = generate(
            model, question(), tokens=3, output_hidden_states=True, output_attentions=True
        )
    call = handle.report.last
    merged = call.other_tokens[0] + call.tokens_merged
    kept = call.other_tokens[0] + call.tokens_kept
    lengths = [attention.shape[-1] for attention in result.attentions[0]]
    assert lengths == [merged] * 2 + [kept] * 3
    assert [state.shape[1] for state in result.hidden_states[0]][-1] == kept
    assert [attention.shape[-1] for attention in result.attentions[1]] == [kept + 1] * 5


# ------------------------------------------------------------------------------ caches


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
        question(4, seed=3, behind=9),
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


# ------------------------------------------------------------------------------ attention


def flash_shaped_attention(
    module, query, key, value, attention_mask, scaling, dropout=0.0, position_ids=None, **kwargs
):
    """Eager attention with FlashAttention's conventions: the mask is 2-D or absent, its length
    says how much of a static cache is filled, and positions with a gap mean packed sequences."""
    if position_ids is not None and query.shape[0] == 1:
        assert position_ids.shape[-1] == query.shape[2]
        assert (position_ids.diff(dim=-1) == 1).all(), "taken for packed sequences"
    queries, keys = query.shape[2], key.shape[2]
    visible = torch.ones(1, 1, queries, keys, dtype=torch.bool)
    if module.is_causal:
        filled = keys if attention_mask is None else attention_mask.shape[-1]
        key, value = key[:, :, :filled], value[:, :, :filled]
        visible = torch.ones(queries, filled, dtype=torch.bool).tril(filled - queries)[None, None]
        if attention_mask is not None:
            assert attention_mask.ndim == 2
            visible = visible & attention_mask[:, None, None, :].bool()
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    logits = (query @ key.transpose(2, 3) * scaling).masked_fill(~visible, -torch.inf)
    return (logits.softmax(-1).nan_to_num(0.0) @ value).transpose(1, 2).contiguous(), None


@pytest.fixture
def flash_model(build):
    AttentionInterface.register("padding_2d", flash_shaped_attention)
    AttentionMaskInterface.register("padding_2d", ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    return build("qwen2", "padding_2d")


@SCORES
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("batch", ["one", "padded"])
def test_flash_shaped_masks(flash_model, build, batch, cache, score):
    inputs = question() if batch == "one" else two_prompts()
    config = PruneVidConfig(layer=1, score=score)
    with prune(build("qwen2", "eager"), config):
        expected = generate(build("qwen2", "eager"), inputs)
    with prune(flash_model, config):
        kwargs: dict[str, Any] = {}
        if cache == "static":
            # A real one is recognised by name and gets its mask whatever it says; this must have
            # padding to get one.
            inputs = inputs if batch == "padded" else with_padding(inputs)
            kwargs["cache_implementation"] = "static"
        result = generate(flash_model, inputs, **kwargs)
    assert result.sequences[:, -9:].equal(expected.sequences[:, -9:])
    assert_close(logits_of(result), logits_of(expected))


def with_padding(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    pad = torch.nn.functional.pad
    return {
        **inputs,
        "input_ids": pad(inputs["input_ids"], (3, 0)),
        "attention_mask": pad(inputs["attention_mask"], (3, 0)),
    }


@SCORES
def test_bfloat16(build, score):
    """As near to exact arithmetic as the unpruned model in bfloat16 is; rounding is all that
    differs, so the choice of tokens, which rounding may change, is given to the slow decoder."""
    half, config = build("qwen2", "sdpa", torch.bfloat16), PruneVidConfig(layer=1, score=score)
    keep_all = PruneVidConfig(layer=1, merge=False, keep_ratio=1.0)
    errors, unpruned_errors, shared = [], [], []
    for seed in range(6):
        inputs = question(6, seed)
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(torch.bfloat16)
        unpruned = half(**inputs).logits[0, -1].double()
        unpruned_errors.append(unpruned - slow_prompt(half, inputs, keep_all).logits())
        with prune(half, config) as handle:
            result = half(**inputs)
        kept = handle.report.last.videos[0].kept.tolist()
        exact = slow_prompt(half, inputs, config, [kept]).logits()
        errors.append(result.logits[0, -1].double() - exact)
        chosen = slow_prompt(half, inputs, config).kept[0]
        shared.append(len(set(kept) & set(chosen)) / len(kept))
    assert result.logits.dtype == result.past_key_values.layers[0].keys.dtype == torch.bfloat16
    assert torch.cat(errors).std() <= 2 * torch.cat(unpruned_errors).std()
    assert min(shared) >= 0.8


# ------------------------------------------------------------------------------ torch.compile


@pytest.mark.parametrize("batch", ["one", "padded"])
def test_compiled_decoding_in_one_graph(build, batch):
    """``fullgraph=True``: a hook that breaks the graph, or reads a tensor, raises."""
    model = build("llama")
    inputs = [question(), question(4, seed=2)] if batch == "one" else [two_prompts()]
    compile_config = CompileConfig(fullgraph=True, backend="eager", mode=None)
    compile_config._compile_all_devices = True
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with prune(model, CONFIG) as handle:
        for each in inputs:
            expected = generate(model, each)
            compiled = generate(
                model, each, cache_implementation="static", compile_config=compile_config
            )
            assert compiled.sequences.equal(expected.sequences)
            assert_close(logits_of(compiled), logits_of(expected))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "compiled anew"
    assert len(handle.report.pruned_calls) == 2 * len(inputs)
