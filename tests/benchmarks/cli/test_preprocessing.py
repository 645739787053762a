"""From frames and a question to what a LLaVA-OneVision checkpoint gets, and back to words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import IMAGE_SIZE_PX, TOKENS_PER_FRAME

from prunevid_kernels.adapters.families.video_model import (
    ModelError,
    VideoModel,
    load_video_model,
)


@pytest.fixture(scope="module")
def tiny(checkpoint: Path) -> VideoModel:
    return load_video_model(checkpoint, "cpu")


def test_prompt_is_the_chat_template_with_a_placeholder_for_each_token(tiny) -> None:
    frames = np.zeros((3, 50, 70, 3), dtype=np.uint8)
    inputs = tiny.encode(frames, "Why?")
    count = 3 * TOKENS_PER_FRAME + 1  # and the newline after the video
    placeholders = "<video>" * count
    prompt = f"<|im_start|>user\n{placeholders}\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert tiny.tokenizer.decode(inputs["input_ids"][0]) == prompt
    assert inputs["attention_mask"].all()
    assert (inputs["input_ids"] == tiny.model.config.video_token_id).sum() == count


def test_pixels_of_a_frame_of_the_right_size_are_only_normalised(tiny) -> None:
    shape = (2, IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = tiny.encode(frames, "q")["pixel_values_videos"]
    expected = torch.from_numpy(frames).permute(0, 3, 1, 2)[None] / 127.5 - 1
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


def test_other_frames_are_resized_bicubic_without_cropping(tiny) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    pixels = tiny.encode(frame[None], "q")["pixel_values_videos"]
    side = (IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    resized = np.asarray(Image.fromarray(frame).resize(side, Image.Resampling.BICUBIC))
    expected = torch.from_numpy(resized.copy()).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(pixels[0, 0], expected, rtol=0, atol=1e-6)


def test_template_of_the_processor_goes_before_that_of_the_tokenizer(
    tmp_path: Path, checkpoint: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    (folder / "chat_template.jinja").unlink()
    legacy = {"chat_template": "<video>{{ messages[0].content[1].text }}!"}
    (folder / "chat_template.json").write_text(json.dumps(legacy))
    model = load_video_model(folder, "cpu")
    ids = model.encode(np.zeros((1, 8, 8, 3), np.uint8), "go")["input_ids"][0]
    assert model.tokenizer.decode(ids[TOKENS_PER_FRAME + 1 :]) == "go!"


def test_template_without_a_video_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content[1].text }}")
    model = load_video_model(folder, "cpu")
    with pytest.raises(ModelError, match="must render one '<video>' for one video, got 0"):
        model.encode(np.zeros((1, 8, 8, 3), np.uint8), "go")


def test_normalisation_from_a_processor_config(tmp_path: Path, checkpoint: Path) -> None:
    """Newer transformers nests the video processor's values in processor_config.json."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    values = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    nested = {"processor_class": "LlavaOnevisionProcessor", "video_processor": values}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    assert load_video_model(folder, "cpu").processor.image_mean == (0.5, 0.5, 0.5)
