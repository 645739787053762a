"""What is missing of a benchmark on disk, all of it at once.

An evaluation stops at the first question file that it cannot use and skips a video when its turn
comes. Here the same code reads the same files and looks for the same videos, but goes on: whoever
gathers a benchmark from several places sees the whole list before anything runs. A question whose
answer is hidden is asked for a submission only, so that its video is counted apart.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid_kernels.adapters.video.reader import Reader, VideoError, require_source

from ..support.terminal import Progress
from .frames import take_frames
from .registry import DATASETS, OnDisk
from .sample import DatasetError, Questions, Sample, VideoSource

ENDS = 2  # frames that show whether a video can be read: the first and the last that are asked for


@dataclass
class Videos:
    """The videos of some questions.

    Attributes:
        count: how many there are.
        missing: (path, what is wrong, how many questions are about it), by path.
        unreadable: the same of those that are there and cannot be read; empty where nobody tried.
    """

    count: int = 0
    missing: list[tuple[Path, str, int]] = field(default_factory=list)
    unreadable: list[tuple[Path, str, int]] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return not self.missing and not self.unreadable

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""

        def rows(found: list[tuple[Path, str, int]]) -> list[dict[str, Any]]:
            return [
                {"path": str(path), "problem": problem, "questions": questions}
                for path, problem, questions in found
            ]

        return {
            "count": self.count,
            "missing": rows(self.missing),
            "unreadable": rows(self.unreadable),
        }


@dataclass(frozen=True)
class DatasetCheck:
    """A benchmark as it lies on disk.

    Attributes:
        name: in the registry.
        folder: where it should be.
        is_there: whether there is such a folder.
        file_problems: a line for each thing that stops an evaluation: a question file that cannot
            be used, a path in one that leaves the data root.
        row_problems: a line for each question that cannot be used.
        contradictions: a line for each question that another one asks about the same video, with
            the same options and another right answer. Nothing is missing for them.
        files: how many question files it has; ``whole_files``: those that an evaluation takes.
        published: how many questions were published; None: not known.
        questions: the usable ones whose answers are known; ``hidden_questions``: the others.
        videos: of the former; ``hidden_videos``: those that only the others are about.
    """

    name: str
    folder: Path
    is_there: bool
    files: int
    whole_files: int
    file_problems: list[str]
    row_problems: list[str]
    contradictions: list[str]
    questions: int
    hidden_questions: int
    published: int | None
    videos: Videos
    hidden_videos: Videos

    @property
    def left_out(self) -> int:
        """How many of the published questions are not in the files."""
        return max((self.published or 0) - self.questions - self.hidden_questions, 0)

    @property
    def is_complete(self) -> bool:
        """Whether an evaluation could ask every question of the files whose answer is known."""
        return not self.file_problems and not self.row_problems and self.videos.is_complete

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "folder": str(self.folder),
            "is_there": self.is_there,
            "is_complete": self.is_complete,
            "files": self.files,
            "file_problems": self.file_problems,
            "row_problems": self.row_problems,
            "contradictions": self.contradictions,
            "questions": self.questions,
            "hidden_questions": self.hidden_questions,
            "published_questions": self.published,
            "videos": self.videos.as_dict(),
            "hidden_videos": self.hidden_videos.as_dict(),
        }


def on_disk(name: str) -> OnDisk:
    """How a benchmark lies on disk.

    Args:
        name: of a data set that has files.

    Raises:
        ValueError: another name.
    """
    known = {key: dataset.on_disk for key, dataset in DATASETS.items() if dataset.on_disk}
    if name not in known:
        raise ValueError(f"the data set must be one of {', '.join(known)}, got {name!r}")
    return known[name]


def check_dataset(
    name: str, data_root: Path, progress: Progress | None = None, reader: Reader = "auto"
) -> DatasetCheck:
    """Look for everything that an evaluation would need.

    Args:
        name: of a data set that has files.
        data_root: folder of the data sets.
        progress: given, every video that is there is read as well, which takes as long as it takes
            to read two frames of each.
        reader: what reads videos.

    Raises:
        ValueError: the name of none.
    """
    layout = on_disk(name)
    files = layout.files(data_root)
    questions = Questions()
    file_problems: list[str] = []
    whole_files = 0
    for file in files:
        found_before = len(file_problems)
        try:
            questions.add_file(file, untrusted=file_problems)
        except DatasetError as error:
            file_problems.append(str(error))
        whole_files += len(file_problems) == found_before
    known = [sample for sample in questions.samples if sample.gold is not None]
    hidden = [sample for sample in questions.samples if sample.gold is None]
    of_known, of_hidden = _sources(known), _sources(hidden)
    # A video that questions of both kinds are about belongs to those that are always asked.
    of_hidden = {path: found for path, found in of_hidden.items() if path not in of_known}
    return DatasetCheck(
        name=name,
        folder=data_root / layout.folder,
        is_there=(data_root / layout.folder).is_dir(),
        files=len(files),
        whole_files=whole_files,
        file_problems=file_problems,
        row_problems=questions.problems,
        contradictions=_contradictions(known),
        questions=len(known),
        hidden_questions=len(hidden),
        published=layout.questions,
        videos=_videos(name, of_known, progress, reader),
        hidden_videos=_videos(f"{name}, hidden answers", of_hidden, progress, reader),
    )


def _contradictions(samples: Iterable[Sample]) -> list[str]:
    """Questions with options of which two answers are right. Open ones have any number of them."""
    first: dict[Hashable, Sample] = {}
    found = []
    for sample in samples:
        if isinstance(sample.gold, int):
            assert isinstance(sample.video, VideoSource)
            asked = (sample.task, sample.video, sample.question, frozenset(sample.options))
            other = first.setdefault(asked, sample)
            assert isinstance(other.gold, int)
            answers = other.options[other.gold], sample.options[sample.gold]
            if answers[0] != answers[1]:
                found.append(
                    f"{other.id} and {sample.id} ask {sample.question!r:.80} about"
                    f" {sample.video.path.name}: {answers[0]!r:.40}, and {answers[1]!r:.40}"
                )
    return found


def _sources(samples: Iterable[Sample]) -> dict[Path, list[VideoSource]]:
    """The videos of questions, each with what every question wants of it."""
    sources: dict[Path, list[VideoSource]] = {}
    for sample in samples:
        assert isinstance(sample.video, VideoSource)
        sources.setdefault(sample.video.path, []).append(sample.video)
    return dict(sorted(sources.items()))


def _videos(
    label: str, sources: dict[Path, list[VideoSource]], progress: Progress | None, reader: Reader
) -> Videos:
    videos = Videos(count=len(sources))
    there: dict[Path, list[VideoSource]] = {}
    for path, wanted in sources.items():
        try:
            require_source(path)
            there[path] = wanted
        except VideoError as error:
            videos.missing.append((path, str(error), len(wanted)))
    if progress is None or not there:
        return videos
    with progress(label, len(there), 0) as advance:
        for path, wanted in there.items():
            problem = _read(wanted, reader)
            if problem is not None:
                videos.unreadable.append((path, *problem))
            advance(None)
    return videos


def _read(wanted: list[VideoSource], reader: Reader) -> tuple[str, int] | None:
    """What goes wrong in reading a video first, and for how many questions something does."""
    problems = []
    outcomes: dict[VideoSource, str | None] = {}
    for source in wanted:
        if source not in outcomes:
            try:
                take_frames(source, ENDS, "linspace", reader)
                outcomes[source] = None
            except VideoError as error:
                outcomes[source] = str(error)
        if (problem := outcomes[source]) is not None:
            problems.append(problem)
    return (problems[0], len(problems)) if problems else None
