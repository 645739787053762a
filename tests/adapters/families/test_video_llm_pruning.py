"""The same ``prune`` on families that have no tests of their own for it: what holds for each."""

from __future__ import annotations

from inspect import signature

import pytest
import torch
from families import FEW_FRAMES, LLAVA_NEXT_VIDEO, PLLAVA, RESIDUAL, ST_LLM, each
from families_apart import INTERNVL, INTERNVL_3_5, SMOLVLM, VIDEO_LLAMA_3
from slow_pruning import STEPS, SlowDecoder, assert_same, lay_out
from tiny_models import CONFIG, generate, logits_of, text_tokens

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import NothingPrunedWarning, prune

FRAME_BY_FRAME = [LLAVA_NEXT_VIDEO, INTERNVL, INTERNVL_3_5, SMOLVLM, VIDEO_LLAMA_3]
EACH_FRAME_BY_FRAME = each(*FRAME_BY_FRAME)
EVERY = [PLLAVA, ST_LLM, *FRAME_BY_FRAME]
EACH = each(*EVERY)
CONFIGS = {
    "default": CONFIG,
    "layer-0-rope": PruneVidConfig(layer=0, score="rope"),
    "last-layer-rope": PruneVidConfig(layer=4, score="rope"),
    "global": PruneVidConfig(layer=2, selection="global"),
    "paper": PruneVidConfig.paper(layer=2, keep_ratio=0.13),
    "select-only": PruneVidConfig(layer=1, merge=False),
    "merge-only": PruneVidConfig(select=False),
    "budget": PruneVidConfig(layer=1, budget=40),
}


# A config is carried out by the one engine, whatever the family: all eight with both kinds of
# attention on one family, on the others what its own hooks take part in.
SAMPLE = {("default", "eager"), ("default", "sdpa"), ("merge-only", "sdpa"), ("global", "sdpa")}
ANSWERS = [
    pytest.param(
        family,
        attention,
        config,
        id=f"{family.name}-{attention}-{name}",
        marks=() if family is PLLAVA or (name, attention) in SAMPLE else pytest.mark.full,
    )
    for family in EVERY
    for attention in ("eager", "sdpa")
    for name, config in CONFIGS.items()
]


def scored(first, family_of_both):
    """Every family with the score ``first``, one with both; with --full, all with both."""
    return [
        pytest.param(
            family,
            score,
            id=f"{family.name}-{score}",
            marks=() if score == first or family is family_of_both else pytest.mark.full,
        )
        for family in EVERY
        for score in ("nope", "rope")
    ]


def ask(handle, family, model, inputs, *steps, **options):
    with family.telling(handle, inputs):
        return generate(model, inputs, *steps, **options)


def assert_slow_answer(family, attention, config) -> None:
    model, inputs = family.build(attention), family.question()
    with prune(model, config) as handle:
        result = ask(handle, family, model, inputs)
    slow = family.slow(model, SlowDecoder, config)
    slow.feed_prompt(*family.prompts(model, inputs))
    entries = slow.entries()
    call = handle.report.last
    if config.select:
        assert call.videos[0].kept.tolist() == slow.kept[0]
    assert_same(result, 0, slow)
    assert {layer.keys.shape[2] for layer in result.past_key_values.layers} == {entries + STEPS - 1}
    (video,) = family.features(model, inputs)
    assert call.tokens_kept < call.tokens_before == video.shape[0] * video.shape[1]


@pytest.mark.sample(16)
@pytest.mark.parametrize(("family", "attention", "config"), ANSWERS)
def test_pruned_answer_is_the_slow_one(family, attention, config):
    assert_slow_answer(family, attention, config)


@EACH
def test_merge_is_a_prompt_made_by_hand(family):
    """Through the text model alone."""
    model, inputs, config = family.build(), family.question(), PruneVidConfig(select=False)
    with prune(model, config) as handle:
        result = ask(handle, family, model, inputs, 1)
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    (pieces,) = family.prompts(model, inputs)
    table = decoder.embed_tokens.weight
    rows, _, _ = lay_out(pieces, config, lambda ids: table[torch.tensor(ids, dtype=torch.int64)])
    expected = head(decoder(inputs_embeds=rows[None]).last_hidden_state[0, -1])
    assert (result.logits[0][0] - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.sample(3)
@EACH_FRAME_BY_FRAME
def test_batch_is_one_by_one(family):
    """The same tokens; the prompts' own logits but for what padding alone rounds differently."""
    model, inputs = family.build(), family.batch()
    with prune(model, CONFIG) as handle:
        together = logits_of(ask(handle, family, model, inputs))
        prunes_rows = {video.prompt for video in handle.report.last.videos}
        assert prunes_rows == {0, 1}
        for row, own in enumerate(family.alone()):
            alone = logits_of(ask(handle, family, model, own))[:, 0]
            assert together[:, row].argmax(-1).equal(alone.argmax(-1))
            if row in prunes_rows:
                assert (together[0, row] - alone[0]).norm() <= 1e-6 * alone[0].norm()


@each(FEW_FRAMES, RESIDUAL)
def test_frames_that_are_repeated_or_left_out(family):
    assert_slow_answer(family, "sdpa", CONFIG)


@pytest.mark.sample(4)
@pytest.mark.parametrize(("family", "score"), scored("nope", PLLAVA))
def test_padded_batch(family, score):
    config = PruneVidConfig(layer=1, score=score)
    model, inputs = family.build(), family.batch()
    with prune(model, config) as handle:
        result = ask(handle, family, model, inputs)
    for row, pieces in enumerate(family.prompts(model, inputs)):
        slow = family.slow(model, SlowDecoder, config)
        slow.feed_prompt(pieces)
        own = [video.kept for video in handle.report.last.videos if video.prompt == row]
        assert [kept.tolist() for kept in own] == slow.kept
        assert_same(result, row, slow)


@pytest.mark.sample(4)
@pytest.mark.parametrize(("family", "score"), scored("rope", PLLAVA))
def test_keeping_everything_and_restoring_are_bit_identical(family, score):
    attention = {"nope": "eager", "rope": "sdpa"}[score]
    model, inputs = family.build(attention), family.batch()
    expected = generate(model, inputs)
    keep_all = PruneVidConfig(layer=1, merge=False, keep_ratio=1.0, score=score)
    with pytest.warns(NothingPrunedWarning), prune(model, keep_all) as handle:
        kept = ask(handle, family, model, inputs)
    with prune(model, CONFIG) as handle:
        pruned = ask(handle, family, model, inputs)
    restored = generate(model, inputs)
    for result in (kept, restored):
        assert result.sequences.equal(expected.sequences)
        assert torch.stack(result.logits).equal(torch.stack(expected.logits))
    assert not torch.stack(pruned.logits).equal(torch.stack(expected.logits))
    assert not any(
        hook.__module__.startswith("prunevid_kernels")
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


@EACH
def test_text_alone_passes_through(family):
    model, inputs = family.build(), {"input_ids": torch.tensor([text_tokens(10)])}
    expected = generate(model, inputs)
    with prune(model, CONFIG) as handle:
        result = ask(handle, family, model, inputs)
        ask(handle, family, model, family.question())
    assert torch.stack(result.logits).equal(torch.stack(expected.logits))
    assert [call.kind for call in handle.report.calls] == ["text-only", "pruned"]


@each(*(family for family in EVERY if family is not VIDEO_LLAMA_3))
def test_prompt_lookup_gives_the_greedy_answer(family):
    """Words come back at the prompt's end, so there is something to look up. VideoLLaMA3's forward
    takes no ``logits_to_keep``, by which candidates are told from the question."""
    model, inputs = family.build(), family.question()
    ids = torch.cat((inputs["input_ids"], inputs["input_ids"][:, -5:-2]), dim=1)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with prune(model, CONFIG) as handle:
        expected = ask(handle, family, model, inputs)
        result = ask(handle, family, model, inputs, prompt_lookup_num_tokens=3)
    assert result.sequences.equal(expected.sequences)


@pytest.mark.sample(3)
@EACH
def test_static_cache_gives_the_same_answer(family):
    model, inputs = family.build(), family.question()
    with prune(model, CONFIG) as handle:
        expected = ask(handle, family, model, inputs)
        result = ask(handle, family, model, inputs, cache_implementation="static")
    assert result.sequences.equal(expected.sequences)


@pytest.mark.sample(3)
@EACH
def test_beams_have_the_scores_of_the_slow_decoder(family):
    model, inputs = family.build(), family.question()
    encodes_once = "mm_encoder_outputs" in signature(model.forward).parameters
    if family in (INTERNVL, INTERNVL_3_5) and not encodes_once:
        pytest.skip("this transformers repeats each image for the beams, in place of all of them")
    with prune(model, CONFIG) as handle:
        beams = ask(handle, family, model, inputs, num_beams=3, output_scores=True)
    slow = family.slow(model, SlowDecoder, CONFIG)
    slow.feed_prompt(*family.prompts(model, inputs))
    total = 0.0
    for token in beams.sequences[0, -STEPS:].tolist():
        total += slow.logits().log_softmax(-1)[token].item()
        slow.feed_tokens([token])
    assert abs(total / STEPS - beams.sequences_scores[0].item()) <= 1e-5


@EACH
def test_text_goes_on_after_a_pruned_prompt(family):
    model, inputs, more = family.build(), family.question(), text_tokens(5, 9)
    with prune(model, CONFIG) as handle:
        first = ask(handle, family, model, inputs)
        ids = torch.cat((first.sequences, torch.tensor([more])), dim=1)
        chat = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        second = ask(handle, family, model, chat | {"past_key_values": first.past_key_values})
    slow = family.slow(model, SlowDecoder, CONFIG)
    slow.feed_prompt(*family.prompts(model, inputs))
    slow.feed_tokens([*first.sequences[0, -STEPS:].tolist(), *more])
    assert_same(second, 0, slow)


@EACH
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"pixel_values": None, "pixel_values_videos": None},
            "no video features came with it",
            id="no-pixels",
        ),
        pytest.param({"use_cache": False}, "needs a key/value cache", id="no-cache"),
        pytest.param({"labels": torch.zeros(1, 200)}, "training loss", id="labels"),
    ],
)
def test_what_cannot_be_pruned_is_an_error(family, change, message):
    model, inputs = family.build(), family.question()
    with (
        pytest.raises(ValueError, match=message),
        prune(model, CONFIG) as handle,
        family.telling(handle, inputs),
    ):
        model(**{**inputs, **change})
