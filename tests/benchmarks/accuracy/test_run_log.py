"""The folder of a run: nothing lost, nothing doubled, nothing mixed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunevid_kernels.benchmarks.accuracy.run_log import (
    Record,
    RunLogError,
    append_lines,
    check_settings,
    open_run,
    read_run,
    samples_file,
)

SETTINGS = {"benchmark": "mvbench", "frames": 16, "options": {"layer": 2}, "generation": {}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    open_run(tmp_path / "run", SETTINGS, {"commit": "abc"}, resume=False)
    return tmp_path / "run"


def write(folder: Path, rank: int, *records: Record) -> None:
    with append_lines(samples_file(folder, rank)) as log:
        for record in records:
            log.write(record)


def test_what_was_written_is_read(folder: Path) -> None:
    record = Record("a/1", "a", "é", "B", {"strict": None}, {"strict": False}, 8, 4, 2, 9)
    write(folder, 0, record)
    run = read_run(folder)
    assert run.records == {"a/1": record}
    assert (run.settings, run.environment) == (SETTINGS, {"commit": "abc"})


def test_a_line_is_on_disk_before_the_next_question(folder: Path) -> None:
    with append_lines(samples_file(folder, 0)) as log:
        log.write(Record("a", "t", "yes"))
        assert list(read_run(folder).records) == ["a"]


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_half_a_line_is_no_line_and_the_next_writer_removes_it(folder: Path, cut: int) -> None:
    write(folder, 0, Record("a", "t", "yes"), Record("b", "t", "no"))
    file = samples_file(folder, 0)
    file.write_bytes(file.read_bytes()[:-cut])
    assert list(read_run(folder).records) == ["a"]
    write(folder, 0, Record("b", "t", "again"), Record("c", "t", "no"))
    assert [(r.id, r.response) for r in read_run(folder).answered] == [
        ("a", "yes"),
        ("b", "again"),
        ("c", "no"),
    ]
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_files_of_several_processes_are_one_run(folder: Path) -> None:
    write(folder, 0, Record("a", "t", "1"))
    write(folder, 3, Record("b", "t", "2"))
    write(folder, 1, Record("a", "t", "1"))
    assert {name: r.response for name, r in read_run(folder).records.items()} == {
        "a": "1",
        "b": "2",
    }


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["answer-later", "answer-earlier"])
def test_an_answer_counts_before_a_missing_video(folder: Path, order: tuple[int, int]) -> None:
    write(folder, order[0], Record("a", "t", skipped="gone.mp4: no such file"))
    write(folder, order[1], Record("a", "t", "yes"))
    run = read_run(folder)
    assert [record.response for record in run.answered] == ["yes"]
    assert run.skipped == []


def test_a_damaged_line_is_an_error_with_its_place(folder: Path) -> None:
    write(folder, 0, Record("a", "t", "yes"))
    with samples_file(folder, 0).open("a") as file:
        file.write('{"id": "b"\n{"id": "c", "task": "t"}\n')
    with pytest.raises(RunLogError, match=r"samples\.0\.jsonl:2: not a line of a run"):
        read_run(folder)


def test_a_run_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(RunLogError, match="holds a run; go on with it"):
        open_run(folder, SETTINGS, {}, resume=False)
    open_run(folder, SETTINGS, {"commit": "later"}, resume=True)
    assert read_run(folder).environment == {"commit": "abc"}, "the beginning is what counts"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"frames": 8}, "started with frames = 16, not 8", id="value"),
        pytest.param({"options": {"layer": 3}}, "options = {'layer': 2}, not", id="nested"),
        pytest.param({"limit": 5}, "limit = None, not 5", id="new"),
    ],
)
def test_other_settings_are_refused(folder: Path, change: dict, expected: str) -> None:
    with pytest.raises(RunLogError, match=expected):
        open_run(folder, SETTINGS | change, {}, resume=True)
    with pytest.raises(RunLogError, match=expected):
        check_settings(folder, SETTINGS | change)


@pytest.mark.parametrize("content", ["", "[]", '{"settings": 3, "environment": {}}'])
def test_settings_that_are_none(folder: Path, content: str) -> None:
    (folder / "settings.json").write_text(content)
    with pytest.raises(RunLogError, match="not the settings of a run"):
        read_run(folder)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunLogError, match="No such file"):
        read_run(tmp_path)


def test_two_writers_do_not_meet_in_a_file(folder: Path) -> None:
    with append_lines(samples_file(folder, 0)) as log:
        log.write(Record("a", "t", "yes"))
        with pytest.raises(RunLogError, match="samples.0.jsonl: another process is writing to it"):
            with append_lines(samples_file(folder, 0)):
                pytest.fail("two writers")
        write(folder, 1, Record("b", "t", "no"))
    write(folder, 0, Record("c", "t", "yes"))
    assert list(read_run(folder).records) == ["a", "c", "b"]


@pytest.mark.parametrize("resume", [True, False])
def test_answers_whose_settings_are_gone_are_not_adopted(folder: Path, resume: bool) -> None:
    write(folder, 0, Record("a", "t", "yes"))
    (folder / "settings.json").unlink()
    with pytest.raises(RunLogError, match="has samples.0.jsonl but no settings.json"):
        open_run(folder, SETTINGS, {}, resume=resume)


@pytest.mark.parametrize("name", ["layers_ratio", "cached_ratio"])
def test_a_share_above_one_is_not_believed(folder: Path, name: str) -> None:
    write(folder, 0, Record("a", "t", "yes", **{name: 1.0}))  # type: ignore[arg-type]
    assert getattr(read_run(folder).records["a"], name) == 1.0
    write(folder, 0, Record("b", "t", "yes", **{name: 1.25}))  # type: ignore[arg-type]
    with pytest.raises(RunLogError, match=rf"record.{name} must be a share of at most 1, got 1.25"):
        read_run(folder)
