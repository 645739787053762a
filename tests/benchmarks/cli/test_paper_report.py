"""``prunevid report``: the table says what the runs say, and what is doubtful is said beside it."""

from __future__ import annotations

import json
import re
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from prunevid_kernels.benchmarks.accuracy.run_log import (
    JUDGEMENTS,
    Judgement,
    Record,
    append_lines,
    open_run,
    samples_file,
)
from prunevid_kernels.benchmarks.cli.report import report_command
from prunevid_kernels.benchmarks.cost.latency.stages import STAGES
from prunevid_kernels.benchmarks.report.table import build_table

pytestmark = pytest.mark.one_version

ENVIRONMENT = {
    "date": "2026-01-02T00:00:00",
    "commit": "0123456789abcdef",
    "packages": {"torch": "2.0"},
    "device": "cuda",
    "gpu": {"name": "GPU A"},
}
QUESTIONS = 40  # of each of two tasks


def write_run(
    folder: Path,
    method: str = "prunevid",
    *,
    right: int = 30,
    flops: float = 0.25,
    environment: dict[str, Any] | None = None,
    count: int = QUESTIONS,
    skip: int = 0,
    **changes: Any,
) -> Path:
    """A run whose first ``right`` questions of each task are right."""
    settings = {
        "benchmark": "mvbench",
        "model": "pllava-7b",
        "family": "pllava",
        "checkpoint": "/models/pllava-7b",
        "random_weights": False,
        "method": method,
        "options": {},
        "questions": 2 * QUESTIONS,
        "questions_sha256": "abc",
        **changes,
    }
    open_run(folder, settings, environment or ENVIRONMENT, resume=False)
    with append_lines(samples_file(folder, 0)) as log:
        for task in ("action", "count"):
            for index in range(count):
                if index < skip:
                    log.write(Record(f"{task}/{index}", task, gold="A", skipped="clip.mp4: gone"))
                    continue
                judged = settings["benchmark"] == "vcgbench"
                marks = {} if judged else {name: index < right for name in ("strict", "released")}
                log.write(
                    Record(
                        id=f"{task}/{index}",
                        task=task,
                        response="A",
                        gold="A",
                        predictions=dict.fromkeys(marks, "A"),
                        correct=marks,
                        tokens_before=1000,
                        tokens_merged=400,
                        tokens_kept=160,
                        tokens_text=40,
                        cached_ratio=0.2,
                        flops={"paper": {"method": 8 * flops, "unpruned": 8.0}},
                        seconds={"generate": 0.5},
                    )
                )
    if settings["benchmark"] == "vcgbench":
        with append_lines(folder / JUDGEMENTS) as log:
            for dimension, score in zip(("CI", "DO", "CU", "TU", "CO"), range(1, 6), strict=True):
                log.write(Judgement(f"{dimension}/generic/1", dimension, float(score), "fine"))
                log.write(Judgement(f"{dimension}/generic/2", dimension, float(score), "fine"))
    return folder


def latency_row(method: str, **changes: Any) -> dict[str, Any]:
    times = {"median": 10.0, "p10": 9.0, "p90": 12.0}
    return {
        "model": "pllava-7b",
        "method": method,
        "options": {},
        "features": "generated",
        "device": "cuda",
        "dtype": "bfloat16",
        "attention": "sdpa",
        "frames": 16,
        "batch": 1,
        "output_tokens": 128,
        "status": "ok",
        "reason": None,
        "text_tokens": 40,
        "visual_tokens": 1000,
        "merged_tokens": [400],
        "kept_tokens": [160],
        "runs": 50,
        "cold_ms": 99.0,
        "read_ms": times,
        "stages": dict.fromkeys(STAGES, times),
        "first_token_ms": {"median": 60.0, "p10": 54.0, "p90": 72.0},
        "ms_per_token": times,
        "tokens_per_s": 77.0,
        "peak_memory_bytes": 17 * 10**9,
        "kv_bytes": 10**7,
        "flops": {"paper": 1e12},
        "speedup": 1.5,
        **changes,
    }


def write_latency(path: Path, *rows: dict[str, Any], **changes: Any) -> Path:
    content = {"kind": "latency", "environment": ENVIRONMENT, "rows": list(rows), **changes}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def report(tmp_path: Path):
    """Calls the command; its files come to ``tmp_path / "report"``."""
    app = typer.Typer()
    app.command()(report_command)

    def call(*arguments: str | Path) -> Any:
        out = ["--out", str(tmp_path / "report")] if "--out" not in arguments else []
        return CliRunner().invoke(app, [*map(str, arguments), *out])

    return call


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """One report of everything: (outcome, folder)."""
    root = tmp_path_factory.mktemp("paper")
    runs = root / "runs"
    write_run(runs / "pruned", right=30)
    write_run(runs / "unpruned", "full", right=20, flops=1.0)
    write_run(runs / "judged", benchmark="vcgbench")
    write_run(runs / "other", model="<b>tiny</b>", checkpoint=None, right=5)
    latency = write_latency(root / "latency.json", latency_row("full"), latency_row("prunevid"))
    app = typer.Typer()
    app.command()(report_command)
    arguments = [str(runs), str(latency), "--out", str(root / "report")]
    return CliRunner().invoke(app, arguments), root / "report"


def test_last_line_names_the_files(paper) -> None:
    outcome, folder = paper
    assert outcome.exit_code == 0, outcome.output
    last = json.loads(outcome.stdout.splitlines()[-1])
    assert last["report"] == str(folder / "report.html")
    assert sorted(Path(name).name for name in last["files"]) == sorted(
        file.name for file in folder.iterdir()
    )
    assert (folder / "report.md").read_text() in outcome.stdout


def test_a_cell_has_score_interval_count_and_published_number(paper) -> None:
    lines = (paper[1] / "report.md").read_text().splitlines()
    (pruned,) = [line for line in lines if line.startswith("| pllava-7b | prunevid | 16.0%")]
    assert "| 16.0% / 16.2% | 20.0% |" in pruned and "0.25x / 0.23x" in pruned
    found = re.search(r"(\S+) \[(\S+) to (\S+)\] of (\d+) / 47\.6", pruned)
    assert found is not None
    score, low, high, count = map(float, found.groups())
    assert (score, count) == (75.0, 80)
    assert 60 < low < 70 and 80 < high < 90
    # Judged dimensions come in the paper's order, each beside its own published number.
    assert "4.00 of 2 / 2.44 | 3.00 of 2 / 3.51 | 5.00 of 2 / 2.99 | 2.00 of 2 / 2.78" in pruned


def test_the_full_set_of_egoschema_is_published_only(report, tmp_path) -> None:
    outcome = report(write_run(tmp_path / "run", benchmark="egoschema"))
    (line,) = re.findall(r"\| pllava-7b \| prunevid \|.*", outcome.stdout)
    assert re.search(r"75\.0 \[.*\] of 80 / 49\.0 \| – / 42\.6 \|$", line)
    assert "| EgoSchema (subset) | EgoSchema (full set) |" in outcome.stdout
    for name in ("report.md", "report.html"):
        assert "from a submission" in (tmp_path / "report" / name).read_text()


def test_methods_are_compared_question_by_question(paper) -> None:
    text = (paper[1] / "report.md").read_text()
    (line,) = re.findall(r"\| pllava-7b \| prunevid \| MVBench \| (.*) \|", text)
    difference, interval, p_value, count = line.split(" | ")
    assert (difference, count) == ("+25.00", "80")
    low, high = map(float, interval.split(" to "))
    assert 10 < low < 25 < high < 40
    assert float(p_value) == pytest.approx(2 * 0.5**20, rel=1e-2)  # 20 gained, none lost


def test_published_methods_that_were_not_run_have_a_line(paper) -> None:
    text = (paper[1] / "report.md").read_text()
    assert re.search(r"\| pllava-7b \| prumerge \| – / 55.7% \| – \| – / 0.53x \| – / 45.6", text)


def test_the_unpruned_run_comes_first_and_the_embedded_model_is_not_the_papers(paper) -> None:
    content = json.loads((paper[1] / "report.json").read_text())
    methods = [line["method"] for line in content["lines"] if line["model"] == "pllava-7b"]
    assert methods[:2] == ["full", "prunevid"]
    (tiny,) = [line for line in content["lines"] if line["model"] == "<b>tiny</b>"]
    assert tiny["published"] is None and tiny["entries"]["mvbench"]["against_unpruned"] is None
    assert tiny["entries"]["mvbench"]["row"]["published"] is None


def test_the_page_is_self_contained_and_escapes_names(paper) -> None:
    html = (paper[1] / "report.html").read_text()
    fetched = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(fetched) == 2 and all(uri.startswith("data:image/png;base64,") for uri in fetched)
    assert "<b>tiny" not in html and "&lt;b&gt;tiny&lt;/b&gt;" in html
    for section in ("notes", "scores", "paired", "accuracy", "time", "setup"):
        assert f'id="{section}"' in html
    assert "GPU A; torch 2.0; commit 0123456789; 2026-01-02." in html


@pytest.mark.parametrize("name", ["accuracy.png", "time.png"])
def test_pictures_show_something(paper, name) -> None:
    image = Image.open(BytesIO((paper[1] / name).read_bytes())).convert("RGB")
    assert image.width > 600 and len(image.getcolors(image.width * image.height)) > 20


def test_latency_alone_makes_a_report(report, tmp_path) -> None:
    rows = [latency_row("full"), latency_row("prunevid", speedup=2.5)]
    folder = tmp_path / "measured"
    folder.mkdir()
    write_latency(folder / "latency.json", *rows)
    outcome = report(folder)
    assert outcome.exit_code == 0, outcome.output
    assert "| prunevid | 40.0% | 16.0% | 60.00 (54.00 - 72.00) | 2.50 |" in outcome.stdout
    assert not (tmp_path / "report" / "accuracy.png").exists()
    assert 'id="scores"' not in (tmp_path / "report" / "report.html").read_text()


def test_files_of_on_gpu_hold_latency_too(tmp_path) -> None:
    sections = {"end_to_end": {"status": "passed", "rows": [latency_row("full")]}}
    path = write_latency(tmp_path / "gpu.json", kind="on_gpu", sections=sections)
    assert [row["method"] for row in build_table([path], "strict").latency] == ["full"]


# ------------------------------------------------------------------------------------------------
# Notes
# ------------------------------------------------------------------------------------------------


def notes_of(*paths: Path) -> str:
    return "\n".join(build_table(paths, "strict").notes)


def test_complete_and_equal_runs_need_no_notes(tmp_path) -> None:
    paths = [write_run(tmp_path / "a"), write_run(tmp_path / "b", "full")]
    assert notes_of(*paths) == ""


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        pytest.param({"count": 30}, "pruned is not finished: 20 of 80 questions", id="unfinished"),
        pytest.param(
            {"skip": 3}, "6 questions were not asked, the first because clip", id="skipped"
        ),
        pytest.param(
            {"questions_sha256": "other"}, "Not the same questions were asked", id="questions"
        ),
        pytest.param({"random_weights": True}, "has random weights: its answers", id="random"),
        pytest.param(
            {"environment": {**ENVIRONMENT, "packages": {"torch": "1.9"}}},
            "not all made with the same torch: 2.0 (1), 1.9 (1)",
            id="versions",
        ),
        pytest.param(
            {"environment": {**ENVIRONMENT, "gpu": None, "device": "cpu"}},
            "not all made with the same device: GPU A (1), cpu (1)",
            id="devices",
        ),
        pytest.param(
            {"model": "other"},
            "other, prunevid on mvbench: no scored questions in common",
            id="unpruned",
        ),
    ],
)
def test_what_is_doubtful_is_noted(tmp_path, changes, note) -> None:
    unpruned = write_run(tmp_path / "unpruned", "full")
    assert note in notes_of(unpruned, write_run(tmp_path / "pruned", **changes))


def test_latency_rows_without_times_are_noted_and_shown(report, tmp_path) -> None:
    bad = latency_row(
        "fastv", status="incorrect", reason="logits | differ", stages={}, first_token_ms=None,
        ms_per_token=None, tokens_per_s=None, peak_memory_bytes=None, speedup=None, kv_bytes=0,
        flops={}, cold_ms=None, read_ms=None, device="cpu",
    )  # fmt: skip
    outcome = report(write_latency(tmp_path / "x.json", latency_row("full"), bad))
    assert outcome.exit_code == 0, outcome.output
    assert "fastv, 16 frames, batch 1 was not timed (incorrect): logits | differ." in outcome.stdout
    assert "Times on a CPU" in outcome.stdout
    assert "**incorrect** logits \\| differ" in outcome.stdout


# ------------------------------------------------------------------------------------------------
# What cannot be used
# ------------------------------------------------------------------------------------------------


def damage(file: Path, content: str) -> Path:
    file.write_text(content)
    return file.parent


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        pytest.param(lambda root: root / "absent", "absent: no such file or folder", id="absent"),
        pytest.param(lambda root: root, "neither a run, nor runs, nor latency.json", id="empty"),
        pytest.param(
            lambda root: damage(samples_file(write_run(root / "a"), 0), "{}\n{}\n"),
            "samples.0.jsonl:1: not a line of a run",
            id="damaged-line",
        ),
        pytest.param(
            lambda root: damage(write_run(root / "a") / "settings.json", "{"),
            "not the settings of a run",
            id="damaged-settings",
        ),
        pytest.param(
            lambda root: damage(
                write_run(root / "a") / "settings.json", '{"settings": {}, "environment": {}}'
            ),
            "settings has no 'benchmark'",
            id="empty-settings",
        ),
        pytest.param(
            lambda root: write_run(root / "a", benchmark="imagenet"),
            "unknown benchmark 'imagenet'",
            id="benchmark",
        ),
        pytest.param(
            lambda root: damage(root / "latency.json", "not json"),
            "latency.json: not a file of prunevid bench latency",
            id="damaged-latency",
        ),
        pytest.param(
            lambda root: damage(root / "latency.json", '{"kind": "kernels"}'),
            "holds 'kernels', not latency",
            id="kernels",
        ),
        pytest.param(
            lambda root: write_latency(root / "latency.json", {"model": "x"}),
            "row has no ",
            id="latency-row",
        ),
        pytest.param(
            lambda root: shutil.copytree(write_run(root / "a"), root / "b").parent,
            "are the same model, method and benchmark; leave one out",
            id="twice",
        ),
    ],
)
def test_what_cannot_be_used_ends_in_one_line(report, tmp_path, arrange, message) -> None:
    root = tmp_path / "root"
    root.mkdir()
    outcome = report(arrange(root))
    assert outcome.exit_code == 2
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("prunevid: error: ") and message in line
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--extractor", "x"], "--extractor must be one of strict", id="extractor"),
        pytest.param(["--out", __file__], "is not a folder", id="out"),
    ],
)
def test_bad_options_end_in_one_line(report, tmp_path, options, message) -> None:
    outcome = report(write_run(tmp_path / "run"), *options)
    assert outcome.exit_code == 2 and message in outcome.stderr
