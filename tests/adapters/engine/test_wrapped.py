"""Models inside a PEFT wrapper, whose calls go past the hooks of the model itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import CONFIG, features, generate, question
from torch import nn

from prunevid_kernels.adapters import PromptVisuals, VideoSpan, prune, unprune


class Tuner(nn.Module):
    """As peft's ``BaseTuner``: hands calls to the model's ``forward``, not to the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.forward(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)


class Peft(nn.Module):
    """As peft's ``PeftModel``."""

    def __init__(self, model: nn.Module, *, learns_prompts: bool = False) -> None:
        super().__init__()
        self.base_model = Tuner(model)
        self.config = model.config
        self.active_peft_config = SimpleNamespace(is_prompt_learning=learns_prompts)

    def get_base_model(self) -> nn.Module:
        return self.base_model.model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model.generate(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":
                raise
            return getattr(self.base_model, name)


def test_wrapped_model_is_pruned_as_the_model_itself(model):
    plain = model(**question()).logits
    with prune(model, CONFIG):
        expected = model(**question()).logits
        answer = generate(model, question()).sequences
    wrapped = Peft(model)
    with prune(wrapped, CONFIG) as handle:
        assert wrapped(**question()).logits.equal(expected)
        inputs = question()
        assert wrapped(inputs.pop("input_ids"), **inputs).logits.equal(expected)
        assert generate(wrapped, question()).sequences.equal(answer)
        assert model(**question()).logits.equal(expected)
    assert len(handle.report.pruned_calls) == 4
    assert wrapped(**question()).logits.equal(plain)


def test_what_the_outermost_call_says_is_heard(model):
    """The labels, which the wrapped model's core never sees."""
    wrapped = Peft(model)
    with prune(wrapped, CONFIG):
        wrapped(**question())
        with pytest.raises(ValueError, match="labels"):
            wrapped(**question(), labels=question()["input_ids"])


def test_announced_videos_of_a_wrapped_decoder(model, build_lm):
    decoder = build_lm()
    video = features(model, question(4)["pixel_values_videos"][0])
    text = decoder.get_input_embeddings()(torch.tensor([9, 10, 11]))
    embeds = torch.cat((video.flatten(0, 1), text))[None]
    visuals = [PromptVisuals(videos=(VideoSpan(0, 4, video.shape[1]),))]
    results = []
    for each in (decoder, Peft(decoder)):
        with prune(each, CONFIG) as handle, handle.videos(visuals):
            results.append(each(inputs_embeds=embeds).logits)
    assert results[0].equal(results[1])


def test_learned_prompts_are_refused(model):
    with pytest.raises(ValueError, match="Peft adds tokens of its own to each prompt"):
        prune(Peft(model, learns_prompts=True), CONFIG)


def test_pruned_through_the_wrapper_and_restored_through_the_model(model):
    plain = model(**question()).logits
    prune(Peft(model), CONFIG)
    with pytest.raises(ValueError, match="already pruned"):
        prune(model, CONFIG)
    assert unprune(model)
    assert model(**question()).logits.equal(plain)
    prune(model, CONFIG)
    assert unprune(Peft(model))
