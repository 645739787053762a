"""Every way of decoding that ``generate`` has still works on a pruned prompt."""

from __future__ import annotations

import copy

import pytest
import torch
from slow_pruning import assert_close, slow_prompt
from tiny_models import CONFIG, generate, logits_of, question, text_tokens, two_prompts

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import prune
from prunevid_kernels.adapters.engine.cache import PrunedCache

SCORES = pytest.mark.parametrize("score", ["nope", "rope"])


def row_of(inputs: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    return {name: tensor[row : row + 1] for name, tensor in inputs.items()}


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
