"""Inputs that do not fit together, on every family: one error that names the case. And calls
without a cache, which bring a prompt once more at each step."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from families import LLAVA_NEXT_VIDEO, LLAVA_ONEVISION, PLLAVA, ST_LLM, each
from families_apart import INTERNVL, SMOLVLM, VIDEO_LLAMA_3
from tiny_grids import VIDEO_ID, Clip, Question, inputs_of
from tiny_grids import build as build_grid
from tiny_models import generate, text_tokens

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import prune

MERGE = PruneVidConfig(select=False, min_cluster_tokens=4)


@dataclass(frozen=True)
class Grid:
    """A kind of ``tiny_grids`` through as much of the interface of ``families`` as is needed."""

    name: str
    video_id: int = VIDEO_ID

    def build(self) -> Any:
        return build_grid(self.name)

    def question(self) -> dict[str, torch.Tensor]:
        return inputs_of(Question(self.name, [text_tokens(4), Clip(8, 3, 4), text_tokens(7, 1)]))

    def telling(self, handle: Any, inputs: Any) -> Any:
        return nullcontext()


APART = [Grid("qwen3_vl"), Grid("qwen3_5")]
GRIDS = [Grid("qwen2_5_vl"), Grid("qwen2_vl"), *APART]
IMAGES = [INTERNVL, SMOLVLM]
FRAMES = [LLAVA_ONEVISION, PLLAVA, ST_LLM, LLAVA_NEXT_VIDEO, *IMAGES, VIDEO_LLAMA_3]
EACH = each(*FRAMES, *GRIDS)
SEQUENCES = ("input_ids", "attention_mask", "mm_token_type_ids")


def without(inputs: dict[str, torch.Tensor], places: list[int]) -> dict[str, torch.Tensor]:
    """The inputs without some tokens of their prompt."""
    left = [i for i in range(inputs["input_ids"].shape[1]) if i not in places]
    return {**inputs, **{name: inputs[name][:, left] for name in SEQUENCES if name in inputs}}


def visual(family: Any, inputs: dict[str, torch.Tensor]) -> list[int]:
    return (inputs["input_ids"][0] == family.video_id).nonzero()[:, 0].tolist()


@EACH
def test_a_prompt_that_is_cut_is_named(family):
    model, inputs = family.build(), family.question()
    with (
        pytest.raises(ValueError, match="prefill_chunk_size"),
        prune(model, MERGE) as handle,
        family.telling(handle, inputs),
    ):
        generate(model, inputs, 1, prefill_chunk_size=40)


@each(*IMAGES)
def test_a_video_that_ends_after_its_prompt_is_named(family):
    """As one does that was cut by hand, or where features are encoded along the way."""
    model, inputs = family.build(), family.question()
    cut = {**inputs, **{name: inputs[name][:, :40] for name in SEQUENCES if name in inputs}}
    with (
        pytest.raises(ValueError, match="ends at 130, but the call brings 40 .*prefill_chunk_size"),
        prune(model, MERGE) as handle,
        family.telling(handle, inputs),
    ):
        model(**cut, use_cache=True)


@EACH
def test_a_prompt_that_lacks_a_visual_token_is_named(family):
    model, inputs = family.build(), family.question()
    short = without(inputs, visual(family, inputs)[3:4])
    message = "in a row|runs of|not where its visual tokens are"
    with (
        pytest.raises(ValueError, match=message),
        prune(model, MERGE) as handle,
        family.telling(handle, inputs),
    ):
        model(**short, use_cache=True)


@each(*(family for family in (*FRAMES, *GRIDS) if family is not ST_LLM))
def test_features_without_a_place_in_the_prompt_are_named(family):
    """ST-LLM's prompt may leave the places out: its videos come first."""
    model, inputs = family.build(), family.question()
    bare = without(inputs, visual(family, inputs))
    message = r"none has the image token|runs of \[\]|got \[\]|do not match|for 0 of 1 videos"
    with pytest.raises(ValueError, match=message), prune(model, MERGE):
        model(**bare, use_cache=True)


@each(*APART, VIDEO_LLAMA_3)
def test_a_grid_of_other_frames_than_the_prompt_has_is_named(family):
    """As many tokens, in half as many frames."""
    model, inputs = family.build(), family.question()
    grid = inputs["video_grid_thw"] * torch.tensor([[2, 2, 2]]) // torch.tensor([[4, 1, 2]])
    assert grid.prod() == inputs["video_grid_thw"].prod()
    message = rf"the videos have \[{int(grid[0, 0])}\]: one run a frame"
    with pytest.raises(ValueError, match=message), prune(model, MERGE):
        model(**{**inputs, "video_grid_thw": grid}, use_cache=True)


@EACH
def test_without_a_cache_a_merged_prompt_is_answered_alike(family):
    model, inputs = family.build(), family.question()
    answers = []
    for use_cache in (True, False):
        with prune(model, MERGE) as handle, family.telling(handle, inputs):
            answers.append(generate(model, inputs, 3, use_cache=use_cache).sequences)
        assert handle.report.last.has_pruned
    assert answers[0].equal(answers[1])
    assert len(handle.report.calls) == 3


@each(*IMAGES)
def test_another_prompt_without_a_cache_needs_its_own_word(family):
    model, inputs = family.build(), family.question()
    other = without(inputs, [0])
    with (
        pytest.raises(ValueError, match="not where its visual tokens are"),
        prune(model, MERGE) as handle,
        family.telling(handle, inputs),
    ):
        model(**inputs, use_cache=False)
        model(**other, use_cache=False)
