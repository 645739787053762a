"""The embedded model and the preprocessing that every model goes through."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunevid_kernels.adapters.families.video_model import ModelError, load_video_model
from prunevid_kernels.adapters.video.reader import read_video
from prunevid_kernels.benchmarks.embedded.sample_clip import SAMPLE_CLIP
from prunevid_kernels.benchmarks.embedded.tiny_model import IMAGE_SIZE_PX, WORDS, build_tiny_model


@pytest.fixture(scope="module")
def tiny():
    return build_tiny_model()


@pytest.fixture(scope="module")
def sample_features(tiny) -> torch.Tensor:
    """[16, 144, C] of the sample clip."""
    pixels = tiny.encode(read_video(SAMPLE_CLIP, 16).frames, "q")["pixel_values_videos"]
    with torch.no_grad():
        output = tiny.model.get_video_features(pixels).pooler_output
    return output.flatten(0, -2)[: 16 * 144].reshape(16, 144, -1)


def test_same_seed_same_weights_and_another_seed_others(tiny) -> None:
    again, other = build_tiny_model(0).model.state_dict(), build_tiny_model(1).model.state_dict()
    for name, value in tiny.model.state_dict().items():
        assert torch.equal(value, again[name]), name
    name = "model.multi_modal_projector.linear_1.weight"
    assert not torch.equal(again[name], other[name])


def test_building_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_tiny_model()
    assert torch.equal(torch.rand(3), expected)


def test_features_have_a_spread_that_clustering_can_use(sample_features) -> None:
    assert 0.5 < sample_features.std() < 2
    assert sample_features.mean().abs() < 0.2


def test_features_tell_scenes_apart_and_still_patches_from_changing_ones(sample_features) -> None:
    unit = torch.nn.functional.normalize(sample_features, dim=-1)
    same_scene = (unit[0] * unit[3]).sum(-1)
    cut = (unit[3] * unit[4]).sum(-1)
    assert same_scene.median() > 0.99
    assert cut.median() < 0.5


@pytest.mark.parametrize(
    "question",
    ["Where does the red circle go?", "Où va-t-il ?", "圆圈去哪里", "a\tb\n  c", "😀 {{ x }} </s>"],
)
def test_any_question_survives_the_tokenizer(tiny, question: str) -> None:
    ids = tiny.tokenizer(question, add_special_tokens=False).input_ids
    assert tiny.tokenizer.decode(ids) == question
    assert tiny.tokenizer.unk_token_id not in ids


def test_known_words_are_one_token(tiny) -> None:
    ids = tiny.tokenizer(" " + " ".join(WORDS), add_special_tokens=False).input_ids
    assert len(ids) == len(WORDS)


def test_prompt_is_the_chat_template_with_a_placeholder_for_each_token(tiny) -> None:
    frames = np.zeros((3, 50, 70, 3), dtype=np.uint8)
    inputs = tiny.encode(frames, "Why?")
    placeholders = "<video>" * (3 * 144 + 1)
    prompt = f"<|im_start|>user\n{placeholders}\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert tiny.tokenizer.decode(inputs["input_ids"][0]) == prompt
    assert inputs["attention_mask"].all()
    assert (inputs["input_ids"] == tiny.model.config.video_token_id).sum() == 3 * 144 + 1


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


def test_saved_checkpoint_loads_to_the_same_model(tiny, checkpoint: Path) -> None:
    loaded = load_video_model(checkpoint, "cpu")
    assert loaded.name == "tiny" and not loaded.is_random
    for name, value in tiny.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name]), name
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    one, other = tiny.encode(frames, "What? é"), loaded.encode(frames, "What? é")
    assert all(torch.equal(one[key], other[key]) for key in one)


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
    assert model.tokenizer.decode(ids[145:]) == "go!"


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
