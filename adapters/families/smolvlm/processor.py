"""Frames and a question become the inputs of SmolVLM2, with Pillow alone.

A frame's long edge is resized to the tower's size, then the frame to a square, as
``SmolVLMVideoProcessor`` does, which needs torchvision. The text is that of ``SmolVLMProcessor``
and the template that it takes for videos, whatever template the folder has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import SmolVLMConfig
from transformers.models.smolvlm.processing_smolvlm import (
    DEFAULT_CHAT_TEMPLATE,
    DEFAULT_MEDIA_OUTTRO,
    DEFAULT_VIDEO_INTRO,
    FRAME_TIMESTAMP_MESSAGE,
)

from ...checkpoint.preprocessor import max_video_frames
from ...video.pixels import normalised_pixels
from ..processor import Clip
from ..templates import TemplateFrameProcessor, require_placeholder
from .checkpoint import read_config
from .family import NUM_FRAMES, token_side
from .words import in_words

_AROUND, _WHOLE = "<fake_token_around_image>", "<global-img>"


@dataclass(frozen=True)
class SmolVLMFrameProcessor(TemplateFrameProcessor):
    """Preprocessing of one SmolVLM2 checkpoint.

    Attributes:
        frames: of a video, at most.
        markers: what stands around a frame's placeholders, and before them.
        placeholder_text: what the template renders for a video.
    """

    config: SmolVLMConfig
    frames: int = NUM_FRAMES
    markers: tuple[str, str] = (_AROUND, _WHOLE)
    placeholder_text: str = "<video>"

    @classmethod
    def from_pretrained(cls, path: str | Path) -> SmolVLMFrameProcessor:
        """Read tokenizer and normalisation of a checkpoint folder.

        Raises:
            CheckpointError: a config.json that describes no SmolVLM2.
            OSError: a file that is missing.
            ValueError: a file that does not say what it has to.
        """
        folder = Path(path)
        config = read_config(folder)
        token_side(config)  # refuses sizes that do not fit
        processor = cls.read(folder, config, frames=max_video_frames(folder) or NUM_FRAMES)
        tokenizer = processor.tokenizer
        require_placeholder(config, tokenizer, "image_token_id", config.image_token_id)
        for marker in processor.markers:
            if marker not in tokenizer.get_added_vocab():
                raise ValueError(f"the tokenizer must have the token {marker!r}")
        return replace(processor, chat_template=DEFAULT_CHAT_TEMPLATE)

    @property
    def num_frames(self) -> int:
        return self.frames

    def grid_of(self, frames: np.ndarray) -> tuple[int, int]:
        side = token_side(self.config)
        return side, side

    @property
    def reserved_texts(self) -> tuple[str, ...]:
        return self.token(self.config.image_token_id), self.placeholder, *self.markers

    @property
    def placeholder(self) -> str:
        return self.placeholder_text

    def video_text(self, clip: Clip) -> str:
        """Frames without a clock are taken a second apart; the length that the text gives is the
        time of the last frame."""
        around, whole = self.markers
        tokens = self.token(self.config.image_token_id) * math.prod(self.grid_of(clip.frames))
        times = [int(t) for t in clip.seconds or range(len(clip.frames))]
        intro = DEFAULT_VIDEO_INTRO.format(
            frame_count=in_words(len(times)), video_duration=timedelta(seconds=times[-1])
        )
        frames = (
            FRAME_TIMESTAMP_MESSAGE.format(timestamp=f"{time // 60:02d}:{time % 60:02d}")
            + f"{around}{whole}{tokens}{around}"
            for time in times
        )
        return "".join([intro, *frames, DEFAULT_MEDIA_OUTTRO])

    def _visual_inputs(self, clip: Clip, question: str) -> dict[str, Tensor]:
        """Also ``pixel_attention_mask`` [1, T, side, side]: there is no padding."""
        side = self.config.vision_config.image_size
        squares = [_square(frame, side) for frame in clip.frames]
        pixels = normalised_pixels(squares, self.image_mean, self.image_std)
        mask = torch.ones(1, len(squares), side, side, dtype=torch.int64)
        return {"pixel_values": pixels, "pixel_attention_mask": mask}


def _square(frame: np.ndarray, side: int) -> np.ndarray:
    """[H, W, 3] uint8 -> [side, side, 3]: the long edge first, the short one in proportion and even
    for a moment, as published."""
    image = Image.fromarray(frame)
    long = max(image.size)
    # An edge in proportion that is odd grows by one.
    size = [
        side if edge == long else max(1, math.ceil(int(edge * side / long) / 2) * 2)
        for edge in image.size
    ]
    image = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))
