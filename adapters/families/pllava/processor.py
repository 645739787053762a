"""Frames and a question become PLLaVA's inputs, with Pillow and the checkpoint's tokenizer.json.

The tokenizer is read as it was saved. ``AutoTokenizer`` of transformers 5 sees "llama" and builds
the pipeline anew, without the blank in front of the text that follows a special token: what comes
behind ``<image>`` would be other tokens than the model was trained with.

Frames are resized twice, as published: once to bound their long edge, once to the tower's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ...video.pixels import normalised_pixels, require_frames
from .config import BOS_ID, EOS_ID, PAD_ID, PllavaConfig

PLLAVA_FRAMES = 16
IMAGE_TOKEN = "<image>"
_LONG_EDGE_PX = 640
_SPECIAL = {
    "bos_token": ("<s>", BOS_ID),
    "eos_token": ("</s>", EOS_ID),
    "unk_token": ("<unk>", PAD_ID),
    "pad_token": ("<unk>", PAD_ID),
}


@dataclass(frozen=True)
class PllavaProcessor:
    """Preprocessing of one PLLaVA checkpoint.

    Attributes:
        config: the model's.
        tokenizer: a transformers tokenizer.
    """

    config: PllavaConfig
    tokenizer: Any

    @classmethod
    def from_pretrained(cls, path: str | Path) -> PllavaProcessor:
        """Read config and tokenizer of a checkpoint folder; nothing is downloaded.

        Raises:
            CheckpointError: a folder that is no PLLaVA.
            ValueError: no tokenizer.json, or one that is not the model's.
        """
        folder = Path(path)
        config = PllavaConfig.read(folder)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ValueError(f"{folder}: no tokenizer.json")
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(file),
            padding_side="left",
            clean_up_tokenization_spaces=False,
            **{name: token for name, (token, _) in _SPECIAL.items()},
        )
        expected = {token: index for token, index in _SPECIAL.values()}
        expected[IMAGE_TOKEN] = config.image_token_index
        for token, index in expected.items():
            found = tokenizer.convert_tokens_to_ids(token)
            if found != index:
                raise ValueError(f"{file}: {token} must have the id {index}, got {found}")
        if tokenizer("a").input_ids[:1] != [BOS_ID]:
            raise ValueError(f"{file}: must put <s> in front of a text")
        return cls(config, tokenizer)

    def __call__(
        self,
        frames: np.ndarray,
        question: str,
        *,
        system: str | None = None,
        answer_prefix: str = "",
    ) -> dict[str, Tensor]:
        """Inputs for ``generate``, a batch of one.

        Args:
            frames: [T, H, W, 3] uint8, RGB; one frame is an image.
            question: what the user asks.
            system: see :func:`prompt_text`.
            answer_prefix: how the answer begins.

        Returns:
            ``input_ids`` and ``attention_mask`` [1, S] int64, ``<image>`` repeated once for each
            visual token; ``pixel_values`` [1, T, 3, side, side] float32.

        Raises:
            ValueError: frames of another shape or dtype; ``<image>`` in a text.
        """
        require_frames(frames)
        for name, text in (("question", question), ("system", system), ("answer", answer_prefix)):
            if IMAGE_TOKEN in (text or ""):
                raise ValueError(f"the {name} must not contain the placeholder {IMAGE_TOKEN!r}")
        short = self.tokenizer(
            prompt_text(question, system, answer_prefix), return_tensors="pt"
        ).input_ids
        repeats = torch.where(
            short[0] == self.config.image_token_index, self.config.tokens_per_video, 1
        )
        ids = short.repeat_interleave(repeats, dim=1)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": self._pixels(frames),
        }

    def _pixels(self, frames: np.ndarray) -> Tensor:
        cropped = [crop_frame(frame, self.config.vision_config.image_size) for frame in frames]
        return normalised_pixels(cropped, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)


def prompt_text(question: str, system: str | None = None, answer_prefix: str = "") -> str:
    """The prompt with a single ``<image>``: the published evaluations' where there is a system
    message (an empty one counts), else the short one of the published demonstration."""
    if system is None:
        return f"USER:{IMAGE_TOKEN} {question} ASSISTANT:{answer_prefix}"
    return f"{system} USER: {IMAGE_TOKEN}\n USER: {question} ASSISTANT:{answer_prefix}"


def crop_frame(frame: np.ndarray, side: int) -> np.ndarray:
    """[H, W, 3] uint8 -> [side, side, 3]: the middle of the frame, its short edge at ``side``."""
    image = Image.fromarray(frame)
    short, long = sorted(image.size)
    bounded = int(min(_LONG_EDGE_PX, long) / (long / short))
    image = _resize_short(image, max(side, min(short, bounded)))
    image = _resize_short(image, side)
    left, top = ((edge - side) // 2 for edge in image.size)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def _resize_short(image: Image.Image, edge: int) -> Image.Image:
    """The short edge to ``edge``, the long one in proportion, cut to whole pixels."""
    short = min(image.size)
    width, height = (edge * length // short for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)
