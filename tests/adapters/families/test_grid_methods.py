"""Methods that need to know the vision side, on models with videos of any resolution: what cannot
be is said when the method is applied."""

from __future__ import annotations

from typing import Any

import pytest
from families_apart import VIDEO_LLAMA_3
from tiny_grids import Clip, Question, build, inputs_of
from tiny_models import generate, text_tokens

from prunevid_kernels.adapters.methods.registry import METHODS, build_method
from prunevid_kernels.adapters.pruning import prune_by

KINDS = ["qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_5", "video_llama_3"]
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
# Those that select as well are refused for their layer where a model is tiny.
GUIDED_BY_TOWER = [
    name
    for name, method in METHODS.items()
    if "tower" in method.needs and "selects" not in method.changes
]


def model_of(kind: str) -> Any:
    return VIDEO_LLAMA_3.build() if kind == "video_llama_3" else build(kind)


@EACH_KIND
def test_methods_that_look_at_the_tower_say_that_they_do_not_run(kind):
    assert "prumerge" in GUIDED_BY_TOWER and "visionzip" in GUIDED_BY_TOWER
    for name in GUIDED_BY_TOWER:
        with pytest.raises(ValueError, match="frames of any size in one row. Methods that look at"):
            prune_by(model_of(kind), build_method(name, {}))


@EACH_KIND
def test_downsampling_needs_the_grid(kind):
    with pytest.raises(ValueError, match=r"differs from video to video.*option grid=\[rows"):
        prune_by(model_of(kind), build_method("downsample", {}))


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_downsampling_a_grid_that_is_given(kind):
    question = Question(kind, [text_tokens(4), Clip(8, 3, 4), text_tokens(7, 1)])
    model, method = build(kind), build_method("downsample", {"grid": (3, 4), "ratio": 0.5})
    with prune_by(model, method) as handle:
        generate(model, inputs_of(question), 2)
    assert handle.report.last.tokens_merged == 48
    with (
        pytest.raises(ValueError, match="grid must hold a frame's 12 tokens, got 2 x 4"),
        prune_by(model, build_method("downsample", {"grid": (2, 4)})),
    ):
        generate(model, inputs_of(question), 2)
