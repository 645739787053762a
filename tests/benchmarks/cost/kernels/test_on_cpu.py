"""``prunevid bench cpu``: processor time in turns, checked rows, one thread."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from doubling import BASELINE, check_doubled, doubling
from typer.testing import CliRunner

from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.cost.harness import Variant
from prunevid_kernels.benchmarks.cost.kernels import on_cpu

SMALL = {"models": ("st-llm-7b",), "frames": (2,), "dtypes": ("fp32",), "rounds": 2}


def test_variants_take_turns():
    order = []

    def variant(name, **values):
        def run(x):
            order.append(name)
            return x + x

        return Variant(name, run, check_doubled, **values)

    benchmark = doubling(variant("a"), variant("b", is_baseline=True))
    rows = list(on_cpu.measure_interleaved(benchmark, rounds=3))
    assert order == ["b", "a"] * 4  # checked once, timed three times
    assert [row.variant for row in rows] == ["b", "a"]
    assert rows[0].speedup == 1.0 and rows[0].rounds == 3


def test_processor_time_is_what_is_measured(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(on_cpu.time, "process_time", lambda: next(clock) ** 2 / 1000)
    slow = replace(BASELINE, name="other", is_baseline=False)
    rows = list(on_cpu.measure_interleaved(doubling(BASELINE, slow), rounds=2))
    # The clock's readings are 0, 1, 4, 9, 16, ...: calls of 1, 5, 9 and 13 ms in turns.
    assert [row.cpu_ms.median for row in rows] == pytest.approx([5.0, 9.0])
    assert rows[1].speedup == pytest.approx(5 / 9)


def test_a_wrong_result_has_a_row_and_no_time():
    wrong = Variant("wrong", lambda x: x, check_doubled, note="what it is")
    rows = list(on_cpu.measure_interleaved(doubling(BASELINE, wrong), rounds=2))
    assert (rows[1].status, rows[1].reason) == ("incorrect", "not doubled")
    assert rows[1].cpu_ms is None and rows[1].speedup is None
    assert rows[0].status == "ok" and rows[0].cpu_ms is not None


def test_results_are_stamped_and_written(tmp_path):
    threads = torch.get_num_threads()
    lines: list[str] = []
    torch.set_num_threads(2)
    try:
        results = on_cpu.bench_cpu(**SMALL, out=tmp_path, progress=lines.append)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert json.loads((tmp_path / "cpu.json").read_text()) == results
    environment = results["environment"]
    assert environment["cpu_threads"] == 1 and environment["device"] == "cpu"
    assert environment["cpu"] and environment["packages"]["torch"] == torch.__version__
    names = [row["variant"] for row in results["rows"]]
    assert names[0] == "eager loops" and len(lines) == len(names)
    assert {"EVS, as in vLLM", "VidCom2, as in vLLM", "prunevid_kernels, reference"} < set(names)
    assert all(row["status"] == "ok" and row["cpu_ms"] for row in results["rows"])
    assert not on_cpu.has_failures(results)
    table = (tmp_path / "cpu.md").read_text().splitlines()
    assert table[0].startswith(f"One thread of {environment['cpu']}, processor time, ")
    assert len(table) == 4 + len(names)
    assert all(line.count("|") == 7 for line in table[2:])


def test_a_wrong_result_is_a_failure():
    assert on_cpu.has_failures({"rows": [{"status": "ok"}, {"status": "incorrect"}]})


def test_command_prints_the_table_and_json_last(tmp_path):
    options = ["--model", "st-llm-7b", "--frames", "2", "--dtype", "fp32", "--stage", "compact"]
    command = ["bench", "cpu", *options, "--rounds", "2", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("One thread of ")
    summary = json.loads(lines[-1])
    assert summary["kind"] == "cpu" and summary["results"] == str(tmp_path / "cpu.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--model", "gpt"], "model must be one of llava-onevision-7b", id="model"),
        pytest.param(["--stage", "sort"], "stage must be one of merge", id="stage"),
        pytest.param(["--rounds", "1"], "rounds must be at least 2, got 1", id="rounds"),
    ],
)
def test_command_refuses_unknown_names(tmp_path, options, message):
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["bench", "cpu", "--out", str(out), *options])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"prunevid: error: {message}")
    assert not out.exists()
