"""The models whose latency is measured, and the prompts that they get.

Time depends on shapes and not on values, so a model of a published size may have random weights,
drawn on the device. How many tokens are left does depend on values, and a random vision tower tells
nothing apart. So such a model runs its own vision tower and projector, and the features of a
generated video (``video_features``) then take the place of their output, where the text
decoder begins. Checkpoints and the embedded model keep their own features. Either way the frames
are the sample clip's; where a prompt needs more frames than the clip has, it is read again from its
start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunevid_kernels.adapters import (
    ModelError,
    PruneCall,
    VideoModel,
    apply_method,
    load_video_model,
)
from prunevid_kernels.adapters.families import SIZES
from prunevid_kernels.adapters.methods.registry import find_method
from prunevid_kernels.adapters.video.reader import read_video

from ...embedded import model as embedded_model
from ...embedded.sample_clip import SAMPLE_CLIP, SAMPLE_QUESTION
from ...support.options import PAPER_LAYER, default_layer, unknown_model
from ..kernels.cases import video_features
from .random_models import random_model


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        video_model: the model with its preprocessing.
        layer: decoder layer of the selection, where the method has that choice.
        has_own_features: False: generated features take the place of the projector's output.
    """

    video_model: VideoModel
    layer: int
    has_own_features: bool

    @property
    def decoder(self) -> Any:
        return self.video_model.model.get_decoder()

    def options(self, method: str) -> dict[str, Any]:
        """A method's options for this model: its defaults, but for PruneVid's layer in a small one,
        and for a layer that is not there."""
        default = find_method(method).defaults.get("layer", self.layer)
        is_kept = default == self.layer or PAPER_LAYER < default < len(self.decoder.layers)
        return {} if is_kept else {"layer": self.layer}


def load_subject(
    model: str | None,
    device: torch.device,
    dtype: torch.dtype,
    *,
    is_reduced: bool,
    lora_alpha: float | None = None,
) -> Subject:
    """The model that the user named.

    Args:
        model: the name of a published size, for random weights; a checkpoint folder; None for the
            embedded model.
        device: of the model.
        dtype: of its weights.
        is_reduced: a tiny model of the same family in place of the published size.
        lora_alpha: for a checkpoint whose LoRA is not merged.

    Raises:
        ModelError: neither a known name nor a usable checkpoint folder.
    """
    if model is None:
        embedded = embedded_model.load_embedded_model(str(device), dtype)
        return Subject(embedded, embedded_model.SELECTION_LAYER, has_own_features=True)
    if model in SIZES:
        random = random_model(model, device, dtype, is_reduced=is_reduced)
        return Subject(random, 1 if is_reduced else SIZES[model].layer, has_own_features=False)
    if not Path(model).is_dir():
        raise ModelError(f"--model {unknown_model(model)}")
    loaded = load_video_model(model, device, dtype=dtype, lora_alpha=lora_alpha)
    layers = len(loaded.model.get_decoder().layers)
    return Subject(loaded, default_layer(layers), has_own_features=True)


# ------------------------------------------------------------------------------------------------
# Prompts
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts, one video each.

    Attributes:
        inputs: of ``model.generate``.
        single: the same of one prompt.
        places: [T * N] where the video's tokens are in every prompt.
        features: [B, T * N, C] that take the place of the videos' tokens; None: the model's own.
        unpruned: what a report says of the batch when nothing is pruned.
    """

    inputs: dict[str, Tensor]
    single: dict[str, Tensor]
    places: Tensor
    features: Tensor | None
    unpruned: PruneCall

    def first(self) -> Prompts:
        """The first prompt alone."""
        features = None if self.features is None else self.features[:1]
        return replace(self, inputs=self.single, features=features)


def read_frames(count: int) -> np.ndarray:
    """[count, H, W, 3] uint8 frames of the sample clip, read anew where it is too short."""
    clip = read_video(SAMPLE_CLIP, count)
    parts = [clip.frames]
    while (missing := count - sum(len(part) for part in parts)) > 0:
        parts.append(read_video(SAMPLE_CLIP, missing).frames)
    return np.concatenate(parts)


def encode_clip(subject: Subject, frames: int) -> dict[str, Tensor]:
    """What a person waits for before the model starts: reading and preprocessing one video."""
    return subject.video_model.encode(read_frames(frames), SAMPLE_QUESTION)


def make_prompts(subject: Subject, frames: int, batch: int) -> Prompts:
    """A batch of prompts with the sample clip; generated features differ from row to row."""
    encoded = encode_clip(subject, frames)
    inputs = {name: torch.cat([value] * batch) for name, value in encoded.items()}
    model = subject.video_model.model
    # Where the videos are, the adapter of each family knows, and its report tells.
    with apply_method(model, "full", {}) as handle, subject.video_model.telling(inputs):
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    unpruned = handle.report.last
    features = None
    if not subject.has_own_features:
        layout = unpruned.videos[0].layout
        shape = (layout.num_frames, layout.tokens_per_frame, subject.decoder.config.hidden_size)
        rows = [
            video_features(*shape, seed=row, device=model.device, dtype=model.dtype)
            for row in range(batch)
        ]
        features = torch.stack([row.flatten(0, 1) for row in rows])
    # Some families have more placeholders than tokens of the video, after them.
    placeholder = subject.video_model.family.adapter().video_token_id(model)
    places = (encoded["input_ids"][0] == placeholder).nonzero()[:, 0]
    places = places[: unpruned.videos[0].tokens_before]
    return Prompts(inputs, encoded, places, features, unpruned)


@contextmanager
def features_in_place(subject: Subject, prompts: Prompts) -> Iterator[None]:
    """Generated features, where there are any, replace the videos' tokens that go into the decoder.

    Entered before a method is applied, so that the method sees them.
    """
    features = prompts.features
    if features is None:
        yield
        return

    length = prompts.inputs["input_ids"].shape[1]

    def replace_tokens(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        embeds = kwargs["inputs_embeds"]
        if embeds is not None and embeds.shape[1] == length:  # not a decoding step
            embeds[:, prompts.places] = features

    hook = subject.decoder.register_forward_pre_hook(replace_tokens, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
