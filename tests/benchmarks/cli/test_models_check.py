"""``prunevid models check``: which model, what is missing, and the exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_folders
from paths import PARITY
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from prunevid_kernels.benchmarks.cli import app


def check(folder: Path) -> tuple[int, str, dict]:
    result = CliRunner().invoke(app, ["models", "check", str(folder)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, json.loads(result.stdout.splitlines()[-1])


@pytest.fixture
def damaged(tmp_path: Path, checkpoint: Path) -> Path:
    """A LLaVA-OneVision folder without one tensor, with one too many and one of another shape."""
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    lost, changed = sorted(key for key in tensors if key.endswith("up_proj.weight"))[:2]
    del tensors[lost]
    tensors[changed] = tensors[changed][:-1].contiguous()
    tensors["junk"] = tensors[changed][0].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


JOINED = "(tensors of files are joined, folded or shared to make the model's)"


def test_stored_experts_are_said_to_be_joined(tmp_path: Path) -> None:
    """Files hold a tensor an expert, the model one of all; where nothing is joined, not a word."""
    for kind in ("qwen3_5_moe", "qwen2_5_vl"):
        code, text, _ = check(tiny_folders.write_grid(tmp_path / kind, kind))
        assert code == 0 and (JOINED in text) == (kind == "qwen3_5_moe"), text


def test_published_pllava() -> None:
    code, text, summary = check(PARITY / "pllava_tiny_ckpt")
    assert code == 0 and summary["loadable"] and summary["family"] == "pllava"
    assert "no tokenizer.json in the folder" in summary["processor_error"]
    assert summary["needs_lora_alpha"]
    assert text.startswith(
        "model      PLLaVA\nweights    130 tensors in 2 files, float32\n"
        "needs      lora_alpha, which no file says\n"
    )
    assert "114 tensors of the model found" in text
    assert JOINED in text, "130 and 114: two counts that both are right"


def test_llava_onevision(checkpoint: Path) -> None:
    code, text, summary = check(checkpoint)
    assert code == 0 and summary["loadable"] and summary["family"] == "llava_onevision"
    assert (
        "model      LLaVA-OneVision\n" in text
        and "\nweights loadable\n" in text
        and "\nprocessor  complete\n" in text
    )


def test_damaged_llava_onevision(damaged: Path) -> None:
    code, text, summary = check(damaged)
    assert code == 1 and not summary["loadable"]
    assert [summary[k] for k in ("missing", "unexpected", "mismatched")] == [1, 1, 1]
    assert "unexpected (1):\n  junk\n" in text and "\nNOT loadable\n" in text


def test_damaged_pllava(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(PARITY / "pllava_tiny_ckpt", folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    code, text, summary = check(folder)
    assert code == 1 and summary["family"] == "pllava" and not summary["loadable"]
    assert "1 of the 2 files in model.safetensors.index.json are not there" in summary["error"]
    assert summary["error"] in text


def test_sizes_that_make_no_model(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(PARITY / "pllava_tiny_ckpt", folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_attention_heads"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    code, _, summary = check(folder)
    assert code == 1 and "config.json: ValueError: The hidden size (32)" in summary["error"]


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    code, _, summary = check(tmp_path)
    assert code == 1 and summary["family"] is None
    assert "must hold LLaVA-OneVision" in summary["error"]


def test_no_folder_is_a_mistake_of_the_command_and_no_finding(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["models", "check", str(tmp_path / "m")])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "m: no such model folder" in result.stderr and result.stderr.count("\n") == 1
