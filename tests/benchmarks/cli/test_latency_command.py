"""``prunevid bench latency``: files, tables, last line; one line for what cannot be measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.cost.harness import IncorrectResultError
from prunevid_kernels.benchmarks.cost.latency import rows as latency
from prunevid_kernels.benchmarks.cost.latency.bench import NO_GPU, write_results
from prunevid_kernels.benchmarks.cost.latency.stages import STAGES
from prunevid_kernels.benchmarks.cost.latency.tables import STAGE_TITLES

pytestmark = pytest.mark.one_version

SMALL = ("--model", "llava-onevision-7b", "--frames", "4", "--output-tokens", "2", "--no-compile")


def bench(out: Path, *options: str):
    return CliRunner().invoke(app, ["bench", "latency", "--out", str(out), *options])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory):
    """(outcome, folder) of one run with two methods."""
    folder = tmp_path_factory.mktemp("latency")
    return bench(folder, *SMALL, "--method", "prunevid", "--method", "fastv"), folder


def test_last_line_names_the_results(measured) -> None:
    outcome, folder = measured
    assert outcome.exit_code == 0, outcome.output
    last = json.loads(outcome.stdout.splitlines()[-1])
    assert last["results"] == str(folder / "latency.json") and last["kind"] == "latency"
    assert not last["is_gpu"] and last["environment"]["device"] == "cpu"


def test_results_hold_every_row_with_its_settings(measured) -> None:
    results = json.loads((measured[1] / "latency.json").read_text())
    assert [row["method"] for row in results["rows"]] == ["full", "prunevid", "fastv"]
    assert all(row["status"] == "ok" and row["output_tokens"] == 2 for row in results["rows"])
    assert all(set(row["stages"]) == set(STAGES) for row in results["rows"])
    assert all(len(row["flops"]) == 3 for row in results["rows"])
    assert results["settings"]["output_tokens"] == 2
    merges = {row["variant"]: row["status"] for row in results["merge_rows"]}
    assert {"prunevid_kernels, reference", "eager loops", "vectorised eager"} < {*merges}
    assert set(merges.values()) == {"ok"}


def test_tables_say_what_was_measured_and_where(measured) -> None:
    outcome, folder = measured
    text = (folder / "latency.md").read_text()
    assert text in outcome.stdout
    assert text.startswith(f"# Latency: CPU\n\n{NO_GPU}")
    assert "### llava-onevision-7b, tiny stand-in: 4 frames, batch 1" in text
    assert "generated video features in place of the projector's output; float32, sdpa" in text
    assert "### The merge alone" in text
    for title in STAGE_TITLES.values():
        assert f" {title} " in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| full |")}
    assert widths == {14, 8}
    assert "first token after" in outcome.stderr


def test_a_wrong_result_is_shown_and_fails_the_command(tmp_path, monkeypatch) -> None:
    def wrong(subject, prompts, method, options):
        raise IncorrectResultError(f"{method} | wrong")

    monkeypatch.setattr(latency, "check_method", wrong)
    outcome = bench(tmp_path, *SMALL, "--method", "prunevid")
    assert outcome.exit_code == 1
    rows = json.loads((tmp_path / "latency.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["incorrect", "incorrect"]
    assert all(row["first_token_ms"] is None and row["stages"] == {} for row in rows)
    assert "**incorrect** prunevid \\| wrong |" in (tmp_path / "latency.md").read_text()


def test_results_are_on_disk_after_every_row(tmp_path, monkeypatch) -> None:
    measure = latency._measure

    def stopped(row, *arguments):
        if row.method == "prunevid":
            raise KeyboardInterrupt
        measure(row, *arguments)

    monkeypatch.setattr(latency, "_measure", stopped)
    assert bench(tmp_path, *SMALL, "--method", "prunevid").exit_code == 130
    rows = json.loads((tmp_path / "latency.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["full"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--model", "gpt"], "--model must be one of llava-onevision-7b, ", id="model"),
        pytest.param(["--method", "x"], "method must be one of full, prunevid", id="method"),
        pytest.param(["--dtype", "int8"], "dtype must be one of bf16", id="dtype"),
        pytest.param(["--frames", "0"], "frames must be at least 1, got 0", id="frames"),
        pytest.param(["--batch", "0"], "batch must be at least 1, got 0", id="batch"),
        pytest.param(["--output-tokens", "1"], "output-tokens must be at least 2", id="tokens"),
    ],
)
def test_what_cannot_be_measured_ends_in_one_line(tmp_path, options, message) -> None:
    outcome = bench(tmp_path / "out", *options)
    assert outcome.exit_code == 2
    assert outcome.stderr.splitlines()[-1].startswith(f"prunevid: error: {message}")
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_ends_in_one_line(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    outcome = bench(tmp_path / "file", *SMALL)
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("prunevid: error: --out: ")


def test_a_gpu_is_named(tmp_path) -> None:
    environment = {"gpu": {"name": "GPU A"}}
    results = {"is_gpu": True, "environment": environment, "rows": [], "merge_rows": []}
    write_results(results, tmp_path)
    text = (tmp_path / "latency.md").read_text()
    assert text.startswith("# Latency: GPU A\n") and NO_GPU not in text
