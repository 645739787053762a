"""Miniature data sets in the layout that the evaluation expects, with a generated clip everywhere.

The clip is written once and copied, because encoding is what takes time. Questions say which task
they are of, so that a mix-up shows.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from prunevid_kernels.benchmarks.datasets.mvbench import TASKS

CLIP_FRAMES, CLIP_FPS = 12, 6
OPTIONS = ["A red ball.", "A blue box.", "Nothing at all."]
EGO_OPTIONS = [f"C does thing number {i}." for i in range(5)]


def clip_frames(count: int = CLIP_FRAMES) -> np.ndarray:
    """[count, 48, 64, 3] uint8: a square that moves, and a cut in the middle. The first column of
    frame t is filled with 20 t, so that a frame says which one it is."""
    frames = np.zeros((count, 48, 64, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:] = (60, 140, 80) if index < count // 2 else (70, 60, 160)
        frame[16:32, 8 + 3 * index : 24 + 3 * index] = (230, 60, 40)
        frame[:, :8] = 20 * index
    return frames


def write_clip(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=CLIP_FPS, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in clip_frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frame_folder(path: Path, count: int = CLIP_FRAMES) -> Path:
    """Frames as MVBench has them for TV series: 00001.jpg and so on."""
    path.mkdir(parents=True)
    for number, frame in enumerate(clip_frames(count), start=1):
        Image.fromarray(frame).save(path / f"{number:05d}.jpg", quality=95)
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def mvbench_tree(root: Path, clip: Path, questions: int = 1) -> Path:
    """All 20 tasks, bounds and frame folders where the benchmark has them."""
    for name, task in TASKS.items():
        rows = []
        for index in range(questions):
            video = f"{name}_{index}" if task.folder_fps else f"{name}_{index}.mp4"
            row = {
                "video": video,
                "question": f"What is there in {name} {index}?",
                "candidates": OPTIONS,
                "answer": OPTIONS[index % len(OPTIONS)],
            }
            if task.is_bounded:
                row |= {"start": 0.5, "end": 1.5}
            rows.append(row)
            place = root / "MVBench" / "video" / task.folder / video
            if task.folder_fps:
                write_frame_folder(place)
            else:
                _copy(clip, place)
        write_json(root / "MVBench" / "json" / f"{name}.json", rows)
    return root


def videomme_rows(per_duration: int = 2) -> list[dict[str, Any]]:
    """Rows as the official parquet file has them."""
    return [
        {
            "video_id": f"{number:03d}",
            "duration": duration,
            "domain": "Knowledge",
            "sub_category": "Humanity & History",
            "url": "https://example.org/watch",
            "videoID": f"vid-{duration}",
            "question_id": f"{number:03d}-{index}",
            "task_type": "Counting Problem",
            "question": f"How many in {duration} {index}?",
            "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
            "answer": "ABCD"[index % 4],
        }
        for number, duration in enumerate(("short", "medium", "long"))
        for index in range(per_duration)
    ]


def videomme_tree(root: Path, clip: Path) -> Path:
    rows = videomme_rows()
    for duration in ("short", "medium", "long"):
        chosen = [row for row in rows if row["duration"] == duration]
        write_json(root / "Video-MME" / "json" / f"{duration}.json", chosen)
        _copy(clip, root / "Video-MME" / "data" / f"vid-{duration}.mp4")
    return root


def egoschema_rows(count: int = 4) -> list[dict[str, Any]]:
    """Rows as the official questions.json has them."""
    return [
        {"q_uid": f"uid-{index}", "google_drive_id": "x", "question": f"What does C do {index}?"}
        | {f"option {i}": text for i, text in enumerate(EGO_OPTIONS)}
        for index in range(count)
    ]


def egoschema_tree(root: Path, clip: Path, count: int = 4, answered: int = 2) -> Path:
    rows = egoschema_rows(count)
    for index, row in enumerate(rows):
        if index < answered:
            row["answer"] = index
        _copy(clip, root / "ego_schema" / "videos" / f"{row['q_uid']}.mp4")
    write_json(root / "ego_schema" / "json" / "egoschema_fullset.json", rows)
    return root


def vcgbench_tree(root: Path, clip: Path, questions: int = 2) -> Path:
    """The first video is an mp4, the others are mkv files."""
    folder = root / "VCGBench"
    for name in ("generic", "temporal", "consistency"):
        rows = []
        for index in range(questions):
            row = {"A": f"Truth of {name} {index}.", "video_name": f"v_{index}"}
            asked = ("Q1", "Q2") if name == "consistency" else ("Q",)
            rows.append(row | {key: f"{key} of {name} {index}?" for key in asked})
        write_json(folder / "Zero_Shot_QA" / "Benchmarking_QA" / f"{name}_qa.json", rows)
    for index in range(questions):
        place = folder / "Videos" / "Benchmarking" / f"v_{index}"
        if index == 0:
            _copy(clip, place.with_suffix(".mp4"))
        else:
            _remux(clip, place.with_suffix(".mkv"))
    return root


def _copy(clip: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(clip, place)


def _remux(clip: Path, place: Path) -> None:
    with av.open(str(clip)) as source, av.open(str(place), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)


def all_benchmarks(root: Path) -> Path:
    """``root`` with all four benchmarks, whose questions are about one clip."""
    clip = write_clip(root / "clip.mp4")
    for write in (mvbench_tree, videomme_tree, egoschema_tree, vcgbench_tree):
        write(root, clip)
    return root
