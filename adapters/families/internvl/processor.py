"""Frames and a question become the inputs of InternVL, with Pillow alone.

Each frame is resized to one tile, whatever its proportions, as ``InternVLVideoProcessor`` does,
which needs torchvision; its text is that of ``InternVLProcessor``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import InternVLConfig

from ...video.pixels import normalised_pixels
from ..processor import Clip
from ..templates import TemplateFrameProcessor, require_placeholder
from .checkpoint import read_config
from .family import NUM_FRAMES, square_side, token_side

_START, _END, _VIDEO = "<img>", "</img>", "<video>"


@dataclass(frozen=True)
class InternVLFrameProcessor(TemplateFrameProcessor):
    """Preprocessing of one InternVL checkpoint.

    Attributes:
        markers: what stands before and after a frame's placeholders.
        placeholder_text: what the template renders for a video.
    """

    config: InternVLConfig
    markers: tuple[str, str] = (_START, _END)
    placeholder_text: str = _VIDEO

    @classmethod
    def from_pretrained(cls, path: str | Path) -> InternVLFrameProcessor:
        """Read tokenizer, chat template and normalisation of a checkpoint folder.

        Raises:
            CheckpointError: a config.json that describes no InternVL.
            OSError: a file that is missing.
            ValueError: a file that does not say what it has to.
        """
        config = read_config(Path(path))
        token_side(config)  # refuses sizes that do not fit
        processor = cls.read(Path(path), config)
        tokenizer = processor.tokenizer
        require_placeholder(config, tokenizer, "image_token_id", config.image_token_id)
        for marker in processor.markers:
            if marker not in tokenizer.get_added_vocab():
                raise ValueError(f"the tokenizer must have the token {marker!r}")
        return processor

    @property
    def num_frames(self) -> int:
        return NUM_FRAMES

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
        start, end = self.markers
        tokens = self.token(self.config.image_token_id) * math.prod(self.grid_of(clip.frames))
        return "\n".join(f"Frame{i + 1}: {start}{tokens}{end}" for i in range(len(clip.frames)))

    def _visual_inputs(self, clip: Clip, question: str) -> dict[str, Tensor]:
        side = square_side(self.config.vision_config.image_size)
        resized = [
            np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC))
            for frame in clip.frames
        ]
        return {"pixel_values": normalised_pixels(resized, self.image_mean, self.image_std)[0]}
