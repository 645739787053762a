"""The same ``prune`` on ST-LLM: 32 tokens a frame, the video in front, BOS behind it."""

from __future__ import annotations

import pytest
import torch
from slow_pruning import SlowDecoder
from tiny_models import generate, text_tokens
from tiny_st_llm import QUERIES, batch, question, random_model
from torch import Tensor

from prunevid_kernels import PruneVidConfig, merge_video
from prunevid_kernels.adapters import NothingPrunedWarning, prune
from prunevid_kernels.adapters.st_llm import StLlm

STEPS = 8
CONFIG = PruneVidConfig(layer=1)
FORCED = {"max_new_tokens": STEPS}


@pytest.fixture
def model() -> StLlm:
    return random_model()


def features_of(model: StLlm, inputs: dict[str, Tensor], row: int = 0) -> Tensor:
    """[F, 32, C] what the merge sees."""
    return model.encode_videos(
        inputs["pixel_values"][row : row + 1], inputs["qformer_input_ids"][row : row + 1]
    )[0]


def slow_answer(model: StLlm, config: PruneVidConfig, video: Tensor, text: list[int]):
    slow = SlowDecoder(model.get_decoder(), model.get_output_embeddings(), config)
    slow.feed_prompt([("video", video), ("text", text)])
    entries = slow.entries()
    tokens, logits = slow.greedy(STEPS)
    return slow, entries, tokens, logits


def assert_row(result, row: int, tokens: list[int], logits: Tensor) -> None:
    assert result.sequences[row, -STEPS:].tolist() == tokens
    actual = torch.stack(result.logits)[:, row].double()
    assert (actual - logits).abs().max() <= 1e-5


def text_of(inputs: dict[str, Tensor], row: int = 0) -> list[int]:
    ids = inputs["input_ids"][row].tolist()
    return ids[len(ids) - ids[::-1].index(0) :]


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
        result = generate(model, inputs, tokens=STEPS)
    video = features_of(model, inputs)
    assert video.shape == (6, QUERIES, 32)
    slow, entries, tokens, logits = slow_answer(model, config, video, text_of(inputs))
    if config.select:
        assert handle.report.last.videos[0].kept.tolist() == slow.kept[0]
    assert_row(result, 0, tokens, logits)
    assert {layer.keys.shape[2] for layer in result.past_key_values.layers} == {entries + STEPS - 1}
    assert handle.report.last.tokens_kept < handle.report.last.tokens_before == 6 * QUERIES


@pytest.mark.parametrize("score", ["nope", "rope"])
def test_padded_batch(model, score):
    config = PruneVidConfig(layer=1, score=score)
    inputs = batch(question(seed=1, words=4), question(seed=2, words=9), question(seed=3, words=6))
    with prune(model, config) as handle:
        result = generate(model, inputs, tokens=STEPS)
    for row in range(3):
        video = features_of(model, inputs, row)
        slow, _, tokens, logits = slow_answer(model, config, video, text_of(inputs, row))
        assert handle.report.last.videos[row].kept.tolist() == slow.kept[0]
        assert_row(result, row, tokens, logits)


def test_residual_mode_merges_the_frames_that_are_left():
    model, config = random_model(residual_size=4), CONFIG
    inputs = question(frames=11, visual_frames=4)
    with prune(model, config) as handle:
        result = generate(model, inputs, tokens=STEPS)
    video = features_of(model, inputs)
    assert video.shape == (4, QUERIES, 32)
    _, _, tokens, logits = slow_answer(model, config, video, text_of(inputs))
    assert_row(result, 0, tokens, logits)
    assert handle.report.last.tokens_before == 4 * QUERIES


def test_small_groups_are_merged_over_time_and_never_clustered(model):
    """12 of a frame's 32 tokens stand still, which is too few to cluster; 20 move."""
    generator = torch.Generator().manual_seed(5)
    still = torch.randn(1, 12, 32, generator=generator).expand(6, -1, -1)
    moving = torch.randn(6, 20, 32, generator=generator)
    # The frames are alike as a whole, so that they are one segment.
    video = torch.cat((10 * still, moving), dim=1)
    layout = merge_video(video, CONFIG).layout
    assert layout.group_sizes[layout.group_is_static].tolist() == [12]
    assert layout.group_sizes[~layout.group_is_static].tolist() == [10] * 6
    text = [2, *text_tokens(6)]
    inputs = {"input_ids": torch.tensor([text]), "video_features": video[None]}
    with prune(model, CONFIG) as handle:
        result = generate(model, inputs, tokens=STEPS)
    _, _, tokens, logits = slow_answer(model, CONFIG, video, text)
    assert_row(result, 0, tokens, logits)
    assert handle.report.last.tokens_merged == 12 + 60


def test_prompts_without_placeholders_are_pruned_the_same(model):
    inputs = question()
    with prune(model, CONFIG):
        expected = generate(model, inputs, tokens=STEPS)
        ids = inputs["input_ids"][:, 6 * QUERIES :]
        bare = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        result = generate(model, bare, tokens=STEPS)
        logits = model(**bare).logits
    assert result.sequences.equal(expected.sequences)
    torch.testing.assert_close(logits[:, -1], expected.logits[0], rtol=0, atol=1e-5)


def test_beams_and_returned_sequences_encode_a_video_once(model):
    inputs, calls = question(), []
    hook = model.video_encoder.register_forward_hook(lambda *args: calls.append(1))
    with prune(model, CONFIG) as handle:
        greedy = generate(model, inputs, tokens=STEPS)
        sampled = generate(
            model, inputs, tokens=STEPS, do_sample=True, top_k=1, num_return_sequences=3
        )
        assert len(handle.report.last.videos) == 3
        beams = generate(model, inputs, tokens=STEPS, num_beams=3, output_scores=True)
    hook.remove()
    assert len(calls) == 3
    assert all(row.equal(greedy.sequences[0]) for row in sampled.sequences)
    slow = SlowDecoder(model.get_decoder(), model.get_output_embeddings(), CONFIG)
    slow.feed_prompt([("video", features_of(model, inputs)), ("text", text_of(inputs))])
    total = 0.0
    for token in beams.sequences[0, -STEPS:].tolist():
        total += slow.logits().log_softmax(-1)[token].item()
        slow.feed_tokens([token])
    assert abs(total / STEPS - beams.sequences_scores[0].item()) <= 1e-5


def test_prompt_lookup_gives_the_greedy_answer(model):
    inputs = question()
    inputs["input_ids"] = torch.cat((inputs["input_ids"], inputs["input_ids"][:, -5:-2]), dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with prune(model, CONFIG):
        expected = generate(model, inputs, tokens=STEPS)
        result = model.generate(**inputs, **FORCED, prompt_lookup_num_tokens=3)
    assert result.equal(expected.sequences)


def test_static_cache_gives_the_same_answer(model):
    inputs = question()
    with prune(model, CONFIG):
        expected = generate(model, inputs, tokens=STEPS)
        result = generate(model, inputs, tokens=STEPS, cache_implementation="static")
    assert result.sequences.equal(expected.sequences)


def test_text_goes_on_behind_a_pruned_prompt(model):
    inputs, more = question(), text_tokens(5, 9)
    with prune(model, CONFIG):
        first = generate(model, inputs, tokens=STEPS)
        ids = torch.cat((first.sequences, torch.tensor([more])), dim=1)
        second = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=first.past_key_values,
            **FORCED,
        )
    slow, *_ = slow_answer(model, CONFIG, features_of(model, inputs), text_of(inputs))
    slow.feed_tokens(more)
    assert second[0, -STEPS:].tolist() == slow.greedy(STEPS)[0]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("score", ["nope", "rope"])
def test_keeping_everything_and_restoring_are_bit_identical(attention, score):
    model, inputs = random_model(attention), batch(question(seed=1), question(seed=2, words=3))
    expected = generate(model, inputs, tokens=STEPS)
    keep_all = PruneVidConfig(layer=1, merge=False, keep_ratio=1.0, score=score)
    with pytest.warns(NothingPrunedWarning), prune(model, keep_all):
        kept = generate(model, inputs, tokens=STEPS)
    with prune(model, CONFIG):
        generate(model, inputs, tokens=STEPS)
    restored = generate(model, inputs, tokens=STEPS)
    for result in (kept, restored):
        assert result.sequences.equal(expected.sequences)
        assert torch.stack(result.logits).equal(torch.stack(expected.logits))


def test_text_alone_passes_through(model):
    inputs = {"input_ids": torch.tensor([[2, *text_tokens(6)]])}
    expected = generate(model, inputs, tokens=STEPS)
    with pytest.warns(NothingPrunedWarning), prune(model, CONFIG) as handle:
        result = generate(model, inputs, tokens=STEPS)
    assert result.sequences.equal(expected.sequences)
    assert handle.report.last.kind == "text-only"


def test_generated_placeholder_ids_are_tokens_like_others(model):
    """Id 0 can be generated; it stands for a visual token in a prompt alone."""
    inputs = question()
    ids = inputs["input_ids"][:, : -len(text_of(inputs))]
    with prune(model, CONFIG) as handle:
        outputs = model(**inputs)
        zero = torch.zeros(1, 1, dtype=torch.int64)
        again = model(input_ids=zero, past_key_values=outputs.past_key_values)
    assert ids.eq(0).all() and len(handle.report.calls) == 1
    slow = SlowDecoder(model.get_decoder(), model.get_output_embeddings(), CONFIG)
    slow.feed_prompt([("video", features_of(model, inputs)), ("text", text_of(inputs))])
    slow.feed_tokens([0])
    assert (again.logits[0, -1].double() - slow.logits()).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"pixel_values": None}, "no video features came with it", id="no-pixels"),
        pytest.param({"use_cache": False}, "needs a key/value cache", id="no-cache"),
        pytest.param({"labels": torch.zeros(1, 200)}, "training loss", id="labels"),
    ],
)
def test_what_cannot_be_pruned_is_an_error(model, change, message):
    with pytest.raises(ValueError, match=message), prune(model, CONFIG):
        model(**{**question(), **change})
