"""EgoSchema: one question with five options for each of 5,031 videos.

The organisers publish 500 of the answers and keep the others, so accuracy is measured on the 500
(task ``subset``); predictions for all can be exported in the form that they take submissions in.
``prepare_egoschema`` joins the official ``questions.json`` and ``subset_answers.json`` into
``ego_schema/json/egoschema_fullset.json``: the official rows, with ``answer`` where it is public.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .sample import (
    DatasetError,
    Questions,
    RowError,
    Sample,
    VideoSource,
    inside,
    read_json,
    text_field,
)

NUM_OPTIONS = 5
_FILE = Path("ego_schema") / "json" / "egoschema_fullset.json"


def load_egoschema(data_root: Path) -> Questions:
    """All questions in the official order, those with a hidden answer (task ``hidden``) included.

    Raises:
        DatasetError: see :mod:`.sample`.
    """
    videos = data_root / "ego_schema" / "videos"

    def read(index: int, row: dict[str, Any]) -> Iterable[Sample]:
        name = text_field(row, "q_uid")
        options = tuple(text_field(row, f"option {i}") for i in range(NUM_OPTIONS))
        gold = row.get("answer")
        if gold is not None and not _is_option(gold):
            raise RowError(f"the answer must be an integer from 0 to 4, got {gold!r}")
        task = "hidden" if gold is None else "subset"
        source = VideoSource(inside(videos, f"{name}.mp4"))
        yield Sample(name, task, text_field(row, "question"), options, gold, source)

    questions = Questions()
    file = data_root / _FILE
    questions.extend(file, read_json(file, list), read)
    return questions


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
    known = {row.get("q_uid") for row in rows if isinstance(row, dict)}
    for name, answer in answers.items():
        if name not in known:
            raise DatasetError(f"{folder / 'subset_answers.json'}: no question {name!r}")
        if not _is_option(answer):
            raise DatasetError(f"{folder / 'subset_answers.json'}: {name}: not 0 to 4: {answer!r}")
    joined = [
        {**row, "answer": answers[row["q_uid"]]} if row.get("q_uid") in answers else row
        for row in rows
        if isinstance(row, dict)
    ]
    file = data_root / _FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(joined, indent=1, ensure_ascii=False), encoding="utf-8")
    return [file]


def _is_option(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < NUM_OPTIONS
