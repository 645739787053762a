"""The data sets that ``prunevid eval`` knows, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import synthetic, synthetic_hard
from .clips import HeldOutQuestion
from .egoschema import egoschema_files, load_egoschema, prepare_egoschema
from .mvbench import load_mvbench, mvbench_files
from .sample import QuestionFile, Questions, Sample
from .vcgbench import load_vcgbench, vcgbench_files
from .videomme import load_videomme, prepare_videomme, videomme_files

HELD_OUT_QUESTIONS = 2000
HARD_QUESTIONS = 1500

# How an answer becomes right or wrong: by the option it names, by being the word, by a judge.
Scoring = Literal["choice", "word", "judge"]


@dataclass(frozen=True)
class Preparation:
    """How a benchmark's question files are made of the official ones.

    Attributes:
        write: (official files, data root) -> the question files that it has written.
        source: what the official files are.
    """

    write: Callable[[Path, Path], list[Path]]
    source: str


@dataclass(frozen=True)
class OnDisk:
    """How a benchmark lies below the data root.

    Attributes:
        folder: its folder.
        files: (data root) -> its question files.
        questions: how many are published; None: no number is known here.
        prepare: makes the question files; None: they are used as they are published.
    """

    folder: str
    files: Callable[[Path], list[QuestionFile]]
    questions: int | None
    prepare: Preparation | None = None


@dataclass(frozen=True)
class Dataset:
    """Where questions come from, and what their answers are.

    Attributes:
        title: in print.
        load: (data root) -> all of its questions.
        scoring: how an answer becomes right or wrong.
        on_disk: None: its videos are generated.
        frames: that every clip of a generated data set has; None: videos of any length.
    """

    title: str
    load: Callable[[Path], Questions]
    scoring: Scoring
    on_disk: OnDisk | None = None
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
    "mvbench": Dataset("MVBench", load_mvbench, "choice", OnDisk("MVBench", mvbench_files, 4000)),
    "videomme": Dataset(
        "Video-MME",
        load_videomme,
        "choice",
        OnDisk(
            "Video-MME",
            videomme_files,
            2700,
            Preparation(prepare_videomme, "the official parquet file, or its folder"),
        ),
    ),
    "egoschema": Dataset(
        "EgoSchema (subset)",
        load_egoschema,
        "choice",
        OnDisk(
            "ego_schema",
            egoschema_files,
            5031,
            Preparation(prepare_egoschema, "the folder with questions.json, subset_answers.json"),
        ),
    ),
    "vcgbench": Dataset(
        "VCG-Bench", load_vcgbench, "judge", OnDisk("VCGBench", vcgbench_files, None)
    ),
    "synthetic": Dataset("generated clips", load_synthetic, "word", frames=synthetic.FRAMES),
    "synthetic_hard": Dataset(
        "harder generated clips", load_synthetic_hard, "word", frames=synthetic_hard.FRAMES
    ),
    "synthetic_long": Dataset(
        "long generated clips", load_synthetic_long, "word", frames=synthetic_hard.LONG_FRAMES
    ),
}
