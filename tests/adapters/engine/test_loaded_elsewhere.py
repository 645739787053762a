"""Models that transformers or its helpers loaded in another way: weights that are no floats, and
layers that accelerate moves in and out of memory around their forward."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from torch import Tensor, nn

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import VideoModel, prune
from prunevid_kernels.benchmarks import embedded


class Int8Linear(nn.Module):
    """As quantizing libraries have it: a class of its own, a weight that is an integer."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


def quantized(model: Any, folder: Path) -> Any:
    for parent in list(model.model.language_model.layers.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Int8Linear(child))
    return model


def on_disk(model: Any, folder: Path) -> Any:
    """Its last layers as accelerate keeps what does not fit; the others with its hooks as well."""
    inner = "model.language_model"
    parts = ("model.vision_tower", "model.multi_modal_projector", "lm_head", f"{inner}.norm")
    parts = (*parts, "model.image_newline", f"{inner}.embed_tokens", f"{inner}.rotary_emb")
    places = dict.fromkeys(parts, "cpu")
    for index in range(len(model.model.language_model.layers)):
        places[f"{inner}.layers.{index}"] = "cpu" if index < 2 else "disk"
    return dispatch_model(model, places, "cpu", offload_dir=folder, force_hooks=True)


@pytest.fixture(scope="module")
def loaded() -> VideoModel:
    return embedded.load_embedded_model()


@pytest.fixture(scope="module")
def inputs(loaded: VideoModel) -> dict[str, Tensor]:
    return loaded.encode(loaded.read_video(embedded.SAMPLE_CLIP), embedded.SAMPLE_QUESTION)


@pytest.mark.filterwarnings("ignore:The following device_map keys")
@pytest.mark.parametrize("change", [quantized, on_disk])
def test_is_pruned_like_the_plain_model(loaded, inputs, change, tmp_path):
    config = PruneVidConfig(layer=embedded.SELECTION_LAYER)
    calls = []
    for model in (loaded.model, change(copy.deepcopy(loaded.model), tmp_path)):
        with prune(model, config) as handle:
            output = model.generate(**inputs, max_new_tokens=4)
        answer = loaded.tokenizer.decode(
            output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        assert answer.strip() == embedded.SAMPLE_ANSWER
        calls.append(handle.report.last)
    plain, changed = calls
    assert changed.tokens_kept < changed.tokens_merged < changed.tokens_before
    assert changed.visual_tokens_per_layer() == plain.visual_tokens_per_layer()
