"""PLLaVA's inputs: pixels, prompts and tokens exactly as published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_pllava import PARITY, PUBLISHED
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from prunevid_kernels.adapters.checkpoint.files import CheckpointError
from prunevid_kernels.adapters.families.pllava.processor import (
    PllavaProcessor,
    crop_frame,
    prompt_text,
)

PROMPTS = json.loads((PARITY / "prompts.json").read_text())["pllava"]
QUESTION = (
    "Question: What happened after the person took the food?\nOptions:\n(A) Ate the medicine.\n"
    "(B) Tidied up the blanket.\n(C) Put down the cup/glass/bottle.\n(D) Took the box. \n"
    "Only give the best option."
)
TOKENS = 54


def published_tokenizer() -> Tokenizer:
    """Llama's published pipeline over a small vocabulary: a blank goes in front of every stretch of
    text, also of one after a special token. ``<image>`` has the tiny model's id, 150."""
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    words = ["<unk>", "<s>", "</s>", "▁", *letters]
    words += [f"<fill{i}>" for i in range(150 - len(words))]
    tokenizer = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(PUBLISHED / "config.json", tmp_path)
    published_tokenizer().save(str(tmp_path / "tokenizer.json"))
    # What makes AutoTokenizer build the pipeline anew.
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    return tmp_path


def frames(count: int = 2, height: int = 90, width: int = 121) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["hd_360x640", "landscape_240x320", "portrait_400x220"])
def test_pixels_are_the_published_ones(name):
    data = load_file(PARITY / "preprocess.safetensors")
    cropped = crop_frame(data[f"{name}.in_uint8"], 336)
    expected = data[f"{name}.pllava_336_before_norm_uint8"]
    np.testing.assert_array_equal(cropped.transpose(2, 0, 1), expected)


@pytest.mark.parametrize("shape", [(336, 336), (1, 900), (900, 1), (335, 337), (1080, 1920)])
def test_frames_of_any_shape_become_the_square_in_their_middle(shape):
    """Of a ramp along the long edge, as much is left as the square covers, on both sides alike."""
    height, width = shape
    long = max(shape)
    ramp = np.linspace(0, 255, long).round().astype(np.uint8)
    frame = np.broadcast_to(ramp[:, None] if height == long else ramp, shape)
    square = crop_frame(np.repeat(frame[..., None], 3, axis=2), 336)
    assert square.shape == (336, 336, 3)
    along = square[..., 0] if height == long else square[..., 0].T  # [along, across]
    assert (along.max(axis=1) - along.min(axis=1)).max() <= 1
    reach = 127.5 * (1 - 1 / 336) * min(shape) / long
    assert abs(float(along[0].mean()) - (127.5 - reach)) < 2
    assert abs(float(along[-1].mean()) - (127.5 + reach)) < 2


@pytest.mark.parametrize(
    ("name", "question", "prefix"),
    [
        ("eval_mvbench", QUESTION, "Best option:("),
        ("eval_videomme", QUESTION, "Best option:("),
        ("eval_vcgbench", "Describe the video in details.", ""),
    ],
)
def test_prompts_with_a_system_message(name, question, prefix):
    system, _ = PROMPTS[name].split(" USER: <image>\n")
    assert prompt_text(question, system, prefix) == PROMPTS[name]


def test_prompt_without_a_system_message():
    assert prompt_text("Describe the video in details.") == PROMPTS["plain"]


@pytest.mark.parametrize("system", [None, "", "Watch."])
def test_tokens_are_those_of_the_file_with_the_placeholder_repeated(folder, system):
    inputs = PllavaProcessor.from_pretrained(folder)(frames(), "Who? me", system=system)
    raw = published_tokenizer().encode(prompt_text("Who? me", system)).ids
    at = raw.index(150)
    expected = raw[:at] + [150] * TOKENS + raw[at + 1 :]
    assert inputs["input_ids"].tolist() == [expected]
    assert inputs["attention_mask"].tolist() == [[1] * len(expected)]
    assert expected[0] == 1 and expected[at + TOKENS] == 3, "a blank in front of what follows"


def test_pixels_are_normalised_as_by_clip(folder):
    shot = frames(3)
    pixels = PllavaProcessor.from_pretrained(folder)(shot, "Who?")["pixel_values"].numpy()
    assert pixels.shape == (1, 3, 3, 84, 84) and pixels.dtype == np.float32
    scale = np.array(OPENAI_CLIP_STD)[:, None, None], np.array(OPENAI_CLIP_MEAN)[:, None, None]
    restored = (pixels[0, 2] * scale[0] + scale[1]) * 255
    np.testing.assert_allclose(restored.transpose(1, 2, 0), crop_frame(shot[2], 84), atol=1e-3)


def test_answers_are_decoded(folder):
    tokenizer = PllavaProcessor.from_pretrained(folder).tokenizer
    ids = published_tokenizer().encode("Best option").ids
    assert tokenizer.decode([*ids, 2], skip_special_tokens=True).strip() == "Best option"
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 2, 1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"question": "What is <image>?"}, "the question must not contain the placeholder"),
        ({"system": "<image>"}, "the system message must not contain the placeholder"),
        ({"answer_prefix": "<image>"}, "the answer prefix must not contain the placeholder"),
        ({"frames": frames()[0]}, r"frames must be [T, H, W, 3] uint8, got [90, 121, 3] uint8"),
        ({"frames": frames(0)}, r"frames must be [T, H, W, 3] uint8, got [0,"),
        ({"frames": frames() / 255}, "float64"),
    ],
)
def test_what_makes_no_prompt(folder, arguments, expected):
    processor = PllavaProcessor.from_pretrained(folder)
    with pytest.raises(ValueError) as caught:
        processor(**({"frames": frames(), "question": "Who?"} | arguments))
    assert expected in str(caught.value)


def test_folder_without_a_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="no tokenizer.json"):
        PllavaProcessor.from_pretrained(folder)


def test_folder_without_a_config(tmp_path):
    with pytest.raises(CheckpointError, match="config.json: No such file"):
        PllavaProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("missing", ["<image>", "template"])
def test_tokenizer_of_another_model(folder, missing):
    file = folder / "tokenizer.json"
    values = json.loads(file.read_text())
    if missing == "template":
        values["post_processor"] = None
        expected = "must put <s> in front"
    else:
        values["added_tokens"] = [t for t in values["added_tokens"] if t["content"] != "<image>"]
        expected = "<image> must have the id 150"
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=expected):
        PllavaProcessor.from_pretrained(folder)
