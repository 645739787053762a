"""Frames and a question become the inputs of Qwen2.5-VL: one run of placeholders for a video, and
the seconds between its frames, which its rotary positions are made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..grid_processor import WholeVideoProcessor
from ..processor import Clip
from .checkpoint import read_config
from .family import NUM_FRAMES, PIXELS


@dataclass(frozen=True)
class Qwen2_5VLFrameProcessor(WholeVideoProcessor):
    """Preprocessing of one Qwen2.5-VL checkpoint; bounds are those of a frame's pixels."""

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Qwen2_5VLFrameProcessor:
        """Read tokenizer, chat template and normalisation of a checkpoint folder.

        Raises:
            CheckpointError: a config.json that describes no Qwen2.5-VL.
            OSError: a file that is missing.
            ValueError: a file that does not say what it has to.
        """
        return cls.of_folder(Path(path), read_config(Path(path)), PIXELS)

    @property
    def num_frames(self) -> int:
        return NUM_FRAMES

    def _visual_inputs(self, clip: Clip, question: str) -> dict[str, Tensor]:
        """Also ``second_per_grid_ts`` [1] float32: seconds from one frame of tokens to the next."""
        inputs = super()._visual_inputs(clip, question)
        return {**inputs, "second_per_grid_ts": torch.tensor([self.seconds_a_frame(clip)])}
