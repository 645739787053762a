"""Methods that need to know the vision side, on models with videos of any resolution: what cannot
be is said when the method is applied."""

from __future__ import annotations

from typing import Any

import pytest
from families import FAMILIES as OTHERS
from families_apart import VIDEO_LLAMA_3
from tiny_grids import Clip, Question, build, inputs_of
from tiny_models import generate, text_tokens

from prunevid_kernels.adapters.families import adapter_of, family_of
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


@EACH_KIND
def test_the_record_says_beforehand_what_the_adapter_says_of_a_model(kind):
    """What is counted without a model is refused for the same reasons."""
    model = model_of(kind)
    family, adapter = family_of(model.config.model_type), adapter_of(model)
    for need, ask in (("tower", adapter.vision_attention), ("grid", adapter.frame_grid)):
        with pytest.raises(ValueError) as refused:
            ask(model)
        assert str(refused.value).endswith(family.lacks[need])
        assert "Adapter" not in str(refused.value), "no name of a class inside"
    planes = adapter.planes(model)
    assert family.shape(model.config).planes == (0 if planes is None else planes.count)


@pytest.mark.parametrize("family", OTHERS, ids=lambda family: family.name)
def test_the_record_of_the_other_families_says_so_as_well(family):
    model = family.build()
    record, adapter = family_of(model.config.model_type), adapter_of(model)
    adapter.vision_attention(model)
    assert "tower" not in record.lacks
    if "grid" in record.lacks:
        with pytest.raises(ValueError, match="no grid in which the tokens of a frame lie"):
            adapter.frame_grid(model)
    else:
        assert len(adapter.frame_grid(model)) == 2
    assert adapter.planes(model) is None and record.shape(model.config).planes == 0
