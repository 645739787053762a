"""The data sets that ``prunevid eval`` knows, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import synthetic, synthetic_hard
from .clips import HeldOutQuestion
from .egoschema import load_egoschema
from .mvbench import load_mvbench
from .sample import Questions, Sample
from .vcgbench import load_vcgbench
from .videomme import load_videomme

HELD_OUT_QUESTIONS = 2000
HARD_QUESTIONS = 1500

# How an answer becomes right or wrong: by the option it names, by being the word, by a judge.
Scoring = Literal["choice", "word", "judge"]


@dataclass(frozen=True)
class Dataset:
    """Where questions come from, and what their answers are.

    Attributes:
        frames: that every clip of a generated data set has; None: videos of any length.
    """

    title: str
    load: Callable[[Path], Questions]
    scoring: Scoring
    frames: int | None = None


def load_synthetic(data_root: Path) -> Questions:
    """The held-out questions about generated clips; nothing is read from ``data_root``."""
    return _generated(synthetic.held_out_questions(HELD_OUT_QUESTIONS))


def load_synthetic_hard(data_root: Path) -> Questions:
    """Those about harder clips, of 16 frames; nothing is read from ``data_root``."""
    return _generated(synthetic_hard.held_out_questions(HARD_QUESTIONS))


def load_synthetic_long(data_root: Path) -> Questions:
    """Those about the longest clips, of 32 frames; nothing is read from ``data_root``."""
    frames = synthetic_hard.LONG_FRAMES
    return _generated(synthetic_hard.held_out_questions(HARD_QUESTIONS, num_frames=frames))


def _generated(questions: Iterable[HeldOutQuestion]) -> Questions:
    samples = [
        Sample(
            id=item.id,
            task=item.question.type,
            question=item.question.text,
            options=(),
            gold=item.question.answer,
            video=item.clip.frames,
        )
        for item in questions
    ]
    return Questions(samples)


DATASETS: dict[str, Dataset] = {
    "mvbench": Dataset("MVBench", load_mvbench, "choice"),
    "videomme": Dataset("Video-MME", load_videomme, "choice"),
    "egoschema": Dataset("EgoSchema (subset)", load_egoschema, "choice"),
    "vcgbench": Dataset("VCG-Bench", load_vcgbench, "judge"),
    "synthetic": Dataset("generated clips", load_synthetic, "word", synthetic.FRAMES),
    "synthetic_hard": Dataset(
        "harder generated clips", load_synthetic_hard, "word", synthetic_hard.FRAMES
    ),
    "synthetic_long": Dataset(
        "long generated clips", load_synthetic_long, "word", synthetic_hard.LONG_FRAMES
    ),
}
