"""MVBench: 20 tasks of 200 multiple-choice questions, each task with its own folder of videos.

``MVBench/json/<task>.json`` is the benchmark's own file: rows of video, question, candidates,
answer (the text of one candidate) and, for some tasks, the seconds that the question is about.
Questions of one task come from TV series that are published as frames, three a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .sample import (
    QuestionFile,
    Questions,
    RowError,
    Sample,
    VideoSource,
    inside,
    options_field,
    read_questions,
    text_field,
)


@dataclass(frozen=True)
class Task:
    """Where a task's videos are, below ``MVBench/video``."""

    folder: str
    is_bounded: bool = False
    folder_fps: float | None = None


_CLEVRER = Task("clevrer/video_validation")
_PERCEPTION = Task("perception/videos")
_CHARADES = Task("star/Charades_v1_480", is_bounded=True)

_LONGEST_S = 1e9

TASKS: dict[str, Task] = {
    "action_sequence": _CHARADES,
    "action_prediction": _CHARADES,
    "action_antonym": Task("ssv2_video"),
    "fine_grained_action": Task("Moments_in_Time_Raw/videos"),
    "unexpected_action": Task("FunQA_test/test"),
    "object_existence": _CLEVRER,
    "object_interaction": _CHARADES,
    "object_shuffle": _PERCEPTION,
    "moving_direction": _CLEVRER,
    "action_localization": Task("sta/sta_video", is_bounded=True),
    "scene_transition": Task("scene_qa/video"),
    "action_count": _PERCEPTION,
    "moving_count": _CLEVRER,
    "moving_attribute": _CLEVRER,
    "state_change": _PERCEPTION,
    "fine_grained_pose": Task("nturgbd"),
    "character_order": _PERCEPTION,
    "egocentric_navigation": Task("vlnqa"),
    "episodic_reasoning": Task("tvqa/frames_fps3_hq", is_bounded=True, folder_fps=3.0),
    "counterfactual_inference": _CLEVRER,
}


def load_mvbench(data_root: Path) -> Questions:
    """All questions, task by task.

    Raises:
        DatasetError: see :mod:`.sample`.
    """
    return read_questions(mvbench_files(data_root))


def mvbench_files(data_root: Path) -> list[QuestionFile]:
    """The question file of each task below the data root."""
    files = []
    for name, task in TASKS.items():
        file = data_root / "MVBench" / "json" / f"{name}.json"
        videos = data_root / "MVBench" / "video" / task.folder

        def read(
            index: int,
            row: dict[str, Any],
            name: str = name,
            task: Task = task,
            videos: Path = videos,
        ) -> Iterable[Sample]:
            options = options_field(row, "candidates")
            answer = text_field(row, "answer")
            if answer not in options:
                raise RowError(f"the answer {answer!r} is none of the candidates")
            source = VideoSource(
                path=inside(videos, text_field(row, "video")),
                bound_s=_bound(row) if task.is_bounded else None,
                folder_fps=task.folder_fps,
            )
            question = text_field(row, "question")
            gold = options.index(answer)
            yield Sample(f"{name}/{index:04d}", name, question, options, gold, source)

        files.append(QuestionFile(file, read))
    return files


def _bound(row: dict[str, Any]) -> tuple[float, float]:
    start, end = seconds_field(row, "start"), seconds_field(row, "end")
    if not 0 <= start < end:
        raise RowError(f"'start' must be before 'end', got {start} and {end}")
    return start, end


def seconds_field(row: dict[str, Any], name: str) -> float:
    """A field that is a number of seconds.

    Raises:
        RowError: it is missing, or no number.
    """
    value = row.get(name)
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not abs(value) < _LONGEST_S  # nor is NaN
    ):
        raise RowError(f"field {name!r} must be seconds, got {value!r:.40}")
    return float(value)
