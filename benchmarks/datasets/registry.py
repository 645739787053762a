"""The data sets that ``prunevid eval`` knows, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .egoschema import load_egoschema
from .mvbench import load_mvbench
from .sample import Questions, Sample
from .synthetic import held_out_questions
from .vcgbench import load_vcgbench
from .videomme import load_videomme

HELD_OUT_QUESTIONS = 2000

# How an answer becomes right or wrong: by the option it names, by being the word, by a judge.
Scoring = Literal["choice", "word", "judge"]


@dataclass(frozen=True)
class Dataset:
    """Where questions come from, and what their answers are."""

    title: str
    load: Callable[[Path], Questions]
    scoring: Scoring


def load_synthetic(data_root: Path) -> Questions:
    """The held-out questions about generated clips; nothing is read from ``data_root``."""
    samples = [
        Sample(
            id=item.id,
            task=item.question.type,
            question=item.question.text,
            options=(),
            gold=item.question.answer,
            video=item.clip.frames,
        )
        for item in held_out_questions(HELD_OUT_QUESTIONS)
    ]
    return Questions(samples)


DATASETS: dict[str, Dataset] = {
    "mvbench": Dataset("MVBench", load_mvbench, "choice"),
    "videomme": Dataset("Video-MME", load_videomme, "choice"),
    "egoschema": Dataset("EgoSchema (subset)", load_egoschema, "choice"),
    "vcgbench": Dataset("VCG-Bench", load_vcgbench, "judge"),
    "synthetic": Dataset("generated clips", load_synthetic, "word"),
}
