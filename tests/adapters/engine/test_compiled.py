"""A compiled model is refused by name, before it prunes and while it does: never run unpruned."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CONFIG, question

from prunevid_kernels.adapters import NothingPrunedWarning, prune

EACH_BACKEND = pytest.mark.parametrize("backend", ["eager", "aot_eager"])
EACH_KIND = pytest.mark.parametrize("fullgraph", [False, True], ids=["breaks", "fullgraph"])


@pytest.fixture(autouse=True)
def no_compiled_code_is_left():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@EACH_BACKEND
@pytest.mark.parametrize("how", ["function", "method"])
def test_compiled_model_is_refused(model, how, backend):
    before = model(**question()).logits
    if how == "function":
        given = torch.compile(model, backend=backend)
    else:
        model.compile(backend=backend)
        given = model
    try:
        with pytest.raises(ValueError, match="LlavaOnevisionForConditionalGeneration is compiled"):
            prune(given, CONFIG)
    finally:
        model._compiled_call_impl = None
    assert model(**question()).logits.equal(before)


@pytest.mark.parametrize("part", ["model", "model.language_model", "model.language_model.layers.1"])
def test_compiled_part_is_refused(model, part):
    module = model.get_submodule(part)
    module.compile(backend="eager")
    try:
        with pytest.raises(ValueError, match=f"{type(module).__name__} is compiled"):
            prune(model, CONFIG)
    finally:
        module._compiled_call_impl = None


@pytest.mark.sample(4)
@EACH_BACKEND
@EACH_KIND
@pytest.mark.parametrize("when", ["before", "inside", "method"])
def test_compiled_prompt_is_refused(model, when, fullgraph, backend):
    """The caller gets our text, with and without graph breaks; the model goes on as it was."""
    options = {"backend": backend, "fullgraph": fullgraph}
    compiled = torch.compile(model, **options) if when == "before" else None
    with prune(model, CONFIG) as handle:
        expected = model(**question()).logits
        if when == "inside":
            compiled = torch.compile(model, **options)
        elif when == "method":
            model.compile(**options)
            compiled = model
        try:
            with pytest.raises(RuntimeError, match="cannot run inside torch.compile while"):
                compiled(**question())
        finally:
            model._compiled_call_impl = None
        assert model(**question()).logits.equal(expected)
    assert [call.kind for call in handle.report.calls] == ["pruned", "pruned"]


def test_decoder_compiled_inside_the_block(model):
    """Its hooks are traced, where no call is known; the entry finds that nothing was pruned."""
    decoder = model.model.language_model
    with prune(model, CONFIG) as handle:
        decoder.compile(backend="eager")
        try:
            with pytest.raises(RuntimeError, match="its text decoder was never called"):
                model(**question())
        finally:
            decoder._compiled_call_impl = None
        with pytest.warns(NothingPrunedWarning):
            handle.remove()
