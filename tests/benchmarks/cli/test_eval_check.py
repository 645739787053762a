"""``prunevid eval check``: one report of everything that an evaluation would miss."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datas_tree as tree
import pytest
from paths import ROOT
from typer.testing import CliRunner

from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.datasets.mvbench import TASKS
from prunevid_kernels.benchmarks.datasets.registry import DATASETS

pytestmark = pytest.mark.one_version


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    stdout: str
    stderr: str

    def of(self, dataset: str) -> dict[str, Any]:
        return json.loads(self.stdout.splitlines()[-1])["datasets"][dataset]


def check(*arguments: str | Path) -> Outcome:
    result = CliRunner().invoke(app, ["eval", "check", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree.all_benchmarks(tmp_path_factory.mktemp("DATAS"))


@pytest.fixture
def root(complete: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(complete, tmp_path / "DATAS")


def test_nothing_is_missing(complete: Path) -> None:
    outcome = check("--data-root", complete, "--read")
    assert outcome.exit_code == 0, outcome.stdout
    # The tree of the tests has a few questions of each.
    part = "mvbench, videomme, egoschema"
    last = f"complete, but the files hold a part of the questions of {part}"
    assert outcome.stdout.splitlines()[-2] == last
    assert outcome.of("mvbench")["published_questions"] == 4000
    assert "question files  20 of 20, 20 questions of 4,000 that are published" in outcome.stdout
    for name, dataset in DATASETS.items():
        if dataset.on_disk is not None:
            assert outcome.of(name)["is_complete"]
            asked = [s for s in dataset.load(complete).samples if s.gold is not None]
            assert outcome.of(name)["questions"] == len(asked)


def test_everything_that_is_missing_is_in_one_report(root: Path) -> None:
    """Three question files and seven videos, where an evaluation stops at the first file."""
    questions, videos = root / "MVBench" / "json", root / "MVBench" / "video"
    for task in ("action_count", "scene_transition"):
        (questions / f"{task}.json").unlink()
    (questions / "state_change.json").write_text("[{")
    left = [task for task in TASKS if task not in ("action_count", "scene_transition")]
    gone = [task for task in left if TASKS[task].folder == "clevrer/video_validation"]
    gone += ["egocentric_navigation", "episodic_reasoning"]
    for task in gone:
        place = videos / TASKS[task].folder
        (file,) = place.glob(f"{task}_0*")
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    outcome = check("mvbench", "--data-root", root)
    assert outcome.exit_code == 1
    found = outcome.of("mvbench")
    assert len(found["file_problems"]) == 3 and "state_change.json: not valid" in outcome.stdout
    assert [Path(row["path"]).stem for row in found["videos"]["missing"]] == sorted(
        (f"{task}_0" for task in gone), key=lambda name: TASKS[name[:-2]].folder + name
    )
    assert "videos          10 of 17" in outcome.stdout
    assert "2 more like these (--json lists them all)" in outcome.stdout
    assert outcome.stdout.splitlines()[-2] == "NOT complete: mvbench"


def test_a_bad_question_is_reported(root: Path) -> None:
    file = root / "VCGBench" / "Zero_Shot_QA" / "Benchmarking_QA" / "generic_qa.json"
    rows = json.loads(file.read_text())
    tree.write_json(file, [rows[0], rows[1] | {"Q": ""}])
    outcome = check("vcgbench", "--data-root", root)
    assert outcome.exit_code == 1
    (problem,) = outcome.of("vcgbench")["row_problems"]
    assert problem.startswith(f"{file}: row 1: field 'Q'") and problem in outcome.stdout


def test_videos_of_hidden_answers_are_told_and_not_needed(root: Path) -> None:
    for name in ("uid-2", "uid-3"):
        (root / "ego_schema" / "videos" / f"{name}.mp4").unlink()
    outcome = check("egoschema", "--data-root", root)
    assert outcome.exit_code == 0, outcome.stdout
    assert "videos          2 of 2" in outcome.stdout
    assert "hidden answers  0 of 2" in outcome.stdout
    assert len(outcome.of("egoschema")["hidden_videos"]["missing"]) == 2
    (root / "ego_schema" / "videos" / "uid-0.mp4").unlink()
    assert check("egoschema", "--data-root", root).exit_code == 1


def test_only_reading_finds_what_cannot_be_read(root: Path) -> None:
    """A file that is no video, one that is cut off, a folder without images, a question about
    seconds after the end."""
    videos = root / "MVBench" / "video"
    broken = videos / "ssv2_video" / "action_antonym_0.mp4"
    broken.write_bytes(b"not a video")
    cut = videos / "vlnqa" / "egocentric_navigation_0.mp4"
    cut.write_bytes(cut.read_bytes()[:900])
    for frame in (videos / "tvqa" / "frames_fps3_hq" / "episodic_reasoning_0").iterdir():
        frame.unlink()
    file = root / "MVBench" / "json" / "action_sequence.json"
    rows = json.loads(file.read_text())
    tree.write_json(file, [rows[0] | {"start": 100, "end": 101}])
    assert check("mvbench", "--data-root", root).exit_code == 0
    outcome = check("mvbench", "--data-root", root, "--read")
    assert outcome.exit_code == 1
    assert "videos          20 of 20, 4 of them unreadable" in outcome.stdout
    problems = " ".join(row["problem"] for row in outcome.of("mvbench")["videos"]["unreadable"])
    for text in ("not a video file", "truncated", "has no images", "seconds inside the video"):
        assert text in problems


def test_nothing_is_there(tmp_path: Path) -> None:
    outcome = check("--data-root", tmp_path)
    assert outcome.exit_code == 1
    assert outcome.stdout.count("no such folder") == 4
    for name in ("videomme", "egoschema"):
        assert f"prunevid eval prepare {name} SOURCE" in outcome.stdout
    assert "docs/data.md" in outcome.stdout


@pytest.mark.parametrize("name", ["synthetic", "mvbenhc"])
def test_a_data_set_without_files(tmp_path: Path, name: str) -> None:
    outcome = check(name, "--data-root", tmp_path)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    known = "mvbench, videomme, egoschema, vcgbench"
    assert f"the data set must be one of {known}, got '{name}'" in outcome.stderr


def test_an_evaluation_that_cannot_begin_names_the_check(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["eval", "videomme", "--data-root", str(tmp_path)])
    assert result.exit_code == 2
    assert f"`prunevid eval check videomme --data-root {tmp_path}` lists" in result.stderr


def test_the_page_about_data_shows_every_folder_and_file(complete: Path) -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for name, dataset in DATASETS.items():
        if dataset.on_disk is None:
            continue
        assert f"prunevid eval {name}" in page
        assert f"{dataset.on_disk.folder}/" in page
        if dataset.on_disk.questions is not None:
            assert f"{dataset.on_disk.questions:,} questions" in page
        assert (f"prunevid eval prepare {name}" in page) == (dataset.on_disk.prepare is not None)
    for task, place in TASKS.items():
        assert f"`{task}`" in page and f"`{place.folder}/`" in page


def test_a_path_that_leaves_the_data_root_hides_nothing(root: Path) -> None:
    """An evaluation stops there; the check tells it with all that is wrong behind it."""
    file = root / "MVBench" / "json" / "action_count.json"
    (row,) = json.loads(file.read_text())
    bad = [row | {"video": name} for name in ("../../../etc/passwd", "/etc/passwd", "gone.mp4")]
    tree.write_json(file, [bad[0], row, bad[1], row | {"question": ""}, bad[2]])
    outcome = check("mvbench", "--data-root", root)
    assert outcome.exit_code == 1
    found = outcome.of("mvbench")
    assert [line.partition(": row ")[2][0] for line in found["file_problems"]] == ["0", "2"]
    assert all("leaves the data root" in line for line in found["file_problems"])
    assert "question files  19 of 20, 21 questions" in outcome.stdout
    assert [line.partition(": row ")[2][0] for line in found["row_problems"]] == ["3"]
    assert [Path(row["path"]).name for row in found["videos"]["missing"]] == ["gone.mp4"]
    file = root / "Video-MME" / "json" / "long.json"
    tree.write_json(file, [row | {"videoID": "../x"} for row in json.loads(file.read_text())])
    found = check("videomme", "--data-root", root).of("videomme")
    assert len(found["file_problems"]) == 2 and found["row_problems"] == []
    result = CliRunner().invoke(app, ["eval", "mvbench", "--data-root", str(root)])
    assert result.exit_code == 2 and "leaves the data root" in result.stderr


def test_one_id_with_two_answers(root: Path) -> None:
    file = root / "Video-MME" / "json" / "short.json"
    rows = json.loads(file.read_text())
    tree.write_json(file, [rows[0], rows[1], rows[0] | {"answer": "D"}, rows[1]])
    outcome = check("videomme", "--data-root", root)
    assert outcome.exit_code == 1
    one, other = outcome.of("videomme")["row_problems"]
    name = rows[0]["question_id"]
    assert one == f"{file}: row 2: a second question with the id {name!r} and another answer"
    assert other == f"{file}: row 3: a second question with the id {rows[1]['question_id']!r}"


def test_one_question_with_two_answers(root: Path) -> None:
    """Nothing is missing, and a reader of the scores wants to know. A question about other seconds,
    or one with other options, is another question."""
    file = root / "MVBench" / "json" / "action_sequence.json"
    (row,) = json.loads(file.read_text())
    other = next(text for text in tree.OPTIONS if text != row["answer"])
    turned = row | {"candidates": row["candidates"][::-1]}
    rows = [row, turned, row | {"answer": other, "end": 1.75}, turned | {"answer": other}]
    tree.write_json(file, rows)
    outcome = check("mvbench", "--data-root", root)
    assert outcome.exit_code == 0
    (line,) = outcome.of("mvbench")["contradictions"]
    assert line.startswith("action_sequence/0000 and action_sequence/0003 ask 'What is there in")
    assert line in outcome.stdout and repr(other) in line
    last = outcome.stdout.splitlines()[-2]
    assert last.endswith("but questions contradict each other in mvbench")
