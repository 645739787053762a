"""What goes wrong with rotary positions of three axes unless one looks, a test each. All but the
last two look at what the decoder is called with."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import fields
from inspect import signature
from typing import Any

import pytest
import torch
from tiny_grids import PLANES, Clip, Question, build, inputs_of
from tiny_models import generate, text_tokens

from prunevid_kernels import PruneVidConfig, apply_layout
from prunevid_kernels.adapters import prune

BOTH_FORMS = pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
MERGE = PruneVidConfig(select=False, min_cluster_tokens=2)
BOTH_STEPS = PruneVidConfig(layer=PLANES, min_cluster_tokens=2)
CLIP = Clip(8, 3, 4, seconds_a_frame=0.1)


def question(kind: str) -> Question:
    return Question(kind, [text_tokens(4), CLIP, text_tokens(7, 1)])


@contextmanager
def calls_of(module: torch.nn.Module) -> Any:
    """The arguments of each call of the module, by name, as they come through other hooks."""
    seen: list[dict[str, Any]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(dict(kwargs))

    hook = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def decoder_calls(model: Any, inputs: Any, config: PruneVidConfig | None, steps: int = 1) -> Any:
    """What the decoder gets in ``generate``, and the report; without pruning for None."""
    if config is None:
        with calls_of(model.model.language_model) as seen:
            generate(model, inputs, steps)
        return seen, None
    with prune(model, config) as handle, calls_of(model.model.language_model) as seen:
        generate(model, inputs, steps)
    return seen, handle.report


@BOTH_FORMS
def test_trap_1_generate_encodes_first_and_drops_the_grid(kind):
    """The frames are found without it, as with it."""
    model, inputs = build(kind), inputs_of(question(kind))
    with prune(model, BOTH_STEPS) as handle, calls_of(model) as seen:
        generate(model, inputs, 1)
        model(**inputs, use_cache=True)
    by_generate, by_forward = handle.report.calls
    if "mm_encoder_outputs" in signature(model.forward).parameters:
        assert seen[0].get("video_grid_thw") is None and seen[0].get("pixel_values_videos") is None
        assert seen[0]["mm_encoder_outputs"]["video"] is not None
    assert seen[1]["video_grid_thw"] is not None
    for call in (by_generate, by_forward):
        assert (call.videos[0].layout.num_frames, call.tokens_before) == (8, 96)
    assert by_generate.videos[0].kept.equal(by_forward.videos[0].kept)


def test_trap_2_two_frames_have_one_integer_of_time():
    """Above four frames of tokens a second; only Qwen2.5-VL counts time in seconds."""
    model, inputs = build("qwen2_5_vl"), inputs_of(question("qwen2_5_vl"))
    (plain,), _ = decoder_calls(model, inputs, None)
    places = (inputs["input_ids"][0] == model.config.video_token_id).nonzero()[:, 0]
    times = plain["position_ids"][-3, 0, places]
    assert len(times.unique()) < CLIP.frames
    _, report = decoder_calls(model, inputs, MERGE)
    assert report.last.videos[0].layout.num_frames == CLIP.frames


@BOTH_FORMS
def test_trap_3_the_row_of_text_positions_has_no_gaps(kind):
    model, inputs = build(kind), inputs_of(question(kind))
    (call, *_), report = decoder_calls(model, inputs, MERGE)
    positions, length = call["position_ids"], call["inputs_embeds"].shape[1]
    assert length == inputs["input_ids"].shape[1] - 96 + report.last.tokens_merged
    assert positions.shape == (4, 1, length)
    assert positions[0, 0].tolist() == list(range(length))
    assert any((axis.diff() > 1).any() for axis in positions[1:, 0])


@BOTH_FORMS
def test_trap_4_later_tokens_go_on_after_the_callers_positions(kind):
    """``rope_deltas`` on the model are left as they are, and are right."""
    model, inputs = build(kind), inputs_of(question(kind))
    plain, _ = decoder_calls(model, inputs, None, 3)
    deltas = model.model.rope_deltas.clone()
    pruned, report = decoder_calls(model, inputs, BOTH_STEPS, 3)
    assert report.last.has_pruned and model.model.rope_deltas.equal(deltas)
    last = plain[0]["position_ids"][-3:, :, -1:]
    assert pruned[0]["position_ids"][-3:, :, -1:].equal(last)
    for step in (1, 2):
        assert plain[step]["position_ids"][-3:].equal(pruned[step]["position_ids"][-3:])


@BOTH_FORMS
def test_trap_5_anchors_do_not_ascend(kind):
    """Each merged token has its own first source's position and its own sources' planes, though
    the decoder adds planes by a boolean mask, which only goes upwards."""
    model, asked = build(kind), question(kind)
    inputs, ((places,), width) = inputs_of(asked), (asked.frames, CLIP.rows * CLIP.columns)
    source = torch.tensor([start + n for start in places for n in range(width)])
    (plain,), _ = decoder_calls(model, inputs, None)
    (call, *_), report = decoder_calls(model, inputs, MERGE)
    layout = report.last.videos[0].layout
    in_frames = layout.merged_anchor // width
    is_down = layout.merged_anchor.diff() < 0
    assert (is_down & (in_frames.diff() == 0)).any()  # also inside a group

    def merged(rows: torch.Tensor) -> torch.Tensor:
        return apply_layout(rows.unflatten(0, (CLIP.frames, width)), layout)

    tokens, embeds = merged(plain["inputs_embeds"][0, source]), call["inputs_embeds"][0]
    distances = torch.cdist(tokens.double(), embeds.double())
    rows = distances.argmin(dim=1)
    assert len(rows.unique()) == len(rows) == layout.num_merged
    assert distances.amin(dim=1).max() <= 1e-4 * tokens.norm(dim=1).mean()
    assert call["position_ids"][-3:, 0, rows].equal(
        plain["position_ids"][-3:, 0, source[layout.merged_anchor]]
    )
    if kind == "qwen3_vl":
        mask = call["visual_pos_masks"][0]
        assert mask.nonzero()[:, 0].equal(rows.sort().values)
        rank = mask.cumsum(0)[rows] - 1
        for before, after in zip(
            plain["deepstack_visual_embeds"], call["deepstack_visual_embeds"], strict=True
        ):
            torch.testing.assert_close(after[rank], merged(before))


@BOTH_FORMS
def test_trap_6_beams_rebuild_the_encoders_outputs(kind):
    """So nothing is put on them, and nothing is missed on the rebuilt ones."""
    model, inputs = build(kind), inputs_of(question(kind))
    with prune(model, BOTH_STEPS) as handle, calls_of(model) as seen:
        generate(model, inputs, 2, num_beams=3)
    assert len(handle.report.calls[0].videos) == 3
    assert {video.layout.num_frames for video in handle.report.calls[0].videos} == {8}
    encoded = (seen[0].get("mm_encoder_outputs") or {}).get("video")
    if encoded is not None:
        assert set(vars(encoded)) <= {field.name for field in fields(encoded)}
        assert len(encoded.pooler_output) == 3


@BOTH_FORMS
def test_trap_7_images_are_runs_of_another_token(kind):
    """They go through whole."""
    image = Clip(1, 2, 2, 2, is_image=True)
    parts = [text_tokens(2), image, text_tokens(2, 4), CLIP, text_tokens(3, 1), image]
    asked = Question(kind, [*parts, text_tokens(5, 5)])
    model, inputs = build(kind), inputs_of(asked)
    (plain,), _ = decoder_calls(model, inputs, None)
    (call, *_), report = decoder_calls(model, inputs, MERGE)
    assert (report.last.image_tokens, report.last.tokens_before) == ((8,), 96)
    is_image = inputs["input_ids"][0] == model.config.image_token_id
    dropped = 96 - report.last.tokens_merged
    places = is_image.nonzero()[:, 0]
    places[4:] -= dropped
    assert call["inputs_embeds"][0, places].equal(plain["inputs_embeds"][0, is_image])
