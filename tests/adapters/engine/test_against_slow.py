"""Pruned ``generate`` against a slow decoder written without hooks, caches or gathers."""

from __future__ import annotations

import pytest
import torch
from slow_pruning import STEPS, SlowDecoder, assert_same, pieces
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

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import prune


def slow_for(model, config) -> SlowDecoder:
    return SlowDecoder(model.model.language_model, model.lm_head, config)


@pytest.mark.sample(6)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("score", ["nope", "rope"])
@pytest.mark.parametrize("layer", [0, 1, 2, 4])
def test_one_video(build, layer, score, attention):
    model, inputs = build("qwen2", attention), question()
    config = PruneVidConfig(layer=layer, score=score)
    with prune(model, config) as handle:
        result = generate(model, inputs)
    slow = slow_for(model, config)
    slow.feed_prompt(pieces(model, inputs["input_ids"][0].tolist(), inputs["pixel_values_videos"]))
    assert handle.report.last.videos[0].kept.tolist() == slow.kept[0]
    entries = slow.entries()
    assert_same(result, 0, slow)
    lengths = {layer.keys.shape[2] for layer in result.past_key_values.layers}
    assert lengths == {entries + STEPS - 1}


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(PruneVidConfig(layer=1, selection="global"), id="global"),
        pytest.param(PruneVidConfig.paper(layer=2, keep_ratio=0.13), id="paper"),
        pytest.param(PruneVidConfig(layer=1, merge=False), id="select-only"),
        pytest.param(PruneVidConfig(layer=1, merge=False, score="rope"), id="select-only-rope"),
        pytest.param(PruneVidConfig(select=False), id="merge-only"),
        pytest.param(PruneVidConfig(layer=0, keep_ratio=0.01), id="keeps-no-token"),
        pytest.param(PruneVidConfig(layer=1, budget=40), id="budget"),
    ],
)
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_configurations(build, kind, config):
    model, inputs = build(kind), question(frames=6, before=0)
    with prune(model, config) as handle:
        result = generate(model, inputs)
    slow = slow_for(model, config)
    slow.feed_prompt(pieces(model, inputs["input_ids"][0].tolist(), inputs["pixel_values_videos"]))
    assert_same(result, 0, slow)
    assert handle.report.last.tokens_kept < 96


@pytest.mark.parametrize("score", ["nope", "rope"])
def test_padded_batch_of_several_videos(model, score):
    """Rows of different length, with one, two (adjacent and apart) and no videos."""
    config = PruneVidConfig(layer=1, score=score)
    video = video_tokens(8)
    prompts = [
        text_tokens(3) + video + text_tokens(9, 1),
        text_tokens(2, 2) + video + text_tokens(4, 3) + video + text_tokens(5, 4),
        text_tokens(7, 5),
        video + video + text_tokens(6, 6),
    ]
    clips = [clip(8, seed) for seed in range(5)]
    owned = [clips[:1], clips[1:3], [], clips[3:]]
    ids, mask = left_pad(prompts)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values_videos": torch.stack(clips),
    }
    with prune(model, config) as handle:
        result = generate(model, inputs)
    for row, prompt in enumerate(prompts):
        slow = slow_for(model, config)
        slow.feed_prompt(pieces(model, prompt, owned[row]))
        kept = [v.kept.tolist() for v in handle.report.last.videos if v.prompt == row]
        assert kept == slow.kept
        assert_same(result, row, slow)
    kept_counts = {v.tokens_kept for v in handle.report.last.videos}
    assert len(kept_counts) > 1, "the rows were meant to shrink differently"


@pytest.mark.sample(2)
@pytest.mark.parametrize("score", ["nope", "rope"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_batch_equals_one_by_one(build, attention, score):
    model, config = build("qwen2", attention), PruneVidConfig(layer=2, score=score)
    prompts = [
        text_tokens(before, before) + video_tokens(8) + text_tokens(after, after)
        for before, after in ((2, 11), (8, 3), (5, 5))
    ]
    clips = torch.stack([clip(8, seed) for seed in (3, 4, 5)])
    ids, mask = left_pad(prompts)
    with prune(model, config):
        together = generate(
            model, {"input_ids": ids, "attention_mask": mask, "pixel_values_videos": clips}
        )
        for row, prompt in enumerate(prompts):
            alone = generate(
                model,
                {"input_ids": torch.tensor([prompt]), "pixel_values_videos": clips[row : row + 1]},
            )
            assert together.sequences[row, -STEPS:].equal(alone.sequences[0, -STEPS:])
            torch.testing.assert_close(
                torch.stack(together.logits)[:, row],
                torch.stack(alone.logits)[:, 0],
                rtol=0,
                atol=1e-5,
            )


@pytest.mark.sample(2)
@pytest.mark.parametrize("score", ["nope", "rope"])
@pytest.mark.parametrize("first_turn", ["video", "text"])
def test_conversation_with_a_second_video(model, first_turn, score):
    """Turn 1 with or without a video, turn 2 text, turn 3 a video: one cache throughout."""
    config = PruneVidConfig(layer=1, score=score)
    slow = slow_for(model, config)
    first = question()
    if first_turn == "text":
        first = {"input_ids": torch.tensor([text_tokens(12)])}
    second, third = text_tokens(5, 7), text_tokens(2, 8) + video_tokens(6) + text_tokens(6, 9)
    video = clip(6, 7)[None]

    with prune(model, config) as handle:
        result = generate(model, first)
        slow.feed_prompt(
            pieces(model, first["input_ids"][0].tolist(), first.get("pixel_values_videos", []))
        )
        assert_same(result, 0, slow)
        # The last token was handed out, but never fed.
        slow = rewind(slow)

        ids = torch.cat((result.sequences, torch.tensor([second])), dim=1)
        result = turn(model, ids, result.past_key_values)
        slow.feed_tokens([*ids[0, -len(second) - 1 :].tolist()])
        assert_same(result, 0, slow)
        slow = rewind(slow)

        ids = torch.cat((result.sequences, torch.tensor([third])), dim=1)
        result = turn(model, ids, result.past_key_values, video)
        slow.feed_prompt(pieces(model, ids[0, -len(third) - 1 :].tolist(), video))
        assert handle.report.last.videos[0].kept.tolist() == slow.kept[-1]
        assert_same(result, 0, slow)


@pytest.mark.sample(2)
@pytest.mark.parametrize("score", ["nope", "rope"])
@pytest.mark.parametrize("first_turn", ["video", "text"])
def test_padded_batch_conversation(model, first_turn, score):
    """Rows padded differently in each turn: the second turn's padding is amid the sequence."""
    config = PruneVidConfig(layer=1, score=score)
    prompts = [text_tokens(4, 1), text_tokens(9, 2)]
    if first_turn == "video":
        prompts = [prompt[:2] + video_tokens(8) + prompt[2:] for prompt in prompts]
    clips = torch.stack([clip(8, 1), clip(8, 2)])
    more_clips = torch.stack([clip(6, 3), clip(6, 4)])
    more = [
        text_tokens(5, 3) + video_tokens(6) + text_tokens(3, 4),
        text_tokens(1, 5) + video_tokens(6) + text_tokens(4, 6),
    ]
    ids, mask = left_pad(prompts)
    pixels = {"pixel_values_videos": clips} if first_turn == "video" else {}
    with prune(model, config) as handle:
        places = positions(mask)
        outputs = model(input_ids=ids, attention_mask=mask, position_ids=places, **pixels)
        said = outputs.logits[:, -1].argmax(-1, keepdim=True)
        mask = torch.cat((mask, torch.ones_like(said)), dim=1)
        outputs = model(
            input_ids=said,
            attention_mask=mask,
            position_ids=positions(mask)[:, -1:],
            past_key_values=outputs.past_key_values,
        )
        more_ids, more_mask = left_pad(more)
        result = generate(
            model,
            {
                "input_ids": more_ids,
                "attention_mask": torch.cat((mask, more_mask), dim=1),
                "past_key_values": outputs.past_key_values,
                "pixel_values_videos": more_clips,
            },
        )
    for row in range(2):
        slow = slow_for(model, config)
        slow.feed_prompt(pieces(model, prompts[row], clips[row : row + 1]))
        assert int(slow.logits().argmax()) == said[row]
        slow.feed_tokens(said[row].tolist())
        slow.feed_prompt(pieces(model, more[row], more_clips[row : row + 1]))
        assert handle.report.last.videos[row].kept.tolist() == slow.kept[-1]
        assert_same(result, row, slow)


def positions(mask: torch.Tensor) -> torch.Tensor:
    """As ``generate`` counts them."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def turn(model, ids, cache, video=None):
    """A turn of a chat, given whole; ``generate`` feeds what the cache has not seen."""
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "past_key_values": cache}
    if video is not None:
        inputs["pixel_values_videos"] = video
    return generate(model, inputs)


def rewind(slow: SlowDecoder) -> SlowDecoder:
    """Take back the last token."""
    slow.rows, slow.block, slow.dropped = slow.rows[:-1], slow.block[:-1], slow.dropped[:-1]
    return slow


def test_question_rows_are_the_text_after_the_video_alone(model):
    """Neither the newline embedding nor an image after the video scores it."""
    inputs = question()
    ids = inputs["input_ids"][0].tolist()
    image = [1] * (64 + 72)
    ids = ids[:-3] + image + ids[-3:]
    inputs["input_ids"] = torch.tensor([ids])
    inputs["attention_mask"] = torch.ones(1, len(ids), dtype=torch.int64)
    inputs["pixel_values"] = question(2, 9)["pixel_values_videos"]
    inputs["image_sizes"] = torch.tensor([[32, 32]])
    with prune(model, CONFIG) as handle:
        result = generate(model, inputs)
    encoded = model.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
    pixels = encoded.pooler_output[0]
    slow = slow_for(model, CONFIG)
    first = 5 + len(video_tokens(8))
    slow.feed_prompt(
        [
            ("text", ids[:5]),
            ("video", features(model, inputs["pixel_values_videos"][0])),
            ("other", model.model.image_newline[None]),
            ("text", ids[first : first + 4]),
            ("other", pixels),
            ("text", ids[-3:]),
        ]
    )
    assert_same(result, 0, slow)
    assert handle.report.last.image_tokens == (136,)
    assert handle.report.last.other_tokens == (len(ids) - 128,)
