"""Where visual features stand in a prompt of token ids: what the adapters of several families read
off the arguments of a call.

A placeholder id stands for each visual token. ``generate`` of newer transformers versions encodes
images and videos first and passes ``mm_encoder_outputs`` instead of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.interface import ModelAdapter, PromptVisuals, VideoSpan

Run = tuple[int, int, int]  # row, start, stop


def core_of(model: nn.Module) -> Any:
    """The model without its language modelling head."""
    return model.model if hasattr(model, "lm_head") else model


def vision_calls_of(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """What transformers' models and their ``generate`` call to encode videos and images."""
    core, names = core_of(model), ("get_video_features", "get_image_features")
    return [(core, name) for name in names if hasattr(core, name)]


def features_in(inputs: Mapping[str, Any], kind: str) -> Any:
    """Pixels of the call's images or videos, or their encoded form; None if there are none.

    Args:
        inputs: arguments of the call.
        kind: ``"image"`` or ``"video"``.
    """
    encoded = (inputs.get("mm_encoder_outputs") or {}).get(kind)
    if encoded is not None:
        return encoded
    return inputs.get("pixel_values" if kind == "image" else "pixel_values_videos")


def ids_in(inputs: Mapping[str, Any]) -> Tensor:
    """[B, S] the prompts' token ids, in host memory.

    Raises:
        ValueError: there are none.
    """
    ids = inputs.get("input_ids")
    if ids is None:
        raise ValueError(
            "pixel values with inputs_embeds: pruning needs input_ids to find the videos"
        )
    return ids.cpu()


def require_whole(encoded: Any) -> None:
    """Encoded features are of whole prompts.

    Raises:
        ValueError: they are of a part of one.
    """
    if encoded.last_hidden_state is None:
        raise ValueError(
            "visual features came without last_hidden_state, as chunks of a prompt do that "
            "prefill_chunk_size has cut; pruning needs a prompt in one piece"
        )


def runs_of(mask: Tensor) -> list[Run]:
    """Each maximal run of True in a mask [B, S], in order."""
    padded = torch.nn.functional.pad(mask.to(torch.int8), (1, 1))
    change = padded.diff(dim=1)
    starts, stops = (change == 1).nonzero().tolist(), (change == -1).nonzero().tolist()
    return [(row, start, stop) for (row, start), (_, stop) in zip(starts, stops, strict=True)]


def by_row(runs: list[Run], rows: int) -> list[tuple[tuple[int, int], ...]]:
    """(start, stop) of the runs of each row."""
    return [tuple(run[1:] for run in runs if run[0] == row) for row in range(rows)]


class ImageFramesAdapter(ModelAdapter):
    """A model that sees the frames of a video as images: each is a run of the image placeholder,
    with text between them, and nothing in a call tells which runs are a video.

    Its core has ``config.image_token_id`` and a text decoder that :meth:`decoder` names.
    """

    tells_videos = False

    def entries(self, model: nn.Module) -> Sequence[nn.Module]:
        core = core_of(model)
        return [model] if core is model else [model, core]

    def brings_visuals(self, inputs: Mapping[str, Any]) -> bool:
        return features_in(inputs, "image") is not None

    def video_token_id(self, model: nn.Module) -> int:
        return int(core_of(model).config.image_token_id)

    def vision_calls(self, model: nn.Module) -> list[tuple[nn.Module, str]]:
        return vision_calls_of(model)

    def locate(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[PromptVisuals]:
        features = features_in(inputs, "image")
        if not isinstance(features, Tensor):
            require_whole(features)
        ids, token = ids_in(inputs), self.video_token_id(model)
        runs = by_row(runs_of(ids == token), len(ids))
        if not any(runs):
            raise ValueError(
                f"image features came with prompts that have no place for them: none has the image "
                f"token {token}"
            )
        return [PromptVisuals(images=own) for own in runs]

    def one_video_each(
        self, model: nn.Module, inputs: Mapping[str, Any]
    ) -> list[PromptVisuals] | None:
        if not self.brings_visuals(inputs):
            return None
        return [_one_video(own.images) for own in self.locate(model, inputs)]


def _one_video(runs: Sequence[tuple[int, int]]) -> PromptVisuals:
    """Runs of equal length as the frames of one video."""
    if not runs:
        return PromptVisuals()
    lengths = {stop - start for start, stop in runs}
    if len(lengths) > 1:
        raise ValueError(f"the frames of a video must be equally long, got {sorted(lengths)}")
    return PromptVisuals((VideoSpan.apart([start for start, _ in runs], lengths.pop()),))
