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
