"""Frames and a question become a model's inputs: the one contract that all families keep.

Which tokens a prompt has and what is done to pixels is each family's own. What every caller may
count on is here: the arguments, the checks, a placeholder for each visual token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..video.pixels import require_frames
from .plain_text import require_text


class Clip(NamedTuple):
    """What a processor is given to show.

    Attributes:
        frames: [T, H, W, 3] uint8, RGB.
        seconds: T times, when each is shown; None without a clock.
    """

    frames: np.ndarray
    seconds: list[float] | None


@dataclass(frozen=True)
class FrameProcessor(ABC):
    """Preprocessing of one checkpoint.

    Attributes:
        config: the model's.
        tokenizer: a transformers tokenizer, for answers at least.
        tokens_have_places: whether a visual token shows its part of the frame. Those of a Q-Former
            do not.
    """

    config: Any
    tokenizer: Any

    tokens_have_places: ClassVar[bool] = True

    def __call__(
        self,
        frames: np.ndarray,
        question: str,
        *,
        system: str | None = None,
        answer_prefix: str = "",
        seconds: Sequence[float] | np.ndarray | None = None,
    ) -> dict[str, Tensor]:
        """Inputs for ``generate``, a batch of one.

        Args:
            frames: [T, H, W, 3] uint8, RGB; one frame is an image.
            question: what the user asks. What is written like a special token is text.
            system: the system message; None leaves it out.
            answer_prefix: how the answer begins; the model goes on from there.
            seconds: when each frame is shown, for models that are told; None without a clock.

        Returns:
            ``input_ids`` and ``attention_mask`` [1, S] int64, a placeholder for each visual token;
            the frames as float32 pixels, and what else the model reads, under the names of its
            arguments.

        Raises:
            TypeError: a text that is no string.
            ValueError: frames of another shape or dtype, or too few; seconds that are not one for
                each frame, in order; a text that contains a placeholder or that UTF-8 cannot hold;
                a prompt template that does not render one placeholder for the video.
        """
        require_frames(frames)
        clip = Clip(frames, _require_seconds(seconds, len(frames)))
        for name, text in (
            ("question", question),
            ("system message", "" if system is None else system),
            ("answer prefix", answer_prefix),
        ):
            require_text(name, text)
            for reserved in self.reserved_texts:
                if reserved in text:
                    raise ValueError(f"the {name} must not contain the placeholder {reserved!r}")
        ids = self._prompt_ids(clip, question, system, answer_prefix)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            **self._visual_inputs(clip, question),
        }

    @property
    @abstractmethod
    def num_frames(self) -> int:
        """Frames of a video that the model was published with."""

    @abstractmethod
    def grid_of(self, frames: np.ndarray) -> tuple[int, int]:
        """(rows, columns) of the visual tokens of each of these frames [T, H, W, 3]."""

    @property
    @abstractmethod
    def reserved_texts(self) -> tuple[str, ...]:
        """What no text of a prompt may contain, because the tokenizer makes a placeholder of it."""

    @abstractmethod
    def _prompt_ids(
        self, clip: Clip, question: str, system: str | None, answer_prefix: str
    ) -> Tensor:
        """[1, S] int64 the prompt's tokens, placeholders included."""

    @abstractmethod
    def _visual_inputs(self, clip: Clip, question: str) -> dict[str, Tensor]:
        """What the vision side reads."""

    def shown_frames(self, frames: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """What the model sees of frames [T, H, W, 3], in their own resolution: [F, h, w, 3], one
        for each frame of visual tokens, and which of the T each one is. All of it, unless a family
        crops or leaves out."""
        return frames, list(range(len(frames)))


def central_squares(frames: np.ndarray) -> np.ndarray:
    """The middle [T, side, side, 3] of frames [T, H, W, 3], ``side`` their short edge."""
    side = min(frames.shape[1:3])
    top, left = ((edge - side) // 2 for edge in frames.shape[1:3])
    return frames[:, top : top + side, left : left + side]


def _require_seconds(
    seconds: Sequence[float] | np.ndarray | None, frames: int
) -> list[float] | None:
    if seconds is None:
        return None
    times = np.asarray(seconds, dtype=np.float64)
    if times.shape != (frames,) or not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise ValueError(
            f"seconds must be the times of the {frames} frames, in order, got {list(times)}"
        )
    return [float(time) for time in times]
