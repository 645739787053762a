"""VCG-Bench: open questions, answered freely and scored from 0 to 5 by a judge model.

Three question files below ``VCGBench/Zero_Shot_QA/Benchmarking_QA`` feed five scores: ``generic``
is judged for correctness of information (CI), detail orientation (DO) and contextual understanding
(CU), ``temporal`` for temporal understanding (TU), and ``consistency``, which asks the same thing
twice in other words, for agreement (CO). The two questions of a pair are two samples here, whose
ids end in ``/1`` and ``/2``: whoever judges them looks them up by name and cannot swap them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .sample import QuestionFile, Questions, Sample, read_questions, text_field, video_source

FILES = ("generic", "temporal", "consistency")
# In the order in which the paper's table has them: score -> the file whose answers it judges.
DIMENSIONS = {
    "TU": "temporal",
    "CU": "generic",
    "CO": "consistency",
    "DO": "generic",
    "CI": "generic",
}


def load_vcgbench(data_root: Path) -> Questions:
    """All questions, file by file.

    Raises:
        DatasetError: see :mod:`.sample`.
    """
    return read_questions(vcgbench_files(data_root))


def vcgbench_files(data_root: Path) -> list[QuestionFile]:
    """The three question files below the data root."""
    files = []
    folder = data_root / "VCGBench"
    for name in FILES:
        file = folder / "Zero_Shot_QA" / "Benchmarking_QA" / f"{name}_qa.json"

        def read(index: int, row: dict[str, Any], name: str = name) -> Iterable[Sample]:
            video = video_source(folder / "Videos" / "Benchmarking", text_field(row, "video_name"))
            answer = text_field(row, "A")
            asked = {"": text_field(row, "Q")} if name != "consistency" else _pair(row)
            for suffix, question in asked.items():
                yield Sample(f"{name}/{index:04d}{suffix}", name, question, (), answer, video)

        files.append(QuestionFile(file, read))
    return files


def _pair(row: dict[str, Any]) -> dict[str, str]:
    return {"/1": text_field(row, "Q1"), "/2": text_field(row, "Q2")}
