"""``prunevid flops``: tables for people, a last line of JSON, errors of one line."""

from __future__ import annotations

import json

import pytest
from paths import PARITY
from typer.testing import CliRunner

from prunevid_kernels.adapters.families import SIZES
from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.embedded.model import EMBEDDED_MODEL

pytestmark = pytest.mark.one_version


def run(*arguments: str):
    return CliRunner().invoke(app, ["flops", *arguments])


def test_paper_table():
    result = run("--model", "pllava-7b", "--paper-table")
    assert result.exit_code == 0
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert len(rows) == 8 and all(row["is_reproduced"] for row in rows)
    assert all(f"{row['ours']:.2f}" == row["published"] for row in rows)
    assert "llava-onevision-7b: 3 of 3 do not follow" in result.stdout
    assert "st-llm-7b: all 2 follow, with 25 text tokens; this needs 22 to 28" in result.stdout


def test_methods_with_given_counts():
    result = run("--method", "prunevid", "--method", "full", "--merged", "900", "--kept", "300")
    assert result.exit_code == 0
    methods = json.loads(result.stdout.splitlines()[-1])["methods"]
    assert list(methods) == ["prunevid", "full"]
    assert methods["prunevid"]["visual_tokens_per_layer"] == [900] * 11 + [300] * 21
    assert (
        methods["full"]["flops"]["exact"]["method"] == methods["full"]["flops"]["exact"]["unpruned"]
    )


@pytest.mark.parametrize("model", SIZES)
def test_every_published_size_by_its_name(model):
    result = run("--model", model, "--method", "full")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["model"] == model


def test_a_small_decoder_gets_a_layer_that_it_has():
    """A third of the way in, as the paper's layer 10 of 32 is."""
    result = run("--model", str(EMBEDDED_MODEL), "--method", "prunevid")
    assert result.exit_code == 0, result.stderr
    (method,) = json.loads(result.stdout.splitlines()[-1])["methods"].values()
    lengths = method["visual_tokens_per_layer"]
    assert len(lengths) == 5 and lengths[0] == lengths[1] > lengths[2] == lengths[4]


@pytest.mark.parametrize("folder", ["stllm_tiny_qa_ckpt", "pllava_tiny_ckpt"])
def test_checkpoint_folder(folder):
    result = run("--model", str(PARITY / folder), "--method", "fastv", "--layer", "1")
    assert result.exit_code == 0, result.stderr
    assert "fastv" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nope"], "--model must be one of llava-onevision-7b"),
        (["--model", "st-llm"], "got 'st-llm'; did you mean st-llm-7b?"),
        (["--model", "nope", "--paper-table"], "got --model 'nope'"),
        (
            ["--model", "qwen2-vl-7b", "--paper-table"],
            "the paper prints ratios of pllava-7b, st-llm-7b, llava-onevision-7b only",
        ),
        (["--model", str(PARITY)], "config.json"),
        (["--method", "vtc"], "unknown method 'vtc'; known methods: full"),
        (["--text", "-1"], "--text must be an integer >= 0"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr and len(result.stderr.splitlines()) == 1
