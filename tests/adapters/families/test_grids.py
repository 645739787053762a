"""Models with videos of any resolution and positions of three axes: both steps against slow code,
and what holds for all of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from slow_grids import STEPS, SlowGrids, assert_slow
from tiny_grids import PLANES, Clip, Question, build, inputs_of
from tiny_models import generate, logits_of, text_tokens

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import NothingPrunedWarning, PromptVisuals, VideoSpan, prune
from prunevid_kernels.adapters.engine.prompt import VisualPlanes, merge_planes, merge_prompts
from prunevid_kernels.adapters.methods.registry import build_method
from prunevid_kernels.adapters.pruning import prune_by

KINDS = ["qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe"]
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
RECURRENT = ["qwen3_5", "qwen3_5_moe"]
# One of those whose videos are one run, one of those whose frames stand apart.
BOTH_FORMS = pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
SMALL = {"min_cluster_tokens": 2, "layer": PLANES}
CONFIG = PruneVidConfig(**SMALL)
MERGE_ONLY = PruneVidConfig(select=False, **SMALL)
CONFIGS = {
    "default": CONFIG,
    "rope": PruneVidConfig(score="rope", **SMALL),
    "last-layer": PruneVidConfig(**{**SMALL, "layer": 4}),
    "select-only": PruneVidConfig(merge=False, **SMALL),
    "merge-only": MERGE_ONLY,
    "budget": PruneVidConfig(budget=20, **SMALL),
}


@cache
def one_video(kind: str) -> Question:
    """Twelve tokens a frame, eight frames; two of them at one integer of time."""
    clip = Clip(8, 3, 4, seconds_a_frame=0.1)
    return Question(kind, [text_tokens(4), clip, text_tokens(7, 1)])


@cache
def three_prompts(kind: str) -> list[Question]:
    """Grids that differ, an image beside a video, two videos, and text alone."""
    return [
        Question(kind, [text_tokens(3), Clip(4, 2, 3, 1), text_tokens(6, 2)]),
        Question(
            kind,
            [
                text_tokens(2, 3),
                Clip(1, 2, 2, 2, is_image=True),
                text_tokens(2, 4),
                Clip(6, 1, 4, 3),
                text_tokens(5, 5),
                Clip(3, 3, 2, 4),
                text_tokens(4, 6),
            ],
        ),
        Question(kind, [text_tokens(8, 7)]),
    ]


def ask(model: Any, question: Question, config: PruneVidConfig, **options: Any) -> Any:
    with prune(model, config) as handle:
        result = generate(model, inputs_of(question), STEPS, **options)
    return result, handle.report


@pytest.mark.sample(9)
@pytest.mark.parametrize(
    ("kind", "attention", "name"),
    [
        *((kind, "sdpa", name) for kind in ("qwen2_5_vl", "qwen3_vl") for name in CONFIGS),
        *((kind, "sdpa", "default") for kind in ("qwen2_vl", "qwen3_vl_moe")),
        *((kind, "eager", "rope") for kind in KINDS),
    ],
)
def test_pruned_answer_is_the_slow_one(kind, attention, name):
    model, question, config = build(kind, attention), one_video(kind), CONFIGS[name]
    result, report = ask(model, question, config)
    slow = SlowGrids(model, question, config)
    call = report.last
    if config.select:
        assert call.videos[0].kept.tolist() == slow.kept[0]
    assert_slow(result, 0, slow)
    assert call.tokens_before == 96 and call.tokens_kept < 96
    assert call.tokens_merged == slow.videos[0].layout.num_merged
    held = len(question.ids) - 96 + call.tokens_kept + STEPS - 1
    assert {layer.keys.shape[2] for layer in result.past_key_values.layers} == {held}
    assert call.other_tokens == (len(question.ids) - 96,)


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, "default") for kind in KINDS),
        *((kind, name) for kind in ("qwen2_5_vl", "qwen3_vl") for name in ("rope", "merge-only")),
    ],
)
def test_padded_batch_is_the_slow_code_and_one_by_one(kind, name):
    model, questions, config = build(kind), three_prompts(kind), CONFIGS[name]
    with prune(model, config) as handle:
        result = generate(model, inputs_of(*questions), STEPS)
    call = handle.report.last
    assert [video.prompt for video in call.videos] == [0, 1, 1]
    assert call.image_tokens == (0, 4, 0)
    scale = logits_of(result).abs().max()
    for row, question in enumerate(questions):
        assert_slow(result, row, SlowGrids(model, question, config))
        with prune(model, config):
            text = not question.clips
            alone = generate(model, inputs_of(question), STEPS)
            if text:  # so that the handle has had something to prune
                generate(model, inputs_of(questions[0]), 1)
        assert result.sequences[row, -STEPS:].equal(alone.sequences[0, -STEPS:])
        difference = (logits_of(result)[:, row] - logits_of(alone)[:, 0]).abs().max()
        # Of float32; test_bounds.py holds it to 1e-6 where nothing is rounded.
        assert difference <= 1e-6 * max(1.0, float(scale)) * 10


@pytest.mark.sample(2)
@BOTH_FORMS
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_keeping_everything_and_restoring_are_bit_identical(kind, attention):
    model, inputs = build(kind, attention), inputs_of(*three_prompts(kind))
    expected = generate(model, inputs, STEPS)
    everything = PruneVidConfig(merge=False, keep_ratio=1.0, layer=PLANES)
    with pytest.warns(NothingPrunedWarning), prune(model, everything):
        kept = generate(model, inputs, STEPS)
    with (
        pytest.warns(NothingPrunedWarning),
        prune(model, PruneVidConfig(merge=False, select=False)),
    ):
        untouched = generate(model, inputs, STEPS)
    with prune(model, CONFIG):
        pruned = generate(model, inputs, STEPS)
    restored = generate(model, inputs, STEPS)
    for result in (kept, untouched, restored):
        assert result.sequences.equal(expected.sequences)
        assert logits_of(result).equal(logits_of(expected))
    assert not logits_of(pruned).equal(logits_of(expected))
    assert not any(
        hook.__module__.startswith("prunevid_kernels")
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


def by_hand(model: Any, slow: SlowGrids) -> torch.Tensor:
    """[vocabulary] what follows the rows, through the text model alone: embeddings, positions and
    planes of the merged tokens."""
    positions = torch.stack([row.position for row in slow.rows], dim=1)[:, None]  # [3, 1, L]
    planes = {}
    visual = [row for row in slow.rows if row.planes is not None and len(row.planes)]
    if visual:
        own = torch.stack([row.planes for row in visual], dim=1).float()  # [planes, V, C]
        is_visual = [row.planes is not None for row in slow.rows]
        planes = {
            "deepstack_visual_embeds": list(own),
            "visual_pos_masks": torch.tensor([is_visual]),
        }
    embeds = [
        slow.videos[row.video].tokens[row.index] if row.index >= 0 else row.embed.float()
        for row in slow.rows
    ]
    hidden = model.model.language_model(
        inputs_embeds=torch.stack(embeds)[None], position_ids=positions, use_cache=False, **planes
    ).last_hidden_state
    return model.lm_head(hidden[0, -1])


@pytest.mark.parametrize("kind", [*KINDS, *RECURRENT])
def test_merge_is_a_prompt_made_by_hand(kind):
    model, question = build(kind), one_video(kind)
    result, report = ask(model, question, MERGE_ONLY)
    slow = SlowGrids(model, question, MERGE_ONLY)
    assert report.last.tokens_merged == slow.videos[0].layout.num_merged < 96
    for step, logits in enumerate(result.logits):
        expected = by_hand(model, slow)
        # Later steps come out of a cache, recurrent ones in another form than a prompt does.
        bound = 1e-6 if step == 0 else 1e-5
        assert (logits[0] - expected).norm() <= bound * expected.norm()
        slow.feed(int(expected.argmax()))


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_layers_see_no_padding_and_whole_prompts_come_back(kind):
    model, questions = build(kind), three_prompts(kind)
    inputs = inputs_of(*questions)
    plain = generate(model, inputs, STEPS)
    with prune(model, MERGE_ONLY) as handle:
        together = generate(model, inputs, STEPS)
        for row, question in enumerate(questions):
            alone = generate(model, inputs_of(question), STEPS)
            assert together.sequences[row, -STEPS:].equal(alone.sequences[0, -STEPS:])
            difference = (logits_of(together)[:, row] - logits_of(alone)[:, 0]).norm()
            assert difference <= 1e-5 * logits_of(alone).norm()
    assert handle.report.calls[0].has_pruned
    assert logits_of(generate(model, inputs, STEPS)).equal(logits_of(plain))


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("name", ["prunevid", "fastv", "look_m"])
def test_nothing_can_be_dropped_behind_a_recurrent_layer(kind, name):
    with pytest.raises(ValueError, match=rf"{name} prunes inside .*linear-attention.*select=False"):
        prune_by(build(kind), build_method(name, {}))


@BOTH_FORMS
def test_beams_and_static_cache(kind):
    model, question = build(kind), one_video(kind)
    expected, _ = ask(model, question, CONFIG)
    static, _ = ask(model, question, CONFIG, cache_implementation="static")
    assert static.sequences.equal(expected.sequences)
    with prune(model, CONFIG):
        beams = generate(model, inputs_of(question), STEPS, num_beams=3, output_scores=True)
    slow, total = SlowGrids(model, question, CONFIG), 0.0
    for token in beams.sequences[0, -STEPS:].tolist():
        hidden = slow.decoder.norm(slow._run(len(slow.decoder.layers)))[-1]
        total += float(slow.model.lm_head(hidden).log_softmax(-1)[token])
        slow.feed(token)
    assert abs(total / STEPS - float(beams.sequences_scores[0])) <= 1e-4


@BOTH_FORMS
def test_prompt_lookup_gives_the_greedy_answer(kind):
    """Words come back at the prompt's end, so there is something to look up."""
    words = text_tokens(3, 1)
    question = Question(kind, [*one_video(kind).parts, [*words, *words]])
    expected, _ = ask(build(kind), question, CONFIG)
    found, _ = ask(build(kind), question, CONFIG, prompt_lookup_num_tokens=3)
    assert found.sequences.equal(expected.sequences)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl", "qwen3_5"])
def test_a_second_video_in_a_later_turn(kind):
    """Fed by hand: generate would place it by the grids of all videos, and encode those anew."""
    model = build(kind)
    first = Question(kind, [text_tokens(4), Clip(4, 2, 3), text_tokens(7, 1)])
    second = Question(kind, [text_tokens(3, 5), Clip(6, 3, 2, 9), text_tokens(5, 6)])
    slow, later = (SlowGrids(model, question, MERGE_ONLY) for question in (first, second))
    shift = slow.rows[-1].position + 1
    inputs = inputs_of(second)
    del inputs["attention_mask"]
    inputs["position_ids"] = later._positions(inputs_of(second))[:, None] + shift[:, None, None]
    with prune(model, MERGE_ONLY) as handle:
        cache = model(**inputs_of(first), use_cache=True).past_key_values
        logits = model(**inputs, past_key_values=cache).logits[0, -1]
    assert [call.kind for call in handle.report.calls] == ["pruned", "pruned"]
    for row in later.rows:
        row.position, row.video = row.position + shift, row.video + (row.video >= 0)
    slow.rows += later.rows
    slow.videos += later.videos
    expected = by_hand(model, slow)
    assert (logits - expected).norm() <= 1e-5 * expected.norm()


@BOTH_FORMS
def test_candidates_at_the_end_of_a_prompt_are_no_question(kind):
    """What assisted decoding sends: logits of the prompt's last token and of each candidate."""
    model, question, tokens = build(kind), one_video(kind), text_tokens(2, 40)
    asked = inputs_of(Question(kind, [*question.parts[:-1], [*question.parts[-1], *tokens]]))
    with prune(model, CONFIG) as handle:
        logits = model(**asked, logits_to_keep=3, use_cache=True).logits[0]
    slow = SlowGrids(model, question, CONFIG)
    assert handle.report.last.videos[0].kept.tolist() == slow.kept[0]
    for step in range(3):
        hidden = slow.decoder.norm(slow._run(len(slow.decoder.layers)))[-1]
        expected = slow.model.lm_head(hidden)
        assert (logits[step].double() - expected).abs().max() <= 1e-4 * expected.abs().max()
        if step < 2:
            slow.feed(tokens[step])


@BOTH_FORMS
def test_text_goes_on_behind_a_pruned_prompt(kind):
    model, question, more = build(kind), one_video(kind), text_tokens(5, 9)
    with prune(model, CONFIG):
        first = generate(model, inputs_of(question), STEPS)
        ids = torch.cat((first.sequences, torch.tensor([more])), dim=1)
        chat = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        second = generate(model, chat | {"past_key_values": first.past_key_values}, STEPS)
    slow = SlowGrids(model, question, CONFIG)
    for token in [*first.sequences[0, -STEPS:].tolist(), *more]:
        slow.feed(token)
    assert_slow(second, 0, slow)


@BOTH_FORMS
def test_without_a_cache_the_text_row_has_no_gaps(kind):
    """Gaps in it are taken for the borders of packed sequences where there is no mask."""
    model, question = build(kind), one_video(kind)
    inputs = inputs_of(question)
    del inputs["attention_mask"]
    with prune(model, MERGE_ONLY):
        result = generate(model, inputs, 1, use_cache=False)
        forward = model(**inputs, use_cache=False).logits[0, -1]
    slow = SlowGrids(model, question, MERGE_ONLY)
    _, logits = slow.greedy(1)
    bound = 1e-4 * float(logits.abs().max())
    assert (result.logits[0][0].double() - logits[0]).abs().max() <= bound
    assert (forward.double() - logits[0]).abs().max() <= bound


@BOTH_FORMS
@pytest.mark.parametrize("name", ["fastv", "look_m", "random_drop", "drop_all"])
def test_the_methods_of_the_comparison_run(kind, name):
    model, question = build(kind), one_video(kind)
    options = {"k": PLANES + 1} if name == "fastv" else {}
    if name in ("random_drop", "drop_all"):
        options = {"layer": PLANES}
    with prune_by(model, build_method(name, options)) as handle:
        generate(model, inputs_of(question), STEPS)
    assert handle.report.last.has_pruned and handle.report.last.tokens_before == 96


@BOTH_FORMS
@pytest.mark.parametrize(
    ("clip", "frames"),
    [
        pytest.param(Clip(4, 1, 3, 5, seconds_a_frame=0.01), 4, id="one-row"),
        pytest.param(Clip(4, 3, 1, 6, seconds_a_frame=0.01), 4, id="one-column"),
        pytest.param(Clip(5, 1, 1, 7), 5, id="one-token"),
        pytest.param(Clip(1, 2, 3, 8), 1, id="one-frame"),
    ],
)
def test_frames_are_counted_whatever_the_grid(kind, clip, frames):
    question = Question(kind, [text_tokens(3), clip, text_tokens(3, 1)])
    model = build(kind)
    with prune_by(model, build_method("full", {})) as handle:
        generate(model, inputs_of(question), 1)
    layout = handle.report.last.videos[0].layout
    assert (layout.num_frames, layout.tokens_per_frame) == (frames, clip.rows * clip.columns)


@BOTH_FORMS
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"pixel_values_videos": None, "video_grid_thw": None}, "no video features", id="pixels"
        ),
        pytest.param({"use_cache": False}, "needs a key/value cache", id="no-cache"),
        pytest.param({"labels": torch.zeros(1, 200)}, "training loss", id="labels"),
        pytest.param({"video_grid_thw": None}, "without video_grid_thw", id="no-grid"),
        pytest.param(
            {"video_grid_thw": torch.tensor([[8, 6, 6]])}, "72|8 frames", id="grid-of-another"
        ),
    ],
)
def test_what_cannot_be_pruned_is_an_error(kind, change, message):
    model = build(kind)
    with pytest.raises(ValueError, match=message), prune(model, CONFIG):
        model(**{**inputs_of(one_video(kind)), **change})


@BOTH_FORMS
def test_a_prompt_cut_by_chunks_is_refused(kind):
    model = build(kind)
    with pytest.raises(ValueError, match="prefill_chunk_size|cannot split"), prune(model, CONFIG):
        generate(model, inputs_of(one_video(kind)), 1, prefill_chunk_size=40)


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen3_vl_moe"])
@pytest.mark.parametrize("name", ["prunevid", "fastv"])
def test_a_layer_that_still_gets_visual_features_is_refused(kind, name):
    message = f"{name} must select at a layer of at least {PLANES}, got 1"
    options = {"layer": 1} if name == "prunevid" else {"k": 2}
    with pytest.raises(ValueError, match=message):
        prune_by(build(kind), build_method(name, options))


def test_planes_of_another_number_of_tokens_are_refused():
    visuals = [PromptVisuals(videos=(VideoSpan.apart([2, 9], 4),), images=((15, 17),))]
    embeds = torch.randn(1, 20, 8)
    batch, _ = merge_prompts(build_method("full", {}).merge, visuals, embeds, [0])
    planes = VisualPlanes("mask", "features", 1)
    merged = merge_planes(planes, {"features": [torch.ones(10, 8)]}, batch, visuals)
    assert merged["mask"].sum() == 10 and not merge_planes(planes, {}, batch, visuals)
    with pytest.raises(
        ValueError, match="features must have a row for each of .* 10 visual tokens"
    ):
        merge_planes(planes, {"features": [torch.ones(9, 8)]}, batch, visuals)


def test_a_span_whose_frames_overlap_is_refused():
    with pytest.raises(ValueError, match="frame_starts must be the places of 3 frames of 4 tokens"):
        VideoSpan.apart([5, 8, 20], 4)
    span = VideoSpan.apart([5, 12, 20], 4)
    assert (span.start, span.stop, span.num_tokens) == (5, 24, 12)
    assert span.between == [9, 10, 11, 16, 17, 18, 19]
