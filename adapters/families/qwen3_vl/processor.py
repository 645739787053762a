"""Frames and a question become the inputs of Qwen3-VL: a timestamp and a run of placeholders for
each pair of frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..grid_processor import FramesApartProcessor
from .checkpoint import read_config
from .family import NUM_FRAMES, PIXELS


@dataclass(frozen=True)
class Qwen3VLFrameProcessor(FramesApartProcessor):
    """Preprocessing of one Qwen3-VL checkpoint; bounds are those of a video's pixels."""

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Qwen3VLFrameProcessor:
        """Read tokenizer, chat template and normalisation of a checkpoint folder.

        Raises:
            CheckpointError: a config.json that describes no Qwen3-VL.
            OSError: a file that is missing.
            ValueError: a file that does not say what it has to.
        """
        return cls.of_folder(Path(path), read_config(Path(path)), PIXELS)

    @property
    def num_frames(self) -> int:
        return NUM_FRAMES
