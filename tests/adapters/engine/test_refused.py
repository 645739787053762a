"""What is refused, and that a refusal leaves nothing false behind."""

from __future__ import annotations

import warnings

import pytest
from tiny_models import CONFIG, question

from prunevid_kernels.adapters import PromptVisuals, VideoSpan, prune


@pytest.mark.parametrize("wrong", ["labels", "use_cache", "pixels"])
def test_a_prompt_that_was_refused_did_reach_the_model(model, wrong):
    """Its error says what is wrong; that no video came would be false."""
    inputs = question()
    if wrong == "pixels":
        del inputs["pixel_values_videos"]
    else:
        inputs[wrong] = inputs["input_ids"] if wrong == "labels" else False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with prune(model, CONFIG):
            with pytest.raises(ValueError):
                model(**inputs)


def test_what_stands_around_a_model_is_not_the_model(model):
    class Holder:
        def __init__(self):
            self.model = model

    with pytest.raises(ValueError, match=r"got the Holder around one; give its \.model"):
        prune(Holder(), CONFIG)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (PromptVisuals(), "must be a list of PromptVisuals.*got PromptVisuals"),
        (None, "must be a list of PromptVisuals.*got NoneType"),
        (["x"], r"videos\[0\] must be a PromptVisuals, got str"),
        ([PromptVisuals((3,))], r"videos\[0\].videos must hold VideoSpan, got int"),
    ],
)
def test_announcements_of_another_kind(model, said, message):
    with prune(model, CONFIG) as handle, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing was pruned
        with pytest.raises(TypeError, match=message), handle.videos(said):
            pass
        handle.remove()
    with pytest.raises(TypeError, match="frame_starts must be integers, got 9.0"):
        VideoSpan.apart([9.0, 30.0], 16)
