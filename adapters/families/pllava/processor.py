"""Frames and a question become PLLaVA's inputs, with Pillow and the checkpoint's tokenizer.json.

The tokenizer is read as it was saved. ``AutoTokenizer`` of transformers 5 sees "llama" and builds
the pipeline anew, without the blank in front of the text that follows a special token: what comes
after ``<image>`` would be other tokens than the model was trained with.

Frames are resized twice, as published: once to bound their long edge, once to the tower's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ...video.pixels import normalised_pixels
from ..plain_text import encode_prompt
from ..processor import Clip, FrameProcessor, central_squares
from .config import BOS_ID, EOS_ID, PAD_ID, PllavaConfig
from .family import NUM_FRAMES

IMAGE_TOKEN = "<image>"
_LONG_EDGE_PX = 640
_SPECIAL = {
    "bos_token": ("<s>", BOS_ID),
    "eos_token": ("</s>", EOS_ID),
    "unk_token": ("<unk>", PAD_ID),
    "pad_token": ("<unk>", PAD_ID),
}


@dataclass(frozen=True)
class PllavaProcessor(FrameProcessor):
    """Preprocessing of one PLLaVA checkpoint."""

    config: PllavaConfig

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
            raise ValueError(
                "no tokenizer.json in the folder; it comes with the published checkpoint"
            )
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

    @property
    def num_frames(self) -> int:
        return NUM_FRAMES

    def grid_of(self, frames: np.ndarray) -> tuple[int, int]:
        _, rows, columns = self.config.pooling_shape
        return rows, columns

    @property
    def reserved_texts(self) -> tuple[str, ...]:
        return (IMAGE_TOKEN,)

    def _prompt_ids(
        self, clip: Clip, question: str, system: str | None, answer_prefix: str
    ) -> Tensor:
        """``<image>`` is repeated once for each visual token, whatever the number of frames."""
        texts = [question, answer_prefix, *([] if system is None else [system])]

        def render(texts: Sequence[str]) -> str:
            return prompt_text(texts[0], texts[2] if len(texts) > 2 else None, texts[1])

        ids = encode_prompt(self.tokenizer, render, texts, add_special_tokens=True)
        short = torch.tensor([ids])
        repeats = torch.where(
            short[0] == self.config.image_token_index, self.config.tokens_per_video, 1
        )
        return short.repeat_interleave(repeats, dim=1)

    def _visual_inputs(self, clip: Clip, question: str) -> dict[str, Tensor]:
        cropped = [crop_frame(frame, self.config.vision_config.image_size) for frame in clip.frames]
        return {"pixel_values": normalised_pixels(cropped, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)}

    def shown_frames(self, frames: np.ndarray) -> tuple[np.ndarray, list[int]]:
        chosen = self.config.token_frames(len(frames))
        return central_squares(frames)[chosen], chosen


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
