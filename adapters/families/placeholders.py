"""Where visual features stand in a prompt of token ids: what the adapters of several families read
off the arguments of a call.

A placeholder id stands for each visual token. ``generate`` of newer transformers versions encodes
images and videos first and passes ``mm_encoder_outputs`` instead of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

Run = tuple[int, int, int]  # row, start, stop


def core_of(model: nn.Module) -> Any:
    """The model without its language modelling head."""
    return model.model if hasattr(model, "lm_head") else model


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
            "video features came without last_hidden_state, as chunks of a prompt do that "
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
