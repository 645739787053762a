"""The folder of one run (a model with one method on one benchmark), which outlives any process.

``settings.json`` says what was asked; nobody adds answers to a folder that was made with other
settings, or while somebody else does. ``samples.<rank>.jsonl`` hold one JSON line a question,
appended and flushed, one file for each process, so that no two write to the same. Whoever reads
takes them together: which process answered what does not matter, and a run may be resumed with
another number of them. A process that is killed may leave half a line; nobody reads it, and the
next one to write cuts it off. A question whose video was missing is asked again on resuming, and
its answer counts before that note.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prunevid_kernels.adapters.checkpoint.json_text import parse_json, read_bytes, require_text

from ..support.shapes import Shape, dataclass_shape, require_shape

SETTINGS = "settings.json"
JUDGEMENTS = "judgements.jsonl"


class RunLogError(ValueError):
    """A run folder that cannot be used; the message is one line."""


@dataclass(frozen=True)
class Record:
    """What happened to one question.

    Attributes:
        id, task: of the question.
        response: the model's words; None where it was not asked.
        gold: letter of the right option, or the right answer; None where it is hidden.
        predictions: extractor -> letter of the option that the response means, or None.
        correct: extractor -> whether that is right; empty for hidden answers and judged ones.
        tokens_before, tokens_merged, tokens_kept: visual tokens at each step.
        tokens_text: tokens of the prompt that are of no video.
        layers_ratio: visual tokens that a decoder layer runs on, as a share of all, the mean over
            layers; None in logs from before it was noted.
        cached_ratio: entries of all layers' caches, as a share of those without pruning.
        flops: form -> ``method`` and ``unpruned`` multiply-accumulates of the prompt.
        seconds: stage -> seconds.
        reader: what read the video: decord, pyav, images, or generated.
        first_token_ms: milliseconds from the call of ``generate`` to the end of the prompt's pass.
        clock: what seconds and milliseconds are of: ``wall``, or ``processor`` for the time of one
            CPU thread.
        skipped: why the model was not asked; None where it was.
    """

    id: str
    task: str
    response: str | None = None
    gold: str | None = None
    predictions: dict[str, str | None] = field(default_factory=dict)
    correct: dict[str, bool] = field(default_factory=dict)
    tokens_before: int = 0
    tokens_merged: int = 0
    tokens_kept: int = 0
    tokens_text: int = 0
    layers_ratio: float | None = None
    cached_ratio: float = 1.0
    flops: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reader: str | None = None
    first_token_ms: float | None = None
    clock: str = "wall"
    skipped: str | None = None


@dataclass(frozen=True)
class Judgement:
    """A judge's view of one question (or pair of questions) in one dimension.

    Attributes:
        id: the dimension and the question, such as ``CI/generic/0001``.
        dimension: CI, DO, CU, TU or CO.
        score: from 0 to 5; None where the judge gave none.
        reply: the judge's words, or what went wrong in asking.
    """

    id: str
    dimension: str
    score: float | None
    reply: str


_SHAPES = {
    Record: dataclass_shape(Record, flops={str: {"method": float, "unpruned": float}}),
    Judgement: dataclass_shape(Judgement),
}
_ROUNDING = 1e-9  # of a mean over layers
_SETTINGS: Shape = {"settings": {}, "environment": {}}


@dataclass(frozen=True)
class Run:
    """Everything that a run folder holds, records by question."""

    folder: Path
    settings: dict[str, Any]
    environment: dict[str, Any]
    records: dict[str, Record]
    judgements: dict[str, Judgement]

    @property
    def answered(self) -> list[Record]:
        return [record for record in self.records.values() if record.skipped is None]

    @property
    def skipped(self) -> list[Record]:
        return [record for record in self.records.values() if record.skipped is not None]


class LineWriter:
    """Appends dataclass records to a file, each one on disk before the next is made."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, record: Record | Judgement) -> None:
        self._file.write(json.dumps(asdict(record), ensure_ascii=False).encode() + b"\n")
        self._file.flush()


def open_run(
    folder: Path,
    settings: Mapping[str, Any],
    environment: Mapping[str, Any],
    *,
    resume: bool,
) -> None:
    """Make a run folder, or check that it is the one to go on with.

    Raises:
        RunLogError: a run is there and ``resume`` is False, or it was made with other settings, or
            its settings are gone, so that nobody knows of what its answers are.
        OSError: the folder cannot be made.
    """
    file = folder / SETTINGS
    if file.exists():
        if not resume:
            raise RunLogError(f"{folder}: holds a run; go on with it (--resume) or name another")
        check_settings(folder, settings)
        return
    orphans = [*folder.glob("samples.*.jsonl"), *folder.glob(JUDGEMENTS)]
    if orphans:
        raise RunLogError(f"{folder}: has {orphans[0].name} but no {SETTINGS}; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    content = {"settings": dict(settings), "environment": dict(environment)}
    scratch = file.with_suffix(".part")
    scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(scratch, file)


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than those a run was started with.

    Raises:
        RunLogError: the first setting that differs, with both values; no readable settings.
    """
    recorded = _read_settings(folder)["settings"]
    wanted = json.loads(json.dumps(dict(settings)))
    for name in sorted({*recorded, *wanted}):
        if recorded.get(name) != wanted.get(name):
            raise RunLogError(
                f"{folder}: was started with {name} = {recorded.get(name)!r}, not"
                f" {wanted.get(name)!r}; name another folder"
            )


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        RunLogError: no run there, or a file that is damaged before its last line.
    """
    content = _read_settings(folder)
    records: dict[str, Record] = {}
    for file in sorted(folder.glob("samples.*.jsonl")):
        for record in _read_lines(file, Record):
            known = records.get(record.id)
            if known is None or known.skipped is not None:
                records[record.id] = record
    judgements = {item.id: item for item in _read_lines(folder / JUDGEMENTS, Judgement)}
    return Run(folder, content["settings"], content["environment"], records, judgements)


@contextmanager
def append_lines(file: Path) -> Iterator[LineWriter]:
    """Open a file of lines for more of them; half a line at its end is cut off first.

    Raises:
        RunLogError: another process has it open for the same.
    """
    with file.open("ab+") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the file is closed
        except BlockingIOError as error:
            raise RunLogError(f"{file}: another process is writing to it") from error
        opened.seek(0)
        content = opened.read()
        opened.truncate(content.rfind(b"\n") + 1)
        yield LineWriter(opened)


def samples_file(folder: Path, rank: int) -> Path:
    return folder / f"samples.{rank}.jsonl"


def _read_settings(folder: Path) -> dict[str, Any]:
    file = folder / SETTINGS
    try:
        content = parse_json(read_bytes(file))
        require_text(content)
        require_shape(content, _SETTINGS, "the file")
        return {name: content[name] for name in ("settings", "environment")}
    except OSError as error:
        raise RunLogError(f"{file}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunLogError(f"{file}: not the settings of a run: {error}") from error


def _read_lines(file: Path, kind: type[Any]) -> Iterator[Any]:
    if not file.exists():
        return
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise RunLogError(f"{file}: {error.strerror or error}") from error
    for number, line in enumerate(lines[:-1], start=1):  # the last one is empty, or half a line
        try:
            values = parse_json(line)
            require_text(values)
            record = kind(**values)
            _require_meaning(record)
            yield record
        except (ValueError, TypeError) as error:
            raise RunLogError(f"{file}:{number}: not a line of a run: {error}") from error


def _require_meaning(record: Record | Judgement) -> None:
    """Refuse a line with values that a report would stumble over, or believe.

    Raises:
        ValueError: the first of them.
    """
    kind = type(record)
    require_shape(vars(record), _SHAPES[kind], kind.__name__.lower())
    if isinstance(record, Record):
        counts = (record.tokens_kept, record.tokens_merged, record.tokens_before)
        if list(counts) != sorted(counts):
            raise ValueError(f"record: tokens kept, merged and before must not fall, got {counts}")
        for name in ("layers_ratio", "cached_ratio"):
            share = getattr(record, name)
            if share is not None and share > 1 + _ROUNDING:
                raise ValueError(f"record.{name} must be a share of at most 1, got {share}")
        if record.flops and "paper" not in record.flops:
            raise ValueError("record.flops has no 'paper'")
    elif record.score is not None and record.score > 5:
        raise ValueError(f"judgement.score must be from 0 to 5, got {record.score}")
