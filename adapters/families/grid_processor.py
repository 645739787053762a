"""Frames and a question become the inputs of models that take videos of any resolution.

The prompt is the checkpoint's chat template. What stands for the video there, a run of placeholders
for all of it or a timestamp and a run for each frame, is the family's. Pillow does the resizing:
transformers' own video processors need torchvision, which has no CPU build in many places.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint.preprocessor import video_pixels
from ..video.patches import (
    capped_frame_size,
    capped_video_size,
    flatten_patches,
    resized_pixels,
)
from .processor import Clip
from .shape import DecoderShape
from .templates import TemplateFrameProcessor, require_two_placeholders

if TYPE_CHECKING:
    from typing_extensions import Self

# Frames without a clock are taken as these models sample them: two a second.
FRAMES_A_SECOND = 2.0

# Bounds of a frame's pixels for tiny models: up to 24 tokens.
REDUCED_PIXELS = (4 * 28 * 28, 24 * 28 * 28)


@dataclass(frozen=True)
class GridFrameProcessor(TemplateFrameProcessor):
    """Preprocessing of one checkpoint.

    Attributes:
        min_pixels, max_pixels: bounds of a frame's size, or of a video's, as the family counts.
    """

    min_pixels: int
    max_pixels: int

    @classmethod
    def of_folder(cls, folder: Path, config: Any, published_pixels: tuple[int, int]) -> Self:
        """Read tokenizer, chat template, normalisation and bounds of a checkpoint folder.

        Args:
            folder: the checkpoint.
            config: of the model.
            published_pixels: bounds of sizes, for folders that do not say them of videos.

        Raises:
            OSError: a file that is missing.
            ValueError: a file that does not say what it has to.
        """
        least, most = video_pixels(folder) or published_pixels
        processor = cls.read(folder, config, min_pixels=least, max_pixels=most)
        require_two_placeholders(config, processor.tokenizer)
        return processor

    @abstractmethod
    def frame_pixels(self, frames: np.ndarray) -> tuple[int, int]:
        """Height and width that these frames [T, H, W, 3] are resized to."""

    @property
    def size_rule(self) -> dict[str, int]:
        """What bounds a size, as :mod:`~prunevid_kernels.adapters.video.patches` names it."""
        return {
            "group": self.group,
            "block_px": self.block_px,
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
        }

    @abstractmethod
    def text_of_grid(self, grid: tuple[int, int, int], seconds: Sequence[float]) -> str:
        """What stands for a video in the prompt, its markers included.

        Args:
            grid: T, rows and columns of its tokens.
            seconds: when each of the T is shown.
        """

    @property
    def group(self) -> int:
        """Frames that become one frame of tokens."""
        return int(self.config.vision_config.temporal_patch_size)

    @property
    def block_px(self) -> int:
        """Side of the square of a frame that becomes one token."""
        vision = self.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

    def grid_of(self, frames: np.ndarray) -> tuple[int, int]:
        height, width = self.frame_pixels(frames)
        return height // self.block_px, width // self.block_px

    @property
    def reserved_texts(self) -> tuple[str, ...]:
        config = self.config
        ids = (
            config.video_token_id,
            config.image_token_id,
            config.vision_start_token_id,
            config.vision_end_token_id,
        )
        return tuple(self.token(index) for index in ids)

    @property
    def video_token(self) -> str:
        """The placeholder of a visual token."""
        return self.token(self.config.video_token_id)

    @property
    def markers(self) -> tuple[str, str]:
        """What stands before and after visual tokens."""
        return self.token(self.config.vision_start_token_id), self.token(
            self.config.vision_end_token_id
        )

    def shown_frames(self, frames: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """The first of each group."""
        chosen = list(range(0, len(frames), self.group))
        return frames[chosen], chosen

    def token_seconds(self, clip: Clip) -> list[float]:
        """When each frame of tokens is shown: the middle between its first and last frame."""
        if clip.seconds is None:
            times = [index / FRAMES_A_SECOND for index in range(len(clip.frames))]
        else:
            times = [float(second) for second in clip.seconds]
        groups = [times[first : first + self.group] for first in range(0, len(times), self.group)]
        return [(group[0] + group[-1]) / 2 for group in groups]

    def seconds_a_frame(self, clip: Clip) -> float:
        """Seconds from one frame of tokens to the next, on average."""
        frames = len(clip.frames)
        if clip.seconds is None or frames == 1 or clip.seconds[-1] == clip.seconds[0]:
            return self.group / FRAMES_A_SECOND
        return self.group * float(clip.seconds[-1] - clip.seconds[0]) / (frames - 1)

    @property
    def placeholder(self) -> str:
        start, end = self.markers
        return f"{start}{self.video_token}{end}"

    def video_text(self, clip: Clip) -> str:
        frames = -(-len(clip.frames) // self.group)
        grid = (frames, *self.grid_of(clip.frames))
        return self.text_of_grid(grid, self.token_seconds(clip))

    def _visual_inputs(self, clip: Clip, question: str) -> dict[str, Tensor]:
        """Patches [t * h * w, D], and their grid [1, 3] int64."""
        vision = self.config.vision_config
        size = self.frame_pixels(clip.frames)
        patches, grid = flatten_patches(
            resized_pixels(clip.frames, size, self.image_mean, self.image_std),
            patch_px=vision.patch_size,
            merge=vision.spatial_merge_size,
            group=self.group,
        )
        return {"pixel_values_videos": patches, "video_grid_thw": torch.tensor([grid])}

    def __call__(self, frames: np.ndarray, question: str, **options: Any) -> dict[str, Tensor]:
        """As of every family, and ``mm_token_type_ids`` [1, S]: 2 for visual tokens, 0 for text."""
        inputs = super().__call__(frames, question, **options)
        is_video = inputs["input_ids"] == self.config.video_token_id
        return {**inputs, "mm_token_type_ids": 2 * is_video.int()}


class WholeVideoProcessor(GridFrameProcessor):
    """One run of placeholders for a whole video; the bounds are those of a frame's pixels."""

    def frame_pixels(self, frames: np.ndarray) -> tuple[int, int]:
        return capped_frame_size(*frames.shape[:3], **self.size_rule)

    def text_of_grid(self, grid: tuple[int, int, int], seconds: Sequence[float]) -> str:
        start, end = self.markers
        return f"{start}{self.video_token * math.prod(grid)}{end}"


class FramesApartProcessor(GridFrameProcessor):
    """A timestamp and a run of placeholders between markers for each frame; the bounds are those of
    a video's pixels."""

    def frame_pixels(self, frames: np.ndarray) -> tuple[int, int]:
        return capped_video_size(*frames.shape[:3], **self.size_rule)

    def text_of_grid(self, grid: tuple[int, int, int], seconds: Sequence[float]) -> str:
        start, end = self.markers
        run = f"{start}{self.video_token * (grid[1] * grid[2])}{end}"
        return "".join(f"<{time:.1f} seconds>{run}" for time in seconds)


# ---- for models with random weights, whose words are another model's


def placeholders(words: Any) -> dict[str, int]:
    """The ids that a config names, out of the tokens that another model's words have."""
    marks = {"vision_start_token_id": "<|im_start|>", "vision_end_token_id": "<|im_end|>"}
    return {
        "image_token_id": words.config.image_token_id,
        "video_token_id": words.config.video_token_id,
        **{name: words.tokenizer.convert_tokens_to_ids(text) for name, text in marks.items()},
    }


def borrowed_words(words: Any, config: Any, pixels: tuple[int, int]) -> tuple[Any, ...]:
    """The fields of a :class:`GridFrameProcessor` with the words of another processor.

    Args:
        words: the other.
        config: of the model.
        pixels: bounds of sizes.
    """
    video, start, end = (
        words.tokenizer.convert_ids_to_tokens(index)
        for index in (
            config.video_token_id,
            config.vision_start_token_id,
            config.vision_end_token_id,
        )
    )
    template = words.chat_template.replace(video, f"{start}{video}{end}")
    return config, words.tokenizer, template, words.image_mean, words.image_std, *pixels


def rotary_sections(decoder: DecoderShape, side_share: float = 3 / 8) -> list[int]:
    """How many frequencies time, height and width have, as published.

    Args:
        decoder: of the model.
        side_share: of height and of width; the rest is for time.
    """
    half = decoder.head_dim // 2
    side = int(half * side_share)
    return [half - 2 * side, side, side]
