"""Frames and a question become the inputs of LLaVA-OneVision, with Pillow alone.

transformers' own video processor needs torchvision, which has no CPU build in many places, for
what is a resize and a normalisation; so both are done here. The prompt is the checkpoint's chat
template with the placeholder repeated once for each visual token, as ``LlavaOnevisionProcessor``
does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import LlavaOnevisionConfig

from ...checkpoint.preprocessor import num_frames
from ...video.pixels import normalised_pixels
from ..processor import Clip
from ..shape import VisionShape
from ..templates import TemplateFrameProcessor, require_two_placeholders
from .checkpoint import read_config
from .family import NUM_FRAMES, pooled_side


@dataclass(frozen=True)
class LlavaOnevisionFrameProcessor(TemplateFrameProcessor):
    """Preprocessing of one LLaVA-OneVision checkpoint.

    Attributes:
        frames: of a video, as the checkpoint's video processor says; most do not.
    """

    config: LlavaOnevisionConfig
    frames: int = NUM_FRAMES

    @classmethod
    def from_pretrained(cls, path: str | Path) -> LlavaOnevisionFrameProcessor:
        """Read tokenizer, chat template and normalisation of a checkpoint folder.

        Raises:
            CheckpointError: a config.json that describes no LLaVA-OneVision.
            OSError: a file that is missing.
            ValueError: a file that does not say what it has to.
        """
        folder = Path(path)
        config = read_config(folder)
        processor = cls.read(folder, config, frames=num_frames(folder) or NUM_FRAMES)
        require_two_placeholders(config, processor.tokenizer)
        mean, std = processor.image_mean, processor.image_std
        if config.vision_config.model_type == "siglip_vision_model" and {*mean, *std} != {0.5}:
            raise ValueError(
                f"image_mean and image_std must be 0.5 for a SigLIP tower, got {mean}, {std}"
            )
        return processor

    @property
    def num_frames(self) -> int:
        return self.frames

    @property
    def image_size_px(self) -> int:
        """Side of the square that every frame is resized to."""
        return self.config.vision_config.image_size

    def grid_of(self, frames: np.ndarray) -> tuple[int, int]:
        """After the model's 2 x 2 pooling."""
        side = pooled_side(VisionShape.of(self.config.vision_config, has_class_token=False))
        return side, side

    @property
    def reserved_texts(self) -> tuple[str, ...]:
        return self.placeholder, self.token(self.config.image_token_id)

    @property
    def placeholder(self) -> str:
        return self.token(self.config.video_token_id)

    def video_text(self, clip: Clip) -> str:
        """One placeholder for each pooled token of each frame, and one for the newline after."""
        return self.placeholder * (len(clip.frames) * math.prod(self.grid_of(clip.frames)) + 1)

    def _visual_inputs(self, clip: Clip, question: str) -> dict[str, Tensor]:
        side = (self.image_size_px, self.image_size_px)
        resized = [
            np.asarray(Image.fromarray(f).resize(side, Image.Resampling.BICUBIC))
            for f in clip.frames
        ]
        return {"pixel_values_videos": normalised_pixels(resized, self.image_mean, self.image_std)}
