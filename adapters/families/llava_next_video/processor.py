"""Frames and a question become the inputs of LLaVA-NeXT-Video, with Pillow alone.

Each frame's short edge is resized to the tower's size, then its middle is cut out, as
``LlavaNextVideoVideoProcessor`` does, which needs torchvision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import LlavaNextVideoConfig

from ...checkpoint.preprocessor import num_frames
from ...video.pixels import central_square, normalised_pixels
from ..processor import Clip, central_squares
from ..templates import TemplateFrameProcessor, require_two_placeholders
from .checkpoint import read_config
from .family import NUM_FRAMES, pooled_side


@dataclass(frozen=True)
class LlavaNextVideoFrameProcessor(TemplateFrameProcessor):
    """Preprocessing of one LLaVA-NeXT-Video checkpoint.

    Attributes:
        frames: of a video, as the checkpoint's video processor says; published ones do not.
    """

    config: LlavaNextVideoConfig
    frames: int = NUM_FRAMES

    adds_special_tokens = True

    @classmethod
    def from_pretrained(cls, path: str | Path) -> LlavaNextVideoFrameProcessor:
        """Read tokenizer, chat template and normalisation of a checkpoint folder.

        Raises:
            CheckpointError: a config.json that describes no LLaVA-NeXT-Video.
            OSError: a file that is missing.
            ValueError: a file that does not say what it has to.
        """
        folder = Path(path)
        config = read_config(folder)
        pooled_side(config)  # refuses sizes that do not fit
        processor = cls.read(folder, config, frames=num_frames(folder) or NUM_FRAMES)
        require_two_placeholders(config, processor.tokenizer)
        return processor

    @property
    def num_frames(self) -> int:
        return self.frames

    def grid_of(self, frames: np.ndarray) -> tuple[int, int]:
        side = pooled_side(self.config)
        return side, side

    @property
    def reserved_texts(self) -> tuple[str, ...]:
        return self.placeholder, self.token(self.config.image_token_id)

    @property
    def placeholder(self) -> str:
        return self.token(self.config.video_token_id)

    def video_text(self, clip: Clip) -> str:
        return self.placeholder * (len(clip.frames) * math.prod(self.grid_of(clip.frames)))

    def shown_frames(self, frames: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Their middle."""
        return central_squares(frames), list(range(len(frames)))

    def _visual_inputs(self, clip: Clip, question: str) -> dict[str, Tensor]:
        side = self.config.vision_config.image_size
        cut = [central_square(frame, side) for frame in clip.frames]
        return {"pixel_values_videos": normalised_pixels(cut, self.image_mean, self.image_std)}
