"""What a generated clip is, whatever happens in it: frames, the facts behind them, questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .drawing import SIZE_PX, Cell, Frames, add_noise, draw_background, draw_shape

Split = Literal["train", "held_out"]
_SPLITS: tuple[Split, ...] = ("train", "held_out")


@dataclass(frozen=True)
class Thing:
    """A shape of a clip.

    Attributes:
        shape, color: of it; what is unique in a clip, the data set says.
        role: "still", "mover" or "flash"; "group": one of several that are alike.
        scene: the scene it is in, from 0.
        cells: for each frame that shows it, where it is.
        direction: where a mover goes; None for everything else.
        quarter: of a small shape, which quarter of its cell it fills, (0, 0) to (1, 1); None: it
            fills the cell.
    """

    shape: str
    color: str
    role: Literal["still", "mover", "flash", "group"]
    scene: int
    cells: dict[int, Cell]
    direction: str | None = None
    quarter: Cell | None = None


@dataclass(frozen=True)
class Question:
    """A question whose answer is one of ``candidates``, all of them single words.

    ``about`` is the shape it asks about, None for a question about the whole clip.
    """

    type: str
    text: str
    answer: str
    candidates: tuple[str, ...]
    about: Thing | None


@dataclass(frozen=True)
class Clip:
    """A clip, the facts it was drawn from, and one question of every type it can be asked.

    Attributes:
        frames: [T, SIZE_PX, SIZE_PX, 3] uint8, RGB.
        scene_starts: first frame of each scene.
        backgrounds: kind of each scene's background.
        things: the shapes.
        questions: at most one of each type, in random order.
    """

    frames: Frames
    scene_starts: tuple[int, ...]
    backgrounds: tuple[str, ...]
    things: tuple[Thing, ...]
    questions: tuple[Question, ...]

    @property
    def direction(self) -> str | None:
        """Where the first mover goes; None in a clip without one."""
        return next((thing.direction for thing in self.things if thing.role == "mover"), None)

    def scene_of(self, frame: int) -> int:
        """The scene that a frame belongs to, from 0."""
        return sum(start <= frame for start in self.scene_starts) - 1


@dataclass(frozen=True)
class HeldOutQuestion:
    """One question of the held-out set, with a name that stays the same in every run."""

    id: str
    clip: Clip
    question: Question


def clip_stream(
    split: str, index: int, seed: int, num_frames: int, *more: int
) -> np.random.Generator:
    """The random stream of one clip; the splits draw from different ones.

    Args:
        split, index, seed, num_frames: which clip.
        *more: further numbers, by which a data set has streams of its own.

    Raises:
        ValueError: an unknown split, a negative index or seed, no frames.
    """
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
    numbers = {"index": (index, 0), "seed": (seed, 0), "num_frames": (num_frames, 1)}
    for name, (value, least) in numbers.items():
        if value < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {value}")
    number = _SPLITS.index(split)
    return np.random.default_rng([seed, number, index, num_frames, *more])


def render(
    rng: np.random.Generator,
    num_frames: int,
    starts: Sequence[int],
    backgrounds: Sequence[str],
    things: Sequence[Thing],
) -> Frames:
    """[num_frames, SIZE_PX, SIZE_PX, 3] uint8: scenes with their shapes, and noise over all."""
    canvas = np.empty((num_frames, SIZE_PX, SIZE_PX, 3), dtype=np.float32)
    for start, stop, kind in zip(starts, (*starts[1:], num_frames), backgrounds, strict=True):
        canvas[start:stop] = draw_background(rng, kind)
    for thing in things:
        for frame, cell in thing.cells.items():
            draw_shape(canvas[frame], thing.shape, thing.color, cell, thing.quarter)
    return add_noise(rng, canvas)
