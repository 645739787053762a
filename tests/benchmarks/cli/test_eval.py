"""``prunevid eval`` on miniature data sets, with a tiny random model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datas_tree as tree
import pyarrow
import pyarrow.parquet
import pytest
from judge_server import judge_server
from typer.testing import CliRunner

from prunevid_kernels.benchmarks.accuracy.evaluation import write_submission
from prunevid_kernels.benchmarks.accuracy.run_log import read_run
from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.datasets.mvbench import TASKS

pytestmark = [
    pytest.mark.one_version,
    # Nor where nothing is left to ask, nor where no video can be read.
    pytest.mark.filterwarnings("error::prunevid_kernels.adapters.NothingPrunedWarning"),
]


@dataclass(frozen=True)
class Outcome:
    """What ``prunevid eval`` left."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def record(self) -> dict[str, Any]:
        assert self.exit_code == 0, self.stderr
        return json.loads(self.stdout.splitlines()[-1])

    @property
    def error(self) -> str:
        assert (self.exit_code, self.stdout) == (2, ""), self.stderr
        return self.stderr.splitlines()[-1].removeprefix("prunevid: error: ")


@pytest.fixture(scope="module")
def datas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four benchmarks. Tests that change something make a tree of their own."""
    return tree.all_benchmarks(tmp_path_factory.mktemp("DATAS"))


def call(dataset: str, *arguments: str | Path) -> Outcome:
    """``prunevid eval DATASET`` in this process, with few frames and short answers."""
    given = [dataset, "--frames", "2", "--max-new-tokens", "2", *arguments]
    if "full" not in arguments:
        given += ["--config", "layer=1"]
    result = CliRunner().invoke(app, ["eval", *map(str, given)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def evaluate(tmp_path: Path, datas: Path, checkpoint: Path) -> Callable[..., Outcome]:
    """:func:`call` with the tiny model and a folder of this test for its runs."""

    def evaluate(dataset: str, *arguments: str | Path, root: Path = datas) -> Outcome:
        given = ("--model", checkpoint, "--data-root", root, "--out", tmp_path / "runs")
        return call(dataset, *given, *arguments)

    return evaluate


@pytest.fixture(scope="module")
def mvbench(tmp_path_factory: pytest.TempPathFactory, datas: Path, checkpoint: Path) -> Outcome:
    """All of MVBench, unpruned and pruned, once for all tests that look at it."""
    given = ("--model", checkpoint, "--data-root", datas, "--method", "full,prunevid")
    return call("mvbench", *given, "--out", tmp_path_factory.mktemp("runs"))


# ---- one benchmark after the other


def test_mvbench_has_a_row_for_each_method_and_a_score_for_each_task(mvbench) -> None:
    full, pruned = mvbench.record["rows"]
    assert (full["method"], full["published"], full["retained"]) == ("full", 58.0, 1.0)
    assert (pruned["method"], pruned["published"], pruned["options"]) == (
        "prunevid",
        57.5,
        {"layer": 1},
    )
    assert 0 < pruned["retained"] < 0.4 and 0 < pruned["flops_ratio"]["paper"] < 1
    for row in (full, pruned):
        assert list(row["tasks"]) == sorted(TASKS)
        assert (row["questions"], row["skipped"]) == (20, 0)
        assert row["interval"][0] <= row["score"] <= row["interval"][1]
        assert row["score"] == pytest.approx(sum(t["score"] for t in row["tasks"].values()) / 20)
    (comparison,) = mvbench.record["comparisons"]
    assert comparison["second"] == "prunevid (layer=1)" and 0 < comparison["p_value"] <= 1
    assert "| MVBench |" in mvbench.stdout and "| episodic_reasoning |" in mvbench.stdout


def test_the_reader_is_chosen_and_recorded(evaluate: Callable[..., Outcome]) -> None:
    """As a setting of the run, with each question, and counted in its row."""
    outcome = evaluate("vcgbench", "--limit", "1", "--reader", "pyav")
    (row,), (folder,) = outcome.record["rows"], outcome.record["runs"]
    run = read_run(Path(folder))
    assert run.settings["reader"] == "pyav"
    assert {record.reader for record in run.answered} == {"pyav"}
    assert row["readers"] == {"pyav": len(run.answered)}
    other = evaluate("vcgbench", "--limit", "1", "--resume")
    assert "was started with reader = 'pyav', not 'auto'" in other.error
    assert "--reader must be one of" in evaluate("vcgbench", "--reader", "x").error


def test_a_line_says_everything_about_its_question(mvbench) -> None:
    run = read_run(Path(mvbench.record["runs"][1]))
    assert set(run.records) == {f"{task}/0000" for task in TASKS}
    for record in run.records.values():
        assert record.tokens_before == 2 * 16
        assert record.tokens_before > record.tokens_merged > record.tokens_kept > 0
        assert record.flops["exact"]["method"] < record.flops["exact"]["unpruned"]
        assert set(record.seconds) == {"read", "encode", "generate"}
        assert (record.gold, record.correct["strict"]) == ("A", record.predictions["strict"] == "A")
    assert run.settings["generation"] == {"max_new_tokens": 2}


def test_videomme_from_parquet_to_table(evaluate, tmp_path: Path, datas: Path) -> None:
    parquet, root = tmp_path / "official.parquet", tmp_path / "DATAS"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(tree.videomme_rows()), parquet)
    arguments = ["eval", "prepare", "videomme", str(parquet), "--data-root", str(root)]
    prepared = CliRunner().invoke(app, arguments)
    assert json.loads(prepared.stdout.splitlines()[-1])["questions"] == 6
    (root / "Video-MME" / "data").symlink_to(datas / "Video-MME" / "data")
    (row,) = evaluate("videomme", root=root).record["rows"]
    assert list(row["tasks"]) == ["long", "medium", "short"]
    assert (row["questions"], row["published"]) == (6, 58.6)


def test_egoschema_measures_the_public_answers(evaluate) -> None:
    (row,) = evaluate("egoschema", "--method", "full").record["rows"]
    assert (row["questions"], list(row["tasks"]), row["published"]) == (2, ["subset"], 62.0)


def test_egoschema_export_has_every_question(evaluate, tmp_path: Path) -> None:
    file = tmp_path / "submission.csv"
    outcome = evaluate("egoschema", "--export", file)
    (row,) = outcome.record["rows"]
    assert (row["questions"], list(row["tasks"])) == (2, ["subset"]), "hidden answers do not count"
    header, *lines = file.read_text().splitlines()
    assert header == "q_uid,answer"
    submitted = {name: int(answer) for name, answer in (line.split(",") for line in lines)}
    run = read_run(Path(outcome.record["runs"][0]))
    letters = {name: record.predictions["strict"] for name, record in run.records.items()}
    assert submitted == {n: "ABCDE".index(x) if x else 0 for n, x in letters.items()}
    assert sorted(submitted) == ["uid-0", "uid-1", "uid-2", "uid-3"]
    unread = sum(letter is None for letter in letters.values())
    assert unread and f"{unread} unread answers stand as option 0" in outcome.stderr
    as_json = tmp_path / "submission.json"
    assert write_submission(run, "strict", as_json) == unread
    assert json.loads(as_json.read_text()) == submitted


def test_vcgbench_is_predicted_first_and_judged_later(
    evaluate, datas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    outcome = evaluate("vcgbench")
    (row,) = outcome.record["rows"]
    assert (row["score"], row["questions"], row["tasks"]) == (None, 0, {})
    with judge_server() as server:
        arguments = ["eval", "judge", *outcome.record["runs"], "--data-root", datas]
        arguments += ["--judge-url", server.url, "--judge-model", "stand-in"]
        judged = CliRunner().invoke(app, list(map(str, arguments)))
        (row,) = json.loads(judged.stdout.splitlines()[-1])["rows"]
        assert (row["score"], row["published"], row["questions"]) == (3.0, 3.24, 10)
        sent = len(server.requests)
        same = ["--resume", "--judge-url", server.url, "--judge-model", "stand-in"]
        (row,) = evaluate("vcgbench", *same).record["rows"]
        assert (row["score"], len(server.requests)) == (3.0, sent), "nothing is asked twice"


def test_generated_clips_need_no_data(evaluate, tmp_path: Path) -> None:
    (row,) = evaluate("synthetic", "--limit", "1", root=tmp_path / "none").record["rows"]
    assert (row["questions"], len(row["tasks"]), row["published"]) == (10, 10, None)


# ---- sweeps, resuming, reading answers in another way


def test_a_sweep_has_a_row_for_each_value(evaluate) -> None:
    sweep = ("--sweep", "alpha=0.2,0.8", "--sweep", "tau=0.9")
    rows = evaluate("egoschema", "--method", "full,prunevid", *sweep).record["rows"]
    assert [(row["method"], row["options"]) for row in rows] == [
        ("full", {}),
        ("prunevid", {"layer": 1, "keep_ratio": 0.2}),
        ("prunevid", {"layer": 1, "keep_ratio": 0.8}),
        ("prunevid", {"layer": 1, "tau": 0.9}),
    ]
    assert rows[1]["retained"] < rows[2]["retained"]


def test_resuming_asks_what_is_left_and_another_extractor_nothing(evaluate) -> None:
    first = evaluate("videomme")
    file = Path(first.record["runs"][0]) / "samples.0.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:4]) + lines[4][:40])  # as a killed process leaves it
    resumed = evaluate("videomme", "--resume")
    measured = ("score", "interval", "tasks", "questions", "flops_ratio", "retained")
    for name in measured:
        assert resumed.record["rows"][0][name] == first.record["rows"][0][name]
    again = file.read_bytes().splitlines(keepends=True)
    assert (again[:4], len(again)) == (lines[:4], 6)
    released = evaluate("videomme", "--resume", "--extractor", "released")
    assert released.record["extractor"] == "released"
    assert file.read_bytes().splitlines(keepends=True) == again


def test_missing_and_unreadable_videos_are_reported_skipped_and_counted(
    evaluate, tmp_path: Path, datas: Path
) -> None:
    root = tree.videomme_tree(tmp_path / "DATAS", datas / "clip.mp4")
    videos = root / "Video-MME" / "data"
    (videos / "vid-short.mp4").unlink()
    (videos / "vid-long.mp4").write_bytes(b"not a video")
    outcome = evaluate("videomme", root=root)
    (row,) = outcome.record["rows"]
    assert (row["questions"], row["skipped"], list(row["tasks"])) == (2, 4, ["medium"])
    assert "vid-short.mp4: no such file" in outcome.stderr
    assert "vid-long.mp4: not a video file" in outcome.stderr
    assert "4 questions were skipped" in outcome.stderr
    assert "`prunevid eval check videomme --read`" in outcome.stderr
    tree.videomme_tree(root, datas / "clip.mp4")
    (row,) = evaluate("videomme", "--resume", root=root).record["rows"]
    assert (row["questions"], row["skipped"]) == (6, 0), "found again on resuming"


def test_a_question_after_the_end_of_its_video_is_skipped(
    evaluate, tmp_path: Path, datas: Path
) -> None:
    root = tree.mvbench_tree(tmp_path / "DATAS", datas / "clip.mp4")
    file = root / "MVBench" / "json" / "action_sequence.json"
    row = json.loads(file.read_text())[0]
    file.write_text(json.dumps([row | {"start": 100, "end": 101}]))
    outcome = evaluate("mvbench", "--method", "full", root=root)
    assert outcome.record["rows"][0]["skipped"] == 1
    assert "the bound must be (start, end) in seconds inside the video" in outcome.stderr


def test_no_video_at_all(evaluate, tmp_path: Path, datas: Path) -> None:
    root = tree.egoschema_tree(tmp_path / "DATAS", datas / "clip.mp4")
    for video in (root / "ego_schema" / "videos").iterdir():
        video.unlink()
    (row,) = evaluate("egoschema", root=root).record["rows"]
    assert (row["score"], row["interval"], row["skipped"]) == (None, None, 2)


# ---- what cannot be evaluated


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--method", "prunevit"), "--method: unknown method 'prunevit'; known: "),
        (("--method", ""), "--method: unknown method ''"),
        (("--config", "keep=0.3"), "option 'keep' belongs to none of prunevid; theirs: "),
        (("--config", "tau=2"), "--method prunevid: tau must be in (0, 1], got 2"),
        (("--sweep", "alpha"), "--sweep must be like 'alpha=0.2,0.4;tau=0.8', got 'alpha'"),
        (("--sweep", "alpha=0.2,"), "--sweep must be like"),
        (("--sweep", "alpha=0.2;keep_ratio=0.3"), "--sweep: keep_ratio comes twice"),
        (("--sweep", "tau=0.8,1.5"), "--method prunevid: tau must be in (0, 1], got 1.5"),
        (("--limit", "0"), "--limit must be an integer >= 1, got 0"),
        (("--frames", "-1"), "--frames must be an integer >= 1, got -1"),
        (("--extractor", "loose"), "--extractor must be one of strict, released, got 'loose'"),
        (("--judge-url", "http://x"), "--judge-url and --judge-model belong to vcgbench"),
        (("--export", "x.json"), "--export belongs to egoschema"),
        (("--model", "gone"), "gone: no such model folder"),
        (("--data-root", "gone"), "action_sequence.json: No such file"),
        (("--device", "abacus"), "--device: 'abacus' cannot be used"),
    ],
    ids=lambda value: "-".join(value).strip("-") if isinstance(value, tuple) else "",
)
def test_bad_options(evaluate, tmp_path: Path, arguments, expected: str) -> None:
    assert expected in evaluate("mvbench", *arguments).error
    assert not (tmp_path / "runs").exists(), "nothing was begun"


def test_judge_options_are_needed_together(evaluate) -> None:
    assert "needed together" in evaluate("vcgbench", "--judge-model", "x").error


def test_a_run_is_neither_overwritten_nor_mixed(evaluate) -> None:
    evaluate("egoschema")
    assert "holds a run; go on with it (--resume)" in evaluate("egoschema").error
    mixed = evaluate("egoschema", "--resume", "--frames", "3").error
    assert "was started with frames = 2, not 3" in mixed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("mvbench", "x"), "prepare knows videomme and egoschema, not 'mvbench'"),
        (("egoschema", "gone"), "questions.json: No such file"),
        (("videomme", "gone.parquet"), "gone.parquet: not a readable parquet file"),
    ],
    ids=["dataset", "no-folder", "no-file"],
)
def test_prepare_with_bad_input(tmp_path: Path, arguments, expected: str) -> None:
    given = ["eval", "prepare", *arguments, "--data-root", str(tmp_path / "DATAS")]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2
    assert expected in result.stderr and len(result.stderr.splitlines()) == 1
