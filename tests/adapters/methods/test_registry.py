"""Methods by name: options, errors, and a model that is left as it was."""

from __future__ import annotations

import pytest
from families import EACH_FAMILY, EACH_VARIANT
from slow_pruning import SlowDecoder, assert_same
from tiny_models import CONFIG, generate, question

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import apply_method
from prunevid_kernels.adapters.methods.registry import METHODS, build_method

# Names and options; test_matrix.py runs the methods on each version.
pytestmark = pytest.mark.one_version

NAMES = "full prunevid merge_only select_only fastv prumerge look_m random_drop drop_all".split()


def options_for(name: str) -> dict:
    return {"layer": 1} if "layer" in METHODS[name].defaults else {}


def test_every_method_has_its_name():
    # Those that only merge before the decoder come last; test_matrix.py runs them.
    assert list(METHODS)[: len(NAMES)] == NAMES
    for name in METHODS:
        assert build_method(name, {}).name == name


@pytest.mark.sample(19)
@EACH_VARIANT
@pytest.mark.parametrize("name", NAMES)
def test_model_is_restored_bit_for_bit(family, name):
    model, inputs = family.build(), family.question()
    plain = model(**inputs).logits
    with apply_method(model, name, options_for(name)) as handle:
        pruned = model(**inputs).logits
    assert model(**inputs).logits.equal(plain)
    assert pruned.equal(plain) == (name in ("full", "look_m"))  # look_m acts after the prefill
    call = handle.report.last
    assert call.method == name
    assert call.has_pruned == (name != "full")
    per_layer = call.visual_tokens_per_layer()
    assert [n / call.tokens_before for n in per_layer] == call.retained_ratio_per_layer


@pytest.mark.sample(4)
@EACH_FAMILY
@pytest.mark.parametrize(
    ("name", "config"),
    [
        pytest.param("prunevid", CONFIG, id="prunevid"),
        pytest.param("merge_only", PruneVidConfig(layer=1, select=False), id="merge-only"),
        pytest.param("select_only", PruneVidConfig(layer=1, merge=False), id="select-only"),
    ],
)
def test_prunevid_by_name(family, name, config):
    model, inputs = family.build(), family.question()
    with apply_method(model, name, {"layer": 1}) as handle:
        result = generate(model, inputs)
    slow = family.slow(model, SlowDecoder, config)
    slow.feed_prompt(*family.prompts(model, inputs))
    assert [
        video.kept.tolist() for video in handle.report.last.videos if config.select
    ] == slow.kept
    assert_same(result, 0, slow)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("vtc", {}, ValueError, "unknown method 'vtc'; known methods: full, prunevid"),
        ("full", {"layer": 1}, ValueError, "unknown option 'layer' of full; known options: none"),
        ("fastv", {"tau": 0.8}, ValueError, "of fastv; known options: k, keep_ratio"),
        ("merge_only", {"select": True}, ValueError, "unknown option 'select' of merge_only"),
        ("fastv", {"k": 0}, ValueError, "k must be an integer >= 1, got 0"),
        ("fastv", {"k": 2.5}, TypeError, "k must be an integer >= 1, got 2.5"),
        ("fastv", {"k": 6}, ValueError, "less than the model's 5 decoder layers, got 5"),
        ("fastv", {"keep_ratio": 0.0}, ValueError, r"keep_ratio must be in \(0, 1\], got 0.0"),
        ("look_m", {"recent_ratio": "x"}, TypeError, "recent_ratio must be a number"),
        ("prumerge", {"neighbors": 0}, ValueError, "neighbors must be an integer >= 1"),
        ("random_drop", {"seed": -1}, ValueError, "seed must be an integer >= 0"),
        ("prunevid", {"tau": 2}, ValueError, "tau must be in"),
        ("drop_all", {"layer": 9}, ValueError, "layer must be less than"),
    ],
)
def test_wrong_names_and_options_are_refused(model, name, options, error, message):
    with pytest.raises(error, match=message):
        apply_method(model, name, options)


@pytest.mark.parametrize("name", ["fastv", "look_m"])
def test_methods_inside_the_decoder_need_a_cache(model, name):
    with apply_method(model, name, {}) as handle:
        with pytest.raises(ValueError, match="use_cache=False"):
            model(**question(frames=3), use_cache=False)
        model(**question(frames=3))
    assert len(handle.report.calls) == 1
