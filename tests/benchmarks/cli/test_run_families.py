"""``prunevid run --model DIR`` finds out which model a folder holds and runs any of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_folders
import tiny_pllava

from prunevid_kernels.adapters.families.video_model import load_video_model

TOKENS_A_FRAME = {
    "llava_onevision": 16,
    "pllava": 16,
    "st_llm": 32,
    "st_llm_residual": 32,
    "qwen2_5_vl": 8,
    "qwen3_vl": 40,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "llava_onevision": checkpoint,
        "pllava": tiny_folders.write_pllava(root / "a"),
        "st_llm": tiny_folders.write_st_llm(root / "b"),
        "st_llm_residual": tiny_folders.write_st_llm(root / "c", residual_size=4),
        **{kind: tiny_folders.write_grid(root / kind, kind) for kind in ("qwen2_5_vl", "qwen3_vl")},
    }


@pytest.mark.sample(4)
@pytest.mark.parametrize("kind", TOKENS_A_FRAME)
def test_every_family_is_detected_and_pruned(prunevid, folders, clip, kind) -> None:
    outcome = prunevid(
        *("--model", folders[kind], "--video", clip, "--question", "What is blue?"),
        *("--config", "layer=2", "--config", "min_cluster_tokens=4", "--max-new-tokens", 3),
    )
    assert outcome.exit_code == 0, outcome.stderr
    record = outcome.record
    # The clip has 8 frames: LLaVA-OneVision takes each once, the others their own number of them;
    # the tiny PLLaVA pools its frames to 6, residual mode keeps 4, two frames are one in a grid.
    frames = {"llava_onevision": 8, "pllava": 6, "st_llm": 16, "st_llm_residual": 4}.get(kind, 4)
    assert record["frames"] == frames
    assert record["visual_tokens"] == frames * TOKENS_A_FRAME[kind]
    assert record["kept_tokens"] < record["merged_tokens"] < record["visual_tokens"]
    assert record["layer"] == 2
    assert 0 < record["flops_ratio_exact"] < 1
    assert list(record["unpruned_seconds"]) == [
        "read frames",
        "resize frames",
        "vision tower and projector",
        "prompt through the decoder",
        "first word of the answer",
        "rest of the answer",
    ]
    assert ("stands for the whole frame" in outcome.html) == kind.startswith("st_llm")
    assert sorted(path.name for path in outcome.folder.glob("segment_*.png"))


def test_too_few_frames_for_residual_mode_are_refused(prunevid, folders, clip) -> None:
    arguments = ("--video", clip, "--question", "What is blue?", "--frames", 3)
    outcome = prunevid("--model", folders["st_llm_residual"], *arguments, "--config", "layer=2")
    assert outcome.exit_code == 2
    assert outcome.stderr.endswith("error: this model takes at least 4 frames, got 3\n")


def test_lora_alpha_of_another_family_is_refused(prunevid, folders, clip) -> None:
    arguments = ("--video", clip, "--question", "What is blue?", "--lora-alpha", 14)
    error = prunevid("--model", folders["st_llm"], *arguments).error
    assert "lora_alpha is for PLLaVA checkpoints" in error


def test_published_pllava_layout_needs_lora_alpha(prunevid, clip, tmp_path) -> None:
    folder = tmp_path / "published"
    shutil.copytree(tiny_pllava.PUBLISHED, folder)
    tiny_folders.write_pllava_tokenizer(folder, image_id=150, vocab_size=160)
    arguments = ("--model", folder, "--video", clip, "--question", "What?", "--config", "layer=1")
    assert "lora_alpha" in prunevid(*arguments).error
    assert prunevid(*arguments, "--lora-alpha", 14).exit_code == 0


def test_st_llm_repetition_penalty_counts_the_answer_only(folders) -> None:
    """As published, where ``generate`` got no ids: words of the prompt may come once."""
    model = load_video_model(folders["st_llm"], "cpu")
    encoded = model.encode(np.zeros((2, 30, 30, 3), np.uint8), "What is blue?")
    plain = model.generate(encoded, max_new_tokens=1)
    assert model.generate(encoded, max_new_tokens=1, repetition_penalty=50.0) == plain
    many = model.generate(encoded, max_new_tokens=12, repetition_penalty=50.0)
    assert many != model.generate(encoded, max_new_tokens=12)


@pytest.mark.parametrize(
    ("kind", "config", "told"),
    [
        ("qwen3_5", "layer=1", "such as merge_only, which is PruneVid with select=False\n"),
        ("qwen3_vl", "layer=1", "prunevid must select at a layer of at least 2, got 1\n"),
    ],
)
def test_what_a_decoder_cannot_do_is_one_line(prunevid, tmp_path, clip, kind, config, told) -> None:
    folder = tiny_folders.write_grid(tmp_path / kind, kind)
    arguments = ("--video", clip, "--question", "What is blue?", "--config", config)
    outcome = prunevid("--model", folder, *arguments)
    assert outcome.exit_code == 2
    (line,) = [line for line in outcome.stderr.splitlines(keepends=True) if "error" in line]
    assert line.startswith("prunevid: error: --config: ")
    assert line.endswith(told)
    assert "Traceback" not in outcome.stderr
