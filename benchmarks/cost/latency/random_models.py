"""Models of the published sizes with random weights, drawn on the device; and tiny ones of the same
families for machines without a GPU.

Words cost nothing: the embedded model's tokenizer does for every family. So prompts have the
published form and placeholders, and about as many text tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from prunevid_kernels.adapters.families import FAMILIES, SIZES
from prunevid_kernels.adapters.families.shape import DecoderShape
from prunevid_kernels.adapters.families.video_model import VideoModel

from ...embedded.model import load_embedded_model

REDUCED_DECODER = DecoderShape(64, 128, 4, 4, 2, 256)


def random_model(
    name: str, device: torch.device, dtype: torch.dtype, *, is_reduced: bool
) -> VideoModel:
    """A model with random weights.

    Args:
        name: of a published size.
        device: that the weights are drawn on.
        dtype: of the weights.
        is_reduced: a tiny model of the family in place of the published size.
    """
    words = load_embedded_model().processor
    shape = SIZES[name].shape
    decoder = REDUCED_DECODER if is_reduced else shape.decoder
    decoder = replace(decoder, vocab_size=max(decoder.vocab_size, len(words.tokenizer)))
    torch.manual_seed(0)
    with torch.device(device), _default_dtype(dtype):
        model, processor = FAMILIES[shape.family].random_model(
            decoder, words, is_reduced=is_reduced
        )
    return VideoModel(
        model=model.eval(),
        processor=processor,
        name=f"{name}, tiny stand-in" if is_reduced else name,
        default_frames=FAMILIES[shape.family].num_frames,
        is_random=True,
    )


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def shallow_model(name: str, layers: int, device: torch.device, dtype: torch.dtype) -> VideoModel:
    """A published size's language model with few of its layers and the words at hand for a
    vocabulary, behind a tiny tower: prompts, and what a layer computes, are those of the real one.

    Args:
        name: of a published size, of a family with videos of any resolution.
        layers: of the language model.
        device: that the weights are drawn on.
        dtype: of the weights.

    Raises:
        ValueError: another family, whose tiny tower gives other numbers of tokens; or layers that
            the size does not have.
    """
    shape = SIZES[name].shape
    family = FAMILIES[shape.family]
    if family.adapter().position_axes == 1:
        raise ValueError(f"{name} has no tower for videos of any resolution")
    if not 1 <= layers <= shape.decoder.num_layers:
        raise ValueError(f"layers must be in [1, {shape.decoder.num_layers}], got {layers}")
    words = load_embedded_model().processor
    decoder = replace(shape.decoder, num_layers=layers, vocab_size=len(words.tokenizer))
    with torch.device("meta"):  # its processor, which is told the published sizes of frames
        _, processor = family.random_model(decoder, words, is_reduced=False)
    torch.manual_seed(0)
    with torch.device(device), _default_dtype(dtype):
        model, _ = family.random_model(decoder, words, is_reduced=True)
    return VideoModel(
        model=model.eval(),
        processor=processor,
        name=f"{name}, {layers} of {shape.decoder.num_layers} layers",
        default_frames=family.num_frames,
        is_random=True,
    )
