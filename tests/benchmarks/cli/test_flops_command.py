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


@pytest.mark.sample(12)
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


@pytest.mark.parametrize(
    ("model", "method", "reason"),
    [
        ("qwen3-vl-8b", "fastv", "must select at a layer of at least 3, got 1"),
        ("qwen2.5-vl-7b", "visionzip", "Methods that look at the tower do not run here"),
        ("videollama3-7b", "flashvid", "Methods that look at the tower do not run here"),
        ("qwen3.5-9b", "fastv", "take a method that prunes before the decoder only, such as merge"),
    ],
)
def test_what_a_model_cannot_run_is_not_counted(model, method, reason):
    """For the reason that the engine gives; among all methods it is left out, and told."""
    result = run("--model", model, "--method", method)
    assert (result.exit_code, result.stdout) == (2, "")
    assert reason in result.stderr and f"prunevid: error: {method}, " in result.stderr
    every = run("--model", model, "--merged", "0.3")
    assert every.exit_code == 0 and reason in every.stderr
    assert method not in json.loads(every.stdout.splitlines()[-1])["methods"]


def test_downsampling_is_counted_with_a_note_of_what_it_needs():
    result = run("--model", "qwen2-vl-7b", "--method", "downsample")
    assert result.exit_code == 0
    assert "give the option grid=[rows, columns] of tokens" in result.stderr
    assert run("--model", "pllava-7b", "--method", "downsample").stderr == ""


def test_counts_may_be_shares():
    """2,304 visual tokens: a half and an eighth."""
    shares = run("--method", "prunevid", "--merged", "0.5", "--kept", "0.125")
    counts = run("--method", "prunevid", "--merged", "1152", "--kept", "288")
    assert shares.exit_code == 0, shares.stderr
    assert shares.stdout.splitlines()[-1].replace(".0", "") == counts.stdout.splitlines()[
        -1
    ].replace(".0", "")


@pytest.mark.parametrize("value", ["1.5", "-0.5", "half", "nan", "1e"])
def test_what_is_no_share(value):
    result = run("--method", "prunevid", "--merged", value)
    assert result.exit_code == 2
    assert "--merged must be" in result.stderr and len(result.stderr.splitlines()) == 1
