"""Frames and a question become the inputs of VideoLLaMA3, with Pillow alone: patches as
``VideoLlama3VideoProcessor`` makes them with ``use_token_compression=False``, which needs
torchvision, and the text of ``VideoLlama3Processor``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import VideoLlama3Config

from ...checkpoint.preprocessor import video_pixels
from ...video.patches import flatten_patches, frame_size, resized_pixels
from ..processor import Clip
from ..templates import TemplateFrameProcessor, require_two_placeholders
from .checkpoint import read_config
from .family import MERGE, NUM_FRAMES, PIXELS


@dataclass(frozen=True)
class VideoLlama3FrameProcessor(TemplateFrameProcessor):
    """Preprocessing of one VideoLLaMA3 checkpoint.

    Attributes:
        pixels: of a frame at least, and of a whole video at most.
    """

    config: VideoLlama3Config
    pixels: tuple[int, int] = PIXELS

    @classmethod
    def from_pretrained(cls, path: str | Path) -> VideoLlama3FrameProcessor:
        """Read tokenizer, chat template and normalisation of a checkpoint folder.

        Raises:
            CheckpointError: a config.json that describes no VideoLLaMA3.
            OSError: a file that is missing.
            ValueError: a file that does not say what it has to.
        """
        folder = Path(path)
        config = read_config(folder)
        processor = cls.read(folder, config, pixels=video_pixels(folder) or PIXELS)
        require_two_placeholders(config, processor.tokenizer, "id")
        return processor

    @property
    def num_frames(self) -> int:
        return NUM_FRAMES

    @property
    def block_px(self) -> int:
        """Side of the square of a frame that becomes one token."""
        return int(self.config.vision_config.patch_size * MERGE)

    def frame_pixels(self, frames: np.ndarray) -> tuple[int, int]:
        """Height and width that these frames [T, H, W, 3] are resized to."""
        least, most = self.pixels
        return frame_size(
            *frames.shape[1:3],
            block_px=self.block_px,
            min_pixels=least,
            max_pixels=most // len(frames),
        )

    def grid_of(self, frames: np.ndarray) -> tuple[int, int]:
        height, width = self.frame_pixels(frames)
        return height // self.block_px, width // self.block_px

    @property
    def reserved_texts(self) -> tuple[str, ...]:
        return self.placeholder, self.token(self.config.image_token_id)

    @property
    def placeholder(self) -> str:
        return self.token(self.config.video_token_id)

    def video_text(self, clip: Clip) -> str:
        """Frames without a clock are taken a second apart, as this model samples them."""
        tokens = self.placeholder * math.prod(self.grid_of(clip.frames))
        times = clip.seconds or range(len(clip.frames))
        return ",".join(f"Time {float(time):.1f}s:{tokens}" for time in times)

    def _visual_inputs(self, clip: Clip, question: str) -> dict[str, Tensor]:
        """Patches [t * h * w, D], their grid [1, 3] and the side of a token in patches [1]."""
        patches, grid = flatten_patches(
            resized_pixels(
                clip.frames, self.frame_pixels(clip.frames), self.image_mean, self.image_std
            ),
            patch_px=self.config.vision_config.patch_size,
            merge=MERGE,
            group=1,
        )
        return {
            "pixel_values_videos": patches,
            "video_grid_thw": torch.tensor([grid]),
            "video_merge_sizes": torch.tensor([MERGE]),
        }
