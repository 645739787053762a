"""One question about one video, and what all benchmarks share in reading such questions from disk.

What cannot be used is told apart by what it says about the data. A file that is missing, is not
JSON or holds no usable row is the wrong file, and a path that leaves the data root is no question
to trust: both are errors before anything runs (a check writes the path down and goes on). A single
bad row among good ones is reported and skipped, as a missing video is later. Only the path's text
is judged: a link inside the data root is the user's own way to another disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from prunevid_kernels.adapters.checkpoint.json_text import parse_json, read_bytes, require_text

Value = TypeVar("Value")
_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv")
VIDEO_SUFFIXES = (*_SUFFIXES, *map(str.upper, _SUFFIXES))
_LONGEST_NAME = 255 - max(map(len, _SUFFIXES))  # bytes, on the usual file systems
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class DatasetError(ValueError):
    """A data set that cannot be used; the message is one line and names the file."""


class UntrustedPathError(DatasetError):
    """A path that leaves the data root."""


class RowError(ValueError):
    """A question that cannot be used; the others of its file can."""


@dataclass(frozen=True)
class VideoSource:
    """Where a question's frames are.

    Attributes:
        path: a video file, or a folder of frames.
        bound_s: first and last second that the question is about; None: the whole video.
        folder_fps: frames a second of a folder of frames, which has no clock of its own.
    """

    path: Path
    bound_s: tuple[float, float] | None = None
    folder_fps: float | None = None


@dataclass(frozen=True)
class Sample:
    """One question.

    Attributes:
        id: unique in its benchmark, the same on every run.
        task: the part of the benchmark that it counts for.
        question: as the benchmark asks it.
        options: the texts to choose from, in the benchmark's order; empty for an open question.
        gold: index of the right option, or the right answer's text where there are no options;
            None where the benchmark keeps it hidden.
        video: on disk, or all frames of a generated clip, [T, H, W, 3] uint8.
        published_id: what the benchmark's file calls it, where ``id`` is its place in the file.
    """

    id: str
    task: str
    question: str
    options: tuple[str, ...]
    gold: int | str | None
    video: VideoSource | np.ndarray
    published_id: str | None = None

    @property
    def gold_text(self) -> str | None:
        """What a log says about the right answer: the option's letter, or the text."""
        return LETTERS[self.gold] if isinstance(self.gold, int) else self.gold


@dataclass(frozen=True)
class QuestionFile:
    """A JSON file of question rows.

    Attributes:
        path: where it is.
        read: (number of a row, the row) -> its samples; raises :class:`RowError` about a row that
            cannot be used.
    """

    path: Path
    read: Callable[[int, dict[str, Any]], Iterable[Sample]]


@dataclass
class Questions:
    """The usable questions of a benchmark in their fixed order, and what is wrong with the others.

    Attributes:
        problems: one line for each row that was skipped.
    """

    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _ids: dict[str, Sample] = field(default_factory=dict)

    def add_file(self, file: QuestionFile, untrusted: list[str] | None = None) -> None:
        """Add the samples of all rows of a file.

        Args:
            file: to be read.
            untrusted: takes a line for each row whose path leaves the data root; None: such a row
                is an error.

        Raises:
            DatasetError: see :func:`read_json`; not one row is usable.
        """
        found: list[Sample] = []
        problems: list[str] = []
        left_root: list[str] = []
        for index, row in enumerate(read_json(file.path, list)):
            try:
                if not isinstance(row, dict):
                    raise RowError(f"must be an object, got {type(row).__name__}")
                try:
                    require_text(row)
                except ValueError as error:
                    raise RowError(str(error)) from error
                for sample in file.read(index, row):
                    self._require_new(sample)
                    found.append(sample)
            except RowError as error:
                problems.append(f"{file.path}: row {index}: {error}")
            except DatasetError as error:
                line = f"{file.path}: row {index}: {error}"
                if untrusted is None or not isinstance(error, UntrustedPathError):
                    raise DatasetError(line) from error
                left_root.append(line)
        if untrusted is not None:
            untrusted.extend(left_root)
        if not found and not left_root:
            raise DatasetError(problems[0] if problems else f"{file.path}: no questions")
        self.samples.extend(found)
        self.problems.extend(problems)

    def _require_new(self, sample: Sample) -> None:
        for name in dict.fromkeys((sample.id, sample.published_id)):
            if name is None:
                continue
            first = self._ids.setdefault(name, sample)
            if first is not sample:  # one answer would stand for both, or one question count twice
                differs = "" if first.gold == sample.gold else " and another answer"
                raise RowError(f"a second question with the id {name!r}{differs}")


def read_questions(files: Iterable[QuestionFile]) -> Questions:
    """All questions of a benchmark, file by file.

    Raises:
        DatasetError: a file that cannot be used.
    """
    questions = Questions()
    for file in files:
        questions.add_file(file)
    return questions


def read_json(file: Path, kind: type[Value]) -> Value:
    """The content of a JSON file whose outermost value is a ``kind`` (list or dict).

    Raises:
        DatasetError: no such file, unreadable, not JSON, another kind of value.
    """
    try:
        content = parse_json(read_bytes(file))
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror or error}") from error
    except ValueError as error:
        raise DatasetError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(content, kind):
        raise DatasetError(
            f"{file}: must hold a JSON {kind.__name__}, got {type(content).__name__}"
        )
    return content


def write_rows(file: Path, rows: Sequence[Any]) -> None:
    """A JSON file of question rows, as :meth:`Questions.add_file` reads it; folders are made.

    Raises:
        OSError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")


def text_field(row: dict[str, Any], name: str) -> str:
    """A field that is a text with something in it.

    Raises:
        RowError: it is missing, of another type, or empty.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"field {name!r} must be a non-empty string, got {value!r}")
    return value.strip()


def options_field(row: dict[str, Any], name: str) -> tuple[str, ...]:
    """A field that is a list of two options or more.

    Raises:
        RowError: it is not.
    """
    values = row.get(name)
    texts = [text for text in values if isinstance(text, str)] if isinstance(values, list) else []
    if values != texts or not 2 <= len(texts) <= len(LETTERS):
        raise RowError(
            f"field {name!r} must be a list of 2 to {len(LETTERS)} strings, got {values!r}"
        )
    return tuple(text.strip() for text in texts)


def inside(root: Path, relative: str) -> Path:
    """``root / relative``.

    Raises:
        UntrustedPathError: an absolute path, or one that climbs.
        RowError: a name that no file has.
    """
    path = PurePosixPath(relative.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or Path(relative).is_absolute():
        raise UntrustedPathError(f"{root}: {relative!r} leaves the data root")
    if "\0" in relative or any(len(part.encode()) > _LONGEST_NAME for part in path.parts):
        raise RowError(f"no file can have the name {relative!r:.80}")
    return root / path


def video_source(folder: Path, name: str) -> VideoSource:
    """The video file of that name without suffix, as it was downloaded.

    Where there is none it is the first that was looked for, for the report of missing videos.

    Raises:
        UntrustedPathError: the name leads out of the folder.
    """
    paths = [inside(folder, name + suffix) for suffix in VIDEO_SUFFIXES]
    return VideoSource(next((path for path in paths if path.is_file()), paths[0]))
