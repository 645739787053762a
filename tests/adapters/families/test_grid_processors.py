"""Frames and a question for models with grids: the prompt's text, the grid, the clock."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunevid_kernels.adapters.families.detect import detect_family

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 24, 40, 3), dtype=np.uint8)
SECONDS = [0.0, 0.5, 1.0, 1.5, 2.5]
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def prompt_of(processor, **options):
    inputs = processor(FRAMES, "What is blue?", **options)
    return inputs, processor.tokenizer.decode(inputs["input_ids"][0])


def test_one_run_for_a_video_and_seconds_a_frame(folders):
    processor = detect_family(folders["qwen2_5_vl"]).processor(folders["qwen2_5_vl"])
    inputs, text = prompt_of(processor, seconds=SECONDS, answer_prefix="Best:(")
    rows, columns = processor.grid_of(FRAMES)
    assert inputs["video_grid_thw"].tolist() == [[3, 2 * rows, 2 * columns]]
    run = "<|video_pad|>" * (3 * rows * columns)
    assert text == (
        f"{SYSTEM}<|im_start|>user\n<|vision_start|>{run}<|vision_end|>What is blue?<|im_end|>\n"
        "<|im_start|>assistant\nBest:("
    )
    # From the first frame to the last, 2.5 seconds are four steps of one frame; a token is of two.
    assert inputs["second_per_grid_ts"].tolist() == [1.25]
    assert prompt_of(processor)[0]["second_per_grid_ts"].tolist() == [1.0]  # two frames a second
    assert len(inputs["pixel_values_videos"]) == 3 * 4 * rows * columns
    kinds = inputs["mm_token_type_ids"]
    assert torch.equal(kinds == 2, inputs["input_ids"] == processor.config.video_token_id)


def test_a_run_and_a_timestamp_for_each_frame(folders):
    processor = detect_family(folders["qwen3_vl"]).processor(folders["qwen3_vl"])
    inputs, text = prompt_of(processor, seconds=SECONDS, system="Look.")
    rows, columns = processor.grid_of(FRAMES)
    run = f"<|vision_start|>{'<|video_pad|>' * (rows * columns)}<|vision_end|>"
    # The middle between the two frames of a token; the last stands alone.
    video = "".join(f"<{time} seconds>{run}" for time in ("0.2", "1.2", "2.5"))
    assert text == (
        f"<|im_start|>system\nLook.<|im_end|>\n<|im_start|>user\n{video}What is blue?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert "second_per_grid_ts" not in inputs
    assert "<0.2 seconds>" in prompt_of(processor)[1]  # two frames a second


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_what_is_shown_is_the_first_of_each_pair(folders, name):
    processor = detect_family(folders[name]).processor(folders[name])
    shown, chosen = processor.shown_frames(FRAMES)
    assert chosen == [0, 2, 4] and np.array_equal(shown, FRAMES[::2])


@pytest.mark.parametrize(
    "seconds", [[0.0, 1.0], [0.0, 2.0, 1.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0, float("nan")]], ids=str
)
def test_times_that_are_none_are_refused(folders, seconds):
    processor = detect_family(folders["qwen3_vl"]).processor(folders["qwen3_vl"])
    with pytest.raises(ValueError, match="seconds must be the times of the 5 frames, in order"):
        processor(FRAMES, "What?", seconds=seconds)
