"""Frames and a question become the inputs of Qwen2-VL: one run of placeholders for a video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..grid_processor import WholeVideoProcessor
from .checkpoint import read_config
from .family import NUM_FRAMES, PIXELS


@dataclass(frozen=True)
class Qwen2VLFrameProcessor(WholeVideoProcessor):
    """Preprocessing of one Qwen2-VL checkpoint; bounds are those of a frame's pixels."""

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Qwen2VLFrameProcessor:
        """Read tokenizer, chat template and normalisation of a checkpoint folder.

        Raises:
            CheckpointError: a config.json that describes no Qwen2-VL.
            OSError: a file that is missing.
            ValueError: a file that does not say what it has to.
        """
        return cls.of_folder(Path(path), read_config(Path(path)), PIXELS)

    @property
    def num_frames(self) -> int:
        return NUM_FRAMES
