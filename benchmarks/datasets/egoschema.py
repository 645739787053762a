"""EgoSchema: one question with five options for each of 5,031 videos.

The organisers publish 500 of the answers and keep the others, so accuracy is measured on the 500
(task ``subset``); predictions for all can be exported in the form that they take submissions in.
``prepare_egoschema`` joins the official ``questions.json`` and ``subset_answers.json`` into
``ego_schema/json/egoschema_fullset.json``: the official rows, with ``answer`` where it is public.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .sample import (
    DatasetError,
    QuestionFile,
    Questions,
    RowError,
    Sample,
    read_json,
    read_questions,
    text_field,
    video_source,
    write_rows,
)

NUM_OPTIONS = 5
_FILE = Path("ego_schema") / "json" / "egoschema_fullset.json"


def load_egoschema(data_root: Path) -> Questions:
    """All questions in the official order, those with a hidden answer (task ``hidden``) included.

    Raises:
        DatasetError: see :mod:`.sample`.
    """
    return read_questions(egoschema_files(data_root))


def egoschema_files(data_root: Path) -> list[QuestionFile]:
    """The file of all questions below the data root."""
    videos = data_root / "ego_schema" / "videos"

    def read(index: int, row: dict[str, Any]) -> Iterable[Sample]:
        name = text_field(row, "q_uid")
        options = tuple(text_field(row, f"option {i}") for i in range(NUM_OPTIONS))
        gold = row.get("answer")
        if gold is not None and not _is_option(gold):
            raise RowError(f"the answer must be an integer from 0 to 4, got {gold!r}")
        task = "hidden" if gold is None else "subset"
        source = video_source(videos, name)
        yield Sample(name, task, text_field(row, "question"), options, gold, source)

    return [QuestionFile(data_root / _FILE, read)]


def prepare_egoschema(folder: Path, data_root: Path) -> list[Path]:
    """Join the official question and answer files of ``folder``.

    Returns:
        The file written.

    Raises:
        DatasetError: a file is missing or not as published; an answer to no question.
        OSError: the data root cannot be written.
    """
    rows = read_json(folder / "questions.json", list)
    answers = read_json(folder / "subset_answers.json", dict)
    known = set(map(_name, rows))
    for name, answer in answers.items():
        if name not in known:
            raise DatasetError(f"{folder / 'subset_answers.json'}: no question {name!r}")
        if not _is_option(answer):
            raise DatasetError(f"{folder / 'subset_answers.json'}: {name}: not 0 to 4: {answer!r}")
    file = data_root / _FILE
    # A row that is none stays: who loads the file reports it.
    joined = [
        {**row, "answer": answers[name]} if (name := _name(row)) in answers else row for row in rows
    ]
    write_rows(file, joined)
    return [file]


def _name(row: Any) -> str | None:
    """The id of a question's row; None of what is no such row."""
    name = row.get("q_uid") if isinstance(row, dict) else None
    return name if isinstance(name, str) else None


def _is_option(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < NUM_OPTIONS
