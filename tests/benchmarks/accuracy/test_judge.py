"""Judging VCG-Bench answers: what is asked, what counts, and what happens when it goes wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datas_tree as tree
import pytest
from judge_server import JudgeServer, judge_server

from prunevid_kernels.benchmarks.accuracy.judge import JudgeError, judge, requests
from prunevid_kernels.benchmarks.accuracy.run_log import (
    Record,
    append_lines,
    open_run,
    read_run,
    samples_file,
)
from prunevid_kernels.benchmarks.datasets.sample import Sample
from prunevid_kernels.benchmarks.datasets.vcgbench import load_vcgbench
from prunevid_kernels.benchmarks.report.summary import summarise

SETTINGS = {
    "benchmark": "vcgbench",
    "model": "m",
    "checkpoint": "MODELS/m",
    "family": "pllava",
    "method": "prunevid",
    "options": {},
}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    clip = tree.write_clip(tmp_path / "clip.mp4")
    return load_vcgbench(tree.vcgbench_tree(tmp_path / "DATAS", clip)).samples


@pytest.fixture
def folder(tmp_path: Path, samples: list[Sample]) -> Path:
    """A run that has answered everything."""
    folder = tmp_path / "run"
    open_run(folder, SETTINGS, {}, resume=False)
    with append_lines(samples_file(folder, 0)) as log:
        for sample in samples:
            log.write(Record(sample.id, sample.task, f"Answer to {sample.question}"))
    return folder


class Problems(list[str]):
    """Collects what a progress bar would show."""

    @contextmanager
    def progress(self, label: str, total: int, done: int) -> Iterator[object]:
        self.counts = (total, done)
        yield lambda problem: self.append(problem) if problem is not None else None


def run_judge(
    folder: Path, samples: list[Sample], server: JudgeServer, model: str = "j"
) -> Problems:
    problems = Problems()
    judge(read_run(folder), samples, server.url, model, problems.progress)
    return problems


def test_every_answer_is_judged_in_the_dimensions_of_its_file(folder, samples) -> None:
    with judge_server() as server:
        assert run_judge(folder, samples, server) == []
    found = read_run(folder).judgements
    assert Counter(item.dimension for item in found.values()) == dict.fromkeys(
        ("TU", "CU", "CO", "DO", "CI"), 2
    )
    assert {request["temperature"] for request in server.requests} == {0}
    assert {request["path"] for request in server.requests} == {"/v1/chat/completions"}
    assert {request["model"] for request in server.requests} == {"j"}


def test_consistency_shows_both_questions_each_with_its_own_answer(samples) -> None:
    """A known fault of another evaluation: the two were swapped after inference."""
    records = {sample.id: Record(sample.id, sample.task, f"={sample.id}=") for sample in samples}
    pair = next(item for item in requests(samples, records) if item.id == "CO/consistency/0001")
    lines = pair.messages()[1]["content"].splitlines()
    assert lines == [
        "Question 1: Q1 of consistency 1?",
        "Question 2: Q2 of consistency 1?",
        "Reference answer: Truth of consistency 1.",
        "Answer 1: =consistency/0001/1=",
        "Answer 2: =consistency/0001/2=",
    ]


def test_unanswered_questions_and_half_pairs_are_not_judged(samples) -> None:
    answered = [sample for sample in samples if sample.id != "consistency/0000/2"]
    records = {s.id: Record(s.id, s.task, "words") for s in answered}
    records["generic/0000"] = Record("generic/0000", "generic", skipped="no such file")
    found = {request.id for request in requests(samples, records)}
    assert not found & {"CO/consistency/0000", "CI/generic/0000"}
    assert {"CO/consistency/0001", "CI/generic/0001", "TU/temporal/0000"} <= found


def test_the_average_is_that_of_the_five_dimensions(folder, samples) -> None:
    """Not of all scores: three dimensions share a file, one has pairs."""
    scores = {"temporal und": 1, "contextual": 2, "consistency": 3, "detail": 4, "correctness": 5}

    def by_criterion(request, times):
        system = request["messages"][0]["content"]
        return 200, str({"score": next(v for k, v in scores.items() if f"Grade {k}" in system)})

    with judge_server(by_criterion) as server:
        run_judge(folder, samples, server)
    row = summarise(read_run(folder), "strict")
    assert {name: task.score for name, task in row.tasks.items()} == {
        "TU": 1,
        "CU": 2,
        "CO": 3,
        "DO": 4,
        "CI": 5,
    }
    assert list(row.tasks) == ["TU", "CU", "CO", "DO", "CI"], "in the table's order"
    assert (row.score, row.interval, row.published) == (3.0, (3.0, 3.0), 2.98)


def test_a_busy_server_is_asked_again(folder, samples) -> None:
    def busy_once(request, times):
        return (429, "busy") if times == 0 else (200, '{"score": 4.5}')

    with judge_server(busy_once) as server:
        assert run_judge(folder, samples, server) == []
    assert len(server.requests) == 20
    assert {item.score for item in read_run(folder).judgements.values()} == {4.5}


def test_replies_without_a_score_are_reported_and_asked_again_next_time(folder, samples) -> None:
    def sulky(request, times):
        first = "consistency" in request["messages"][0]["content"]
        return 200, "I would rather not." if first else '{"score": 2}'

    with judge_server(sulky) as server:
        problems = run_judge(folder, samples, server)
    assert len(problems) == 2
    assert problems[0].startswith("CO/consistency/0000: the judge gave no score from 0 to 5: 'I w")
    assert summarise(read_run(folder), "strict").unjudged == 2
    with judge_server() as server:
        again = run_judge(folder, samples, server)
    assert (again, again.counts, len(server.requests)) == ([], (10, 8), 2)
    assert summarise(read_run(folder), "strict").unjudged == 0


def test_an_endpoint_that_refuses_stops_and_keeps_what_it_scored(folder, samples) -> None:
    def closing(request, times):
        done = "temporal" in request["messages"][1]["content"]
        return (200, '{"score": 1}') if done else (401, "no key")

    with judge_server(closing) as server, pytest.raises(JudgeError, match="--judge-url: .*401"):
        run_judge(folder, samples, server)
    assert [item.dimension for item in read_run(folder).judgements.values()] == ["TU", "TU"]


def test_another_judge_does_not_add_to_the_scores(folder, samples) -> None:
    with judge_server() as server:
        run_judge(folder, samples, server, "first")
        with pytest.raises(JudgeError, match="was judged by 'first', not 'second'"):
            run_judge(folder, samples, server, "second")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<html>welcome</html>", id="html"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"choices": [{"mess', id="cut"),
        pytest.param(b'{"error": "none"}', id="no-choices"),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_an_endpoint_that_is_no_judge_is_named_in_one_line(folder, samples, body, kind) -> None:
    with judge_server() as server:
        server.raw = (kind, body)
        with pytest.raises(JudgeError, match=f"--judge-url: {server.url}: ") as error:
            run_judge(folder, samples, server)
    assert "\n" not in str(error.value)
    assert read_run(folder).judgements == {}


@pytest.mark.parametrize(
    "message",
    [None, {}, {"content": None}, {"content": []}, {"content": None, "reasoning_content": "4"}],
    ids=["null", "empty", "null-content", "empty-content", "thoughts-only"],
)
def test_a_reply_without_words_has_no_score_and_stops_nothing(folder, samples, message) -> None:
    with judge_server() as server:
        server.raw = ("application/json", json.dumps({"choices": [{"message": message}]}).encode())
        problems = run_judge(folder, samples, server)
    assert len(problems) == 10 and all("gave no score" in problem for problem in problems)


def test_a_reply_in_parts_is_read_whole(folder, samples) -> None:
    parts = [{"type": "text", "text": '{"score"'}, {"type": "text", "text": ": 4}"}]
    with judge_server() as server:
        content = {"choices": [{"message": {"content": parts}}]}
        server.raw = ("application/json", json.dumps(content).encode())
        assert run_judge(folder, samples, server) == []


def test_a_judge_that_refuses_a_temperature_is_asked_without(folder, samples) -> None:
    def own_temperature(request, times):
        refused = "Unsupported value: 'temperature' does not support 0 with this model."
        return (400, refused) if "temperature" in request else (200, '{"score": 2}')

    with judge_server(own_temperature) as server:
        assert run_judge(folder, samples, server) == []
    assert {item.score for item in read_run(folder).judgements.values()} == {2.0}


def test_another_bad_request_stops(folder, samples) -> None:
    with judge_server(lambda request, times: (400, "no such model")) as server:
        with pytest.raises(JudgeError, match="no such model"):
            run_judge(folder, samples, server)
