"""Video-MME: 900 videos, three multiple-choice questions each, short, medium and long.

``prepare_videomme`` writes ``Video-MME/json/{short,medium,long}.json`` from the official parquet
file, rows unchanged; the videos are ``Video-MME/data/<videoID>.mp4``, or have another suffix.
Subtitles are not used. Each duration is a task; with all 900 questions of each, their average is
the official overall score.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .sample import (
    LETTERS,
    DatasetError,
    QuestionFile,
    Questions,
    RowError,
    Sample,
    options_field,
    read_questions,
    text_field,
    video_source,
    write_rows,
)

DURATIONS = ("short", "medium", "long")
_COLUMNS = ("videoID", "duration", "question", "options", "answer")
_LABEL = re.compile(r"^\(?[A-Z][.):]\s*")


def load_videomme(data_root: Path) -> Questions:
    """All questions, duration by duration.

    Raises:
        DatasetError: see :mod:`.sample`.
    """
    return read_questions(videomme_files(data_root))


def videomme_files(data_root: Path) -> list[QuestionFile]:
    """The question file of each duration below the data root."""
    files = []
    videos = data_root / "Video-MME" / "data"
    for duration in DURATIONS:
        file = _file(data_root, duration)

        def read(index: int, row: dict[str, Any], duration: str = duration) -> Iterable[Sample]:
            options = tuple(_LABEL.sub("", text) for text in options_field(row, "options"))
            answer = text_field(row, "answer")
            gold = LETTERS.find(answer)
            if len(answer) != 1 or not 0 <= gold < len(options):
                raise RowError(f"the answer must be the letter of an option, got {answer!r}")
            source = video_source(videos, text_field(row, "videoID"))
            question = text_field(row, "question")
            published = text_field(row, "question_id") if "question_id" in row else None
            name = f"{duration}/{index:04d}"
            yield Sample(name, duration, question, options, gold, source, published)

        files.append(QuestionFile(file, read))
    return files


def prepare_videomme(parquet: Path, data_root: Path) -> list[Path]:
    """Split the official questions by duration.

    Args:
        parquet: the file, or a folder that has its parts somewhere inside, as the repository has.
        data_root: folder of the data sets.

    Returns:
        The files written.

    Raises:
        DatasetError: no parquet file, or one without the columns that questions need.
        OSError: the data root cannot be written.
    """
    from pyarrow import ArrowException
    from pyarrow import parquet as reader

    parts = sorted(parquet.rglob("*.parquet")) if parquet.is_dir() else [parquet]
    rows: list[dict[str, Any]] = []
    for part in parts:
        try:
            table = reader.read_table(part)
        except (OSError, ArrowException) as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise DatasetError(f"{part}: not a readable parquet file: {first_line}") from error
        missing = [name for name in _COLUMNS if name not in table.column_names]
        if missing:
            raise DatasetError(f"{part}: column {missing[0]!r} is missing")
        rows.extend(table.to_pylist())
    if not rows:
        raise DatasetError(f"{parquet}: no questions (*.parquet)")
    unknown = {str(row["duration"]) for row in rows} - set(DURATIONS)
    if unknown:
        raise DatasetError(f"{parquet}: unknown duration {min(unknown)!r}")
    written = []
    for duration in DURATIONS:
        file = _file(data_root, duration)
        write_rows(file, [row for row in rows if row["duration"] == duration])
        written.append(file)
    return written


def _file(data_root: Path, duration: str) -> Path:
    return data_root / "Video-MME" / "json" / f"{duration}.json"
