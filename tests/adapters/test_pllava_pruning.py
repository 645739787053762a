"""The same ``prune`` on PLLaVA: its frames of pooled tokens, in both forms of a prompt."""

from __future__ import annotations

import pytest
import torch
from slow_pruning import SlowDecoder
from tiny_models import generate, left_pad, text_tokens
from tiny_pllava import (
    FRAMES,
    IMAGE_ID,
    TOKENS,
    TOKENS_PER_FRAME,
    batch,
    prompt,
    question,
    random_model,
)
from torch import Tensor

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import NothingPrunedWarning, prune
from prunevid_kernels.adapters.pllava import Pllava

STEPS = 9
CONFIG = PruneVidConfig(layer=1)


@pytest.fixture
def model() -> Pllava:
    return random_model()


def pieces(model: Pllava, ids: list[int], clip: Tensor) -> list:
    """[T, 3, H, W] in place of its placeholders."""
    start = ids.index(IMAGE_ID)
    features = model.encode_videos(clip[None])[0].unflatten(0, (FRAMES, TOKENS_PER_FRAME))
    return [("text", ids[:start]), ("video", features), ("text", ids[start + TOKENS :])]


def assert_slow(result, row: int, slow: SlowDecoder) -> None:
    tokens, logits = slow.greedy(STEPS)
    assert result.sequences[row, -STEPS:].tolist() == tokens
    actual = torch.stack(result.logits)[:, row].double()
    assert (actual - logits).abs().max() <= 1e-5


def slow_for(model: Pllava, config: PruneVidConfig) -> SlowDecoder:
    return SlowDecoder(model.get_decoder(), model.get_output_embeddings(), config)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(CONFIG, id="default"),
        pytest.param(PruneVidConfig(layer=0, score="rope"), id="layer-0-rope"),
        pytest.param(PruneVidConfig(layer=4, score="rope"), id="last-layer-rope"),
        pytest.param(PruneVidConfig(layer=2, selection="global"), id="global"),
        pytest.param(PruneVidConfig.paper(layer=2, keep_ratio=0.13), id="paper"),
        pytest.param(PruneVidConfig(layer=1, merge=False), id="select-only"),
        pytest.param(PruneVidConfig(select=False), id="merge-only"),
        pytest.param(PruneVidConfig(layer=1, budget=40), id="budget"),
    ],
)
def test_pruned_answer_is_the_slow_one(attention, config):
    model, inputs = random_model(attention), question()
    with prune(model, config) as handle:
        result = generate(model, inputs)
    slow = slow_for(model, config)
    slow.feed_prompt(pieces(model, inputs["input_ids"][0].tolist(), inputs["pixel_values"][0]))
    entries = slow.entries()
    if config.select:
        assert handle.report.last.videos[0].kept.tolist() == slow.kept[0]
    assert_slow(result, 0, slow)
    assert {layer.keys.shape[2] for layer in result.past_key_values.layers} == {entries + STEPS - 1}
    assert handle.report.last.tokens_kept < handle.report.last.tokens_before == TOKENS


@pytest.mark.parametrize("score", ["nope", "rope"])
def test_padded_batch_in_both_forms(model, score):
    config = PruneVidConfig(layer=1, score=score)
    prompts = [prompt(2, 9, 1), prompt(6, 3, 2), prompt(0, 5, 3)]
    inputs = batch(prompts, [1, 2, 3])
    short = left_pad(
        [[*p[: p.index(IMAGE_ID) + 1], *p[p.index(IMAGE_ID) + TOKENS :]] for p in prompts]
    )
    with prune(model, config) as handle:
        result = generate(model, inputs)
        kept = [video.kept.tolist() for video in handle.report.last.videos]
        brief = generate(model, inputs | {"input_ids": short[0], "attention_mask": short[1]})
        raw = model(short[0], inputs["pixel_values"], short[1]).logits[:, -1]
    assert brief.sequences[:, -STEPS:].equal(result.sequences[:, -STEPS:])
    assert raw.argmax(-1).equal(result.sequences[:, -STEPS])
    for row, ids in enumerate(prompts):
        slow = slow_for(model, config)
        slow.feed_prompt(pieces(model, ids, inputs["pixel_values"][row]))
        assert kept[row] == slow.kept[0]
        assert_slow(result, row, slow)


def test_keeping_everything_is_the_unpruned_model_bit_for_bit(model):
    inputs = question()
    expected = generate(model, inputs)
    with pytest.warns(NothingPrunedWarning):
        with prune(model, PruneVidConfig(layer=1, merge=False, keep_ratio=1.0)):
            result = generate(model, inputs)
    assert result.sequences.equal(expected.sequences)
    assert torch.stack(result.logits).equal(torch.stack(expected.logits))


def test_a_restored_model_is_as_before_bit_for_bit(model):
    inputs = question()
    expected = generate(model, inputs)
    with prune(model, CONFIG):
        pruned = generate(model, inputs)
    result = generate(model, inputs)
    assert torch.stack(result.logits).equal(torch.stack(expected.logits))
    assert not torch.stack(pruned.logits).equal(torch.stack(expected.logits))
    assert not any(
        hook.__module__.startswith("prunevid_kernels")
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


def test_text_passes_through_bit_for_bit(model):
    inputs = {"input_ids": torch.tensor([text_tokens(9)])}
    expected = generate(model, inputs)
    with prune(model, CONFIG) as handle:
        result = generate(model, inputs)
        generate(model, question())
    assert torch.stack(result.logits).equal(torch.stack(expected.logits))
    assert [call.kind for call in handle.report.calls] == ["text-only", "pruned"]


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"prompt_lookup_num_tokens": 3}])
def test_ways_of_decoding(model, options):
    """Beams of a padded batch equal those of each prompt alone; lookup equals greedy."""
    prompts = [prompt(2, 9, 1), prompt(6, 3, 2)][
        : 1 if "prompt_lookup_num_tokens" in options else 2
    ]
    with prune(model, CONFIG):
        together = model.generate(
            **batch(prompts, [1, 2][: len(prompts)]), max_new_tokens=6, **options
        )
        for row, ids in enumerate(prompts):
            alone = batch([ids], [row + 1])
            if len(prompts) == 1:
                options = {}
            expected = model.generate(**alone, max_new_tokens=6, **options)
            assert together[row, -6:].equal(expected[0, -6:])


def test_a_video_that_was_not_brought(model):
    inputs = question()
    del inputs["pixel_values"]
    with pytest.warns(NothingPrunedWarning), prune(model, CONFIG):
        with pytest.raises(ValueError, match="no video features came with it"):
            generate(model, inputs)
