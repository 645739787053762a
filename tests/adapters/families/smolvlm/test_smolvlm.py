"""SmolVLM2: its inputs, and a pruned answer through the one door."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from families_apart import SMOLVLM as TINY
from PIL import Image
from tiny_models import CONFIG, generate

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import ModelError, load_video_model, prune
from prunevid_kernels.adapters.families import FAMILIES
from prunevid_kernels.adapters.families.shape import DecoderShape
from prunevid_kernels.adapters.families.smolvlm.words import in_words

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)


def test_prompt(folders):
    """As transformers writes it: frames in words, the length, and a time before each frame."""
    model = load_video_model(folders["smolvlm"])
    inputs = model.encode(FRAMES, "What is blue?", answer_prefix="A", seconds=[0.2, 3.9, 64.0])
    image = f"<fake_token_around_image><global-img>{'<image>' * 16}<fake_token_around_image>"
    assert model.tokenizer.decode(inputs["input_ids"][0]) == (
        "<|im_start|>User: You are provided the following series of three frames from a 0:01:04 "
        f"[H:MM:SS] video.\n\nFrame from 00:00:{image}\nFrame from 00:03:{image}"
        f"\nFrame from 01:04:{image}\n\nWhat is blue?<end_of_utterance>\nAssistant:A"
    )
    assert model.default_frames == 48


@pytest.mark.parametrize(
    ("size", "between"), [((50, 70), (32, 22)), ((70, 50), (22, 32)), ((9, 9), (32, 32))]
)
def test_pixels(folders, size, between):
    """The long edge first, the short one even, then a square."""
    frame = np.random.default_rng(1).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    inputs = load_video_model(folders["smolvlm"]).encode(frame, "What?")
    image = Image.fromarray(frame[0]).resize(between, Image.Resampling.LANCZOS)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    np.testing.assert_allclose(inputs["pixel_values"][0, 0], expected / 127.5 - 1, atol=1e-6)
    assert inputs["pixel_attention_mask"].equal(torch.ones(1, 1, 32, 32, dtype=torch.int64))


def test_video_model_says_it_of_its_own_prompts(folders):
    model = load_video_model(folders["smolvlm"])
    inputs = model.encode(FRAMES, "What is blue?")
    with prune(model.model, PruneVidConfig(merge=False, layer=1)) as handle:
        assert isinstance(model.generate(inputs, max_new_tokens=3), str)
    assert handle.report.last.tokens_before == 48


def test_without_a_word_a_video_is_not_told_from_images():
    with (
        pytest.raises(ValueError, match="does not tell a video from images"),
        prune(TINY.build(), CONFIG),
    ):
        generate(TINY.build(), TINY.question(), 1)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (64, "sixty-four"),
        (100, "one hundred"),
        (115, "one hundred and fifteen"),
        (1000, "one thousand"),
        (1001, "one thousand and one"),
        (2345, "two thousand, three hundred and forty-five"),
    ],
)
def test_numbers_in_words(number, words):
    assert in_words(number) == words


def test_a_number_that_has_no_words():
    with pytest.raises(ValueError, match="must be from 0 to 999999, got -1"):
        in_words(-1)


@pytest.mark.parametrize("most", [0, "64", None])
def test_a_sampling_rule_without_a_number_of_frames(folders, tmp_path, most):
    folder = Path(shutil.copytree(folders["smolvlm"], tmp_path / "m"))
    file = folder / "preprocessor_config.json"
    values = json.loads(file.read_text())
    values["video_sampling"]["max_frames"] = most
    file.write_text(json.dumps(values))
    with pytest.raises(ModelError, match="video_sampling.max_frames must be an integer"):
        load_video_model(folder)


def test_random_model(folders):
    words = load_video_model(folders["llava_onevision"]).processor
    decoder, family = DecoderShape(32, 64, 2, 4, 2, 300), FAMILIES["smolvlm"]
    model, processor = family.random_model(decoder, words, is_reduced=True)
    assert family.shape(model.config).decoder == decoder
    assert model.eval()(**processor(FRAMES, "What is blue?")).logits.shape[-1] == 300
