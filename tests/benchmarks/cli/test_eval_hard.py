"""``prunevid eval`` on the harder clips, with the embedded model that was trained for them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prunevid_kernels.benchmarks.accuracy.run_log import read_run
from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.datasets import synthetic_hard
from prunevid_kernels.benchmarks.embedded.model import (
    HARD_MODEL,
    HARD_NAME,
    NAME,
    SELECTION_LAYER,
    load_embedded_model,
)
from prunevid_kernels.benchmarks.train_tiny.measure import Accuracy, measure

pytestmark = pytest.mark.one_version
QUESTIONS = 27


@cache
def accuracy(method: str) -> Accuracy:
    model = load_embedded_model(benchmark="synthetic_hard")
    questions = synthetic_hard.held_out_questions(QUESTIONS)
    return measure(model, questions, method, lambda _: None)


def test_the_harder_model_answers_what_it_sees_and_not_blind() -> None:
    assert accuracy("full").macro > accuracy("blind").macro + 0.25


@pytest.mark.parametrize(("benchmark", "frames"), [("synthetic_hard", 16), ("synthetic_long", 32)])
def test_eval_takes_the_model_of_the_benchmark_and_all_frames_of_its_clips(
    benchmark: str, frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunevid_kernels.benchmarks.datasets.registry.HARD_QUESTIONS", 1)
    arguments = ["--method", "prunevid", "--out", str(tmp_path), "--device", "cpu"]
    done = CliRunner().invoke(app, ["eval", benchmark, *arguments])
    assert done.exit_code == 0, done.stderr
    (row,) = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert row["model"] == HARD_NAME
    (run,) = map(read_run, tmp_path.iterdir())
    assert run.settings["frames"] == frames
    assert run.settings["options"]["layer"] == SELECTION_LAYER
    assert run.settings["generation"] == {"max_new_tokens": 4}
    (record,) = run.answered
    assert record.tokens_before == frames * 36


def test_other_benchmarks_take_the_plain_model() -> None:
    assert load_embedded_model(benchmark="synthetic").name == NAME
    assert load_embedded_model(benchmark="mvbench").name == NAME


def test_it_is_small_and_its_card_knows_its_size() -> None:
    model = load_embedded_model(benchmark="synthetic_long").model
    parameters = sum(p.numel() for p in model.parameters())
    assert sum(file.stat().st_size for file in HARD_MODEL.iterdir()) <= 6_000_000
    card = " ".join((HARD_MODEL / "README.md").read_text(encoding="utf-8").split())
    assert f"{parameters / 1e6:.2f} million parameters" in card
