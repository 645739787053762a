"""The four benchmarks as they lie on disk: what is read, what is refused, what is skipped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datas_tree as tree
import pyarrow
import pyarrow.parquet
import pytest

from prunevid_kernels.benchmarks.datasets.egoschema import load_egoschema, prepare_egoschema
from prunevid_kernels.benchmarks.datasets.mvbench import TASKS, load_mvbench
from prunevid_kernels.benchmarks.datasets.sample import DatasetError, Questions, VideoSource
from prunevid_kernels.benchmarks.datasets.vcgbench import load_vcgbench
from prunevid_kernels.benchmarks.datasets.videomme import load_videomme, prepare_videomme


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree.write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def edit(file: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def sources(questions: Questions) -> list[VideoSource]:
    found = [sample.video for sample in questions.samples]
    assert all(isinstance(video, VideoSource) for video in found)
    return found  # type: ignore[return-value]


# ---- MVBench


def test_mvbench_has_twenty_tasks_and_finds_every_video(tmp_path: Path, clip: Path) -> None:
    questions = load_mvbench(tree.mvbench_tree(tmp_path, clip, questions=2))
    assert questions.problems == []
    assert Counter(sample.task for sample in questions.samples) == dict.fromkeys(TASKS, 2)
    assert len(TASKS) == 20
    assert all(video.path.exists() for video in sources(questions))
    assert len({sample.id for sample in questions.samples}) == 40


def test_mvbench_bounds_and_frame_folders(tmp_path: Path, clip: Path) -> None:
    questions = load_mvbench(tree.mvbench_tree(tmp_path, clip))
    folders = {s.task: v for s, v in zip(questions.samples, sources(questions), strict=True)}
    assert {task for task, video in folders.items() if video.bound_s is not None} == {
        "action_sequence",
        "action_prediction",
        "object_interaction",
        "action_localization",
        "episodic_reasoning",
    }
    series = folders.pop("episodic_reasoning")
    assert (series.bound_s, series.folder_fps) == ((0.5, 1.5), 3.0)
    assert series.path.is_dir()
    assert all(video.folder_fps is None for video in folders.values())


def test_mvbench_answer_is_the_index_of_its_text(tmp_path: Path, clip: Path) -> None:
    questions = load_mvbench(tree.mvbench_tree(tmp_path, clip, questions=3))
    assert [sample.gold for sample in questions.samples[:3]] == [0, 1, 2]
    assert questions.samples[1].gold_text == "B"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"question": None}, "field 'question' must be a non-empty", id="question"),
        pytest.param({"candidates": ["one"]}, "must be a list of 2 to 26 strings", id="one-option"),
        pytest.param({"candidates": [1, 2]}, "must be a list of 2 to 26 strings", id="numbers"),
        pytest.param({"answer": "Else."}, "'Else.' is none of the candidates", id="answer"),
        pytest.param({"video": 7}, "field 'video' must be", id="video"),
        pytest.param({"start": "0"}, "field 'start' must be seconds, got '0'", id="start-is-text"),
        pytest.param({"start": None}, "field 'start' must be seconds, got None", id="no-start"),
        pytest.param({"start": 2}, "'start' must be before 'end', got 2.0 and 1.5", id="backwards"),
    ],
)
def test_a_bad_row_is_skipped_and_reported(
    tmp_path: Path, clip: Path, change: dict[str, Any], expected: str
) -> None:
    tree.mvbench_tree(tmp_path, clip, questions=2)
    file = tmp_path / "MVBench" / "json" / "action_sequence.json"
    edit(file, lambda rows: rows[0].update(change))
    questions = load_mvbench(tmp_path)
    assert len(questions.samples) == 39
    assert questions.samples[0].id == "action_sequence/0001", "ids do not move"
    (problem,) = questions.problems
    assert problem.startswith(f"{file}: row 0: ") and expected in problem


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("[{", "not valid JSON", id="broken"),
        pytest.param("{}", "must hold a JSON list, got dict", id="another-kind"),
        pytest.param("[]", "no questions", id="empty"),
        pytest.param('[{"q": 1}]', "row 0: field 'candidates'", id="no-usable-row"),
        pytest.param("[3]", "row 0: must be an object, got int", id="no-object"),
    ],
)
def test_a_wrong_file_is_an_error(tmp_path: Path, clip: Path, content: str, expected: str) -> None:
    tree.mvbench_tree(tmp_path, clip)
    file = tmp_path / "MVBench" / "json" / "scene_transition.json"
    file.write_text(content)
    with pytest.raises(DatasetError, match=expected) as caught:
        load_mvbench(tmp_path)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"action_sequence\.json: No such file"):
        load_mvbench(tmp_path)


@pytest.mark.parametrize("path", ["../secret.mp4", "/etc/passwd", "a/../../b.mp4", "..\\b.mp4"])
def test_a_path_that_leaves_the_data_root_is_an_error(
    tmp_path: Path, clip: Path, path: str
) -> None:
    tree.mvbench_tree(tmp_path, clip)
    edit(
        tmp_path / "MVBench" / "json" / "object_shuffle.json",
        lambda rows: rows[0].update(video=path),
    )
    with pytest.raises(DatasetError, match="leaves the data root"):
        load_mvbench(tmp_path)


# ---- Video-MME


def test_videomme_from_the_parquet_file(tmp_path: Path, clip: Path) -> None:
    rows = tree.videomme_rows()
    parquet = tmp_path / "official.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    files = prepare_videomme(parquet, tmp_path / "prepared")
    assert [file.name for file in files] == ["short.json", "medium.json", "long.json"]
    tree.videomme_tree(tmp_path / "direct", clip)
    for file in files:
        direct = tmp_path / "direct" / "Video-MME" / "json" / file.name
        assert json.loads(file.read_text()) == json.loads(direct.read_text())


def test_videomme_questions(tmp_path: Path, clip: Path) -> None:
    questions = load_videomme(tree.videomme_tree(tmp_path, clip))
    assert Counter(s.task for s in questions.samples) == {"short": 2, "medium": 2, "long": 2}
    first, second = questions.samples[:2]
    assert first.options == ("One.", "Two.", "Three.", "Four."), "labels are taken off"
    assert (first.gold, second.gold) == (0, 1)
    assert all(video.path.is_file() for video in sources(questions))


@pytest.mark.parametrize("suffix", [".webm", ".avi", ".MKV", ".MP4"])
def test_videos_are_found_with_the_suffix_that_they_have(
    tmp_path: Path, clip: Path, suffix: str
) -> None:
    """Videos of one benchmark come from many places."""
    for load, grow in (
        (load_videomme, tree.videomme_tree),
        (load_vcgbench, tree.vcgbench_tree),
        (load_egoschema, tree.egoschema_tree),
    ):
        root = grow(tmp_path / load.__name__, clip)
        for video in sources(load(root)):
            if video.path.is_file():
                video.path.rename(video.path.with_suffix(suffix))
        assert {video.path.suffix for video in sources(load(root))} == {suffix}
        assert all(video.path.is_file() for video in sources(load(root)))


def test_a_video_that_is_missing_is_named_as_it_is_published(tmp_path: Path, clip: Path) -> None:
    root = tree.videomme_tree(tmp_path, clip)
    (root / "Video-MME" / "data" / "vid-short.mp4").unlink()
    assert sources(load_videomme(root))[0].path.name == "vid-short.mp4"


def test_videomme_from_the_repository_s_own_folder(tmp_path: Path) -> None:
    part = tmp_path / "hub" / "videomme" / "test-00000-of-00001.parquet"
    part.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(tree.videomme_rows()), part)
    assert len(prepare_videomme(tmp_path / "hub", tmp_path / "DATAS")) == 3


@pytest.mark.parametrize("answer", ["E", "AB", "a", "1"])
def test_videomme_answer_that_is_no_option(tmp_path: Path, clip: Path, answer: str) -> None:
    tree.videomme_tree(tmp_path, clip)
    file = tmp_path / "Video-MME" / "json" / "long.json"
    edit(file, lambda rows: rows[1].update(answer=answer))
    (problem,) = load_videomme(tmp_path).problems
    assert f"must be the letter of an option, got {answer!r}" in problem


def test_parquet_files_that_are_not_the_official_one(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="gone.parquet: not a readable parquet"):
        prepare_videomme(tmp_path / "gone.parquet", tmp_path)
    (tmp_path / "text.parquet").write_text("PAR")
    with pytest.raises(DatasetError, match="text.parquet: not a readable parquet"):
        prepare_videomme(tmp_path / "text.parquet", tmp_path)
    other = tmp_path / "other.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"videoID": ["x"]}), other)
    with pytest.raises(DatasetError, match="column 'duration' is missing"):
        prepare_videomme(other, tmp_path)
    rows = [row | {"duration": "endless"} for row in tree.videomme_rows()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), other)
    with pytest.raises(DatasetError, match="unknown duration 'endless'"):
        prepare_videomme(other, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no questions"):
        prepare_videomme(tmp_path / "empty", tmp_path)


# ---- EgoSchema


def test_egoschema_from_the_official_files(tmp_path: Path) -> None:
    tree.write_json(tmp_path / "questions.json", tree.egoschema_rows())
    tree.write_json(tmp_path / "subset_answers.json", {"uid-2": 4, "uid-0": 1})
    prepare_egoschema(tmp_path, tmp_path / "DATAS")
    questions = load_egoschema(tmp_path / "DATAS")
    assert [(s.id, s.task, s.gold) for s in questions.samples] == [
        ("uid-0", "subset", 1),
        ("uid-1", "hidden", None),
        ("uid-2", "subset", 4),
        ("uid-3", "hidden", None),
    ]
    assert questions.samples[0].options == tuple(tree.EGO_OPTIONS), "in the official order"


def test_egoschema_rows_that_are_none_are_reported(tmp_path: Path) -> None:
    rows = [*tree.egoschema_rows(1), "no row", {"q_uid": []}]
    tree.write_json(tmp_path / "questions.json", rows)
    tree.write_json(tmp_path / "subset_answers.json", {"uid-0": 1})
    prepare_egoschema(tmp_path, tmp_path / "DATAS")
    questions = load_egoschema(tmp_path / "DATAS")
    assert [sample.gold for sample in questions.samples] == [1]
    assert ["row 1: must be an object" in text for text in questions.problems] == [True, False]
    assert "row 2: field 'q_uid' must be a non-empty string" in questions.problems[1]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param({"uid-9": 1}, "no question 'uid-9'", id="to-no-question"),
        pytest.param({"uid-1": 5}, "uid-1: not 0 to 4: 5", id="out-of-range"),
        pytest.param({"uid-1": "B"}, "uid-1: not 0 to 4: 'B'", id="letter"),
        pytest.param([1], "must hold a JSON dict, got list", id="list"),
    ],
)
def test_egoschema_answers_that_do_not_fit(tmp_path: Path, answers: Any, expected: str) -> None:
    tree.write_json(tmp_path / "questions.json", tree.egoschema_rows())
    tree.write_json(tmp_path / "subset_answers.json", answers)
    with pytest.raises(DatasetError, match=expected):
        prepare_egoschema(tmp_path, tmp_path / "DATAS")
    assert not (tmp_path / "DATAS").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"answer": True}, "an integer from 0 to 4, got True", id="answer"),
        pytest.param({"option 3": ""}, "field 'option 3' must be", id="option"),
    ],
)
def test_egoschema_bad_row(tmp_path: Path, clip: Path, change: Any, expected: str) -> None:
    tree.egoschema_tree(tmp_path, clip)
    file = tmp_path / "ego_schema" / "json" / "egoschema_fullset.json"
    edit(file, lambda rows: rows[2].update(change))
    (problem,) = load_egoschema(tmp_path).problems
    assert f"{file}: row 2: " in problem and expected in problem


# ---- VCG-Bench


def test_vcgbench_questions_and_both_kinds_of_video(tmp_path: Path, clip: Path) -> None:
    questions = load_vcgbench(tree.vcgbench_tree(tmp_path, clip))
    assert [sample.id for sample in questions.samples] == [
        "generic/0000",
        "generic/0001",
        "temporal/0000",
        "temporal/0001",
        "consistency/0000/1",
        "consistency/0000/2",
        "consistency/0001/1",
        "consistency/0001/2",
    ]
    by_id = {sample.id: sample for sample in questions.samples}
    assert by_id["consistency/0001/1"].question == "Q1 of consistency 1?"
    assert by_id["consistency/0001/2"].question == "Q2 of consistency 1?"
    assert by_id["generic/0001"].gold == "Truth of generic 1."
    assert {video.path.name for video in sources(questions)} == {"v_0.mp4", "v_1.mkv"}


def test_vcgbench_pair_with_one_question(tmp_path: Path, clip: Path) -> None:
    tree.vcgbench_tree(tmp_path, clip)
    file = tmp_path / "VCGBench" / "Zero_Shot_QA" / "Benchmarking_QA" / "consistency_qa.json"
    edit(file, lambda rows: rows[0].pop("Q2"))
    questions = load_vcgbench(tmp_path)
    assert [s.id for s in questions.samples][-2:] == ["consistency/0001/1", "consistency/0001/2"]
    assert "row 0: field 'Q2' must be a non-empty string" in questions.problems[0]
