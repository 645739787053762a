"""Folders that somebody made to break their reader: one clear error, whatever a file holds."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import PARITY
from safetensors.torch import load_file
from tiny_folders import WRITERS

from prunevid_kernels.adapters import ModelError, load_video_model
from prunevid_kernels.adapters.checkpoint.files import CheckpointError, open_checkpoint
from prunevid_kernels.adapters.families.detect import detect_family, read_shape

DEEP = "[" * 100_000 + "]" * 100_000
NESTED = json.loads("[" * 200 + "]" * 200)


def refusal(folder: Path) -> str:
    """The one line in which loading ends; headers and shape are judged alike."""
    with pytest.raises(ModelError) as caught:
        load_video_model(folder)
    return str(caught.value)


@pytest.fixture
def folder(folders, tmp_path) -> Callable[..., Path]:
    """A copy of a family's folder with values of its config.json changed."""

    def copy(name: str, **values: Any) -> Path:
        place = Path(shutil.copytree(folders[name], tmp_path / name))
        config = json.loads((place / "config.json").read_text()) | values
        (place / "config.json").write_text(json.dumps(config))
        return place

    return copy


# ---- config.json


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"architectures": 5}, "architectures must be a list of strings, got 5"),
        ({"architectures": [5]}, "architectures must be a list of strings, got [5]"),
        ({"model_type": 5}, "model_type must be a string, got 5"),
        ({"dtype": "float12"}, "dtype must name a dtype of torch, got 'float12'"),
        ({"text_config": {"hidden_size": 0}}, "text_config.hidden_size must be an integer from 1"),
        ({"text_config": {"num_hidden_layers": 10**9}}, "must be an integer from 1 to 1024"),
        ({"vision_config": {"patch_size": 0}}, "vision_config.patch_size must be an integer"),
        ({"vision_config": {"image_size": "x"}}, "vision_config.image_size must be an integer"),
        ({"note": "\ud800"}, "a string with a lone surrogate"),
        ({"note": NESTED}, "nested more than 100 deep"),
    ],
    ids=lambda value: str(value)[:50] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("name", WRITERS)
def test_impossible_configs(folder, name, values, expected):
    place = folder(name, **values)
    message = refusal(place)
    assert str(place) in message and "\n" not in message
    assert expected in message


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("pllava", {"num_frames": "6"}, "num_frames must be an integer from 1"),
        ("pllava", {"pooling_shape": [6, 0, 4]}, "pooling_shape must be an integer from 1"),
        ("pllava", {"pooling_shape": "644"}, "pooling_shape must be 3 integers, got '644'"),
        ("pllava", {"frame_shape": [4, 16]}, "frame_shape must be [8, 8], the tower's patches"),
        ("pllava", {"vision_feature_layer": 9}, "vision_feature_layer must be an integer from -3"),
        ("pllava", {"image_token_index": 10**6}, "image_token_index must be an integer from 0"),
        ("llava_onevision", {"video_token_index": -1}, "video_token_index must be a token's id"),
        ("llava_onevision", {"video_token_index": 9}, "which is no added token"),
        ("llava_onevision", {"video_token_index": 1}, "one token, 1, for images and videos"),
        ("llava_next_video", {"spatial_pool_stride": 0}, "spatial_pool_stride must be from 1 to 8"),
        ("llava_next_video", {"video_token_index": 1}, "one token, 1, for images and videos"),
        ("internvl", {"downsample_ratio": 0.3}, "one over a whole part of the 8 patches"),
        ("internvl", {"downsample_ratio": 0.0}, "one over a whole part of the 8 patches"),
        ("smolvlm", {"scale_factor": 3}, "scale_factor must be a whole part of 8 patches, got 3"),
        ("smolvlm", {"image_token_id": -1}, "image_token_id must be a token's id"),
        ("video_llama_3", {"video_token_id": 10**6}, "video_token_id must be a token's id"),
        ("st_llm", {"num_query_tokens": 0}, "num_query_tokens must be an integer from 1"),
        ("st_llm", {"residual_size": "4"}, "residual_size must be an integer from 1"),
        ("st_llm", {"video_token_id": -1}, "video_token_id must be an integer from 0"),
        ("st_llm", {"adapter_layers": 99}, "adapter_layers must be at most the tower's"),
    ],
    ids=str,
)
def test_values_of_a_family_that_make_no_model(folder, name, values, expected):
    assert expected in refusal(folder(name, **values))


def test_unknown_activation(folder, folders):
    for part in ("text_config", "vision_config"):
        values = json.loads((folders["pllava"] / "config.json").read_text())[part]
        place = folder("pllava", **{part: values | {"hidden_act": "swoosh"}})
        assert "swoosh" in refusal(place)
        shutil.rmtree(place)


def test_head_counts_that_a_published_st_llm_does_not_say(tmp_path):
    place = Path(shutil.copytree(PARITY / "stllm_tiny_qa_ckpt", tmp_path / "m"))
    config = json.loads((place / "config.json").read_text())
    config.pop("qformer_heads", None)
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r'12 heads do not divide.*"qformer_heads": N'):
        detect_family(place).check(open_checkpoint(place))


@pytest.mark.parametrize("text", [DEEP, '{"a": ' * 100_000, "\ufffe", "[]", "nul"])
def test_json_that_is_none(folder, text):
    place = folder("pllava")
    (place / "config.json").write_text(text)
    message = refusal(place)
    assert str(place / "config.json") in message and len(message) < 300


def test_a_byte_order_mark_is_read(folder):
    place = folder("pllava")
    content = (place / "config.json").read_bytes()
    (place / "config.json").write_bytes(b"\xef\xbb\xbf" + content)
    assert read_shape(place).family == "pllava"


def test_names_that_no_file_system_takes(tmp_path):
    assert "File name too long" in refusal(Path("x" * 5000))
    assert "not a checkpoint folder, it has no config.json" in refusal(tmp_path)


def test_a_pipe_is_not_waited_for(folder):
    place = folder("pllava")
    (place / "config.json").unlink()
    os.mkfifo(place / "config.json")
    assert "config.json: not a regular file" in refusal(place)


# ---- files beside it


@pytest.mark.parametrize("text", [DEEP, "{", '{"added_tokens": 5}'])
@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json"])
def test_broken_files_of_the_processor(folder, name, text):
    place = folder("llava_onevision")
    (place / name).write_text(text)
    assert str(place) in refusal(place)


@pytest.mark.parametrize("std", [[0, 1, 1], [1, 1], "abc", [1, 1, "x"], [float("nan"), 1, 1]])
def test_a_normalisation_that_is_none(folder, std):
    place = folder("llava_onevision")
    values = {"image_mean": [0.5] * 3, "image_std": std}
    (place / "preprocessor_config.json").write_text(json.dumps(values))
    assert "no valid image_mean and image_std" in refusal(place)


@pytest.mark.parametrize("template", ["{% for x in", "{{ raise_exception('no') }}", "{{ a.b.c }}"])
def test_a_chat_template_that_fails(folder, template):
    place = folder("llava_onevision")
    (place / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match="llava_onevision: its chat template fails: "):
        load_video_model(place).encode(np.zeros((2, 8, 8, 3), np.uint8), "What?")


def test_what_is_missing_is_told_at_once(folder):
    """A folder without a tokenizer, whose LoRA wants a strength: both in one message."""
    place = folder("pllava")
    shutil.rmtree(place)
    shutil.copytree(PARITY / "pllava_tiny_ckpt", place)
    message = refusal(place)
    assert "no tokenizer.json" in message and "lora_alpha is needed as well" in message


# ---- weights


class _Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


class _Endless:
    def __reduce__(self) -> Any:
        return bytearray, (2**62,)


def _archive(file: Path, content: bytes) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def _pickles() -> Iterator[Any]:
    yield pytest.param(pickle.dumps(_Evil(), protocol=2), id="runs-a-command")
    yield pytest.param(pickle.dumps(_Endless(), protocol=2), id="takes-all-memory")
    yield pytest.param(b"", id="empty")
    yield pytest.param(b"\x80\x02.", id="stops-at-once")
    yield pytest.param(b"\x80\x02}q\x00h\x07.", id="unknown-memo")
    yield pytest.param(b"\x80\x02Q.", id="reference-to-nothing")
    yield pytest.param(b"\x80\x02" + b"(" * 50 + b"tR.", id="calls-a-tuple")
    yield pytest.param(b"\x80\x02}X\x03\x00\x00\x00\xff\xfe\xfdK\x01s.", id="name-is-no-text")
    yield pytest.param(pickle.dumps({"a": 1}, protocol=2), id="a-number")
    yield pytest.param(pickle.dumps([1], protocol=2), id="a-list")


@pytest.mark.parametrize("content", _pickles())
def test_evil_and_malformed_pickles(folder, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    place = folder("pllava")
    (place / "model.safetensors").unlink()
    _archive(place / "pytorch_model.bin", content)
    message = refusal(place)
    assert str(place / "pytorch_model.bin") in message and "\n" not in message
    assert not (tmp_path / "ran").exists()


def test_damage_at_random_places_is_refused_or_harmless(folder, tmp_path):
    """A .bin with flipped bytes is read whole or refused; never another error."""
    place = folder("pllava")
    tensors = dict(list(load_file(place / "model.safetensors").items())[:3])
    (place / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "whole.bin")
    whole = (tmp_path / "whole.bin").read_bytes()
    draw, refused = random.Random(0), 0
    for _ in range(40):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(min(2000, len(damaged)))] = draw.randrange(256)
        (place / "pytorch_model.bin").write_bytes(damaged)
        try:
            open_checkpoint(place)
        except CheckpointError as error:
            refused += 1
            assert str(place / "pytorch_model.bin") in str(error)
    assert refused > 10


def test_sparse_weights_are_refused(folder):
    place = folder("pllava")
    (place / "model.safetensors").unlink()
    torch.save({"a": torch.eye(3).to_sparse()}, place / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="a must be a dense tensor, got torch.sparse_coo"):
        open_checkpoint(place)


@pytest.mark.parametrize("name", WRITERS)
def test_config_values_of_another_kind(folders, tmp_path, name):
    """Single changes: a folder is a family's or refused, and its shape has sizes."""
    draw, config = random.Random(name), json.loads((folders[name] / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((folders[name] / "model.safetensors").read_bytes())
    spoilt = [None, 0, -1, True, "x", [], {}, 1.5, float("nan"), 10**30, "../../etc", [[]]]
    for path in draw.choices(list(_paths(config)), k=60):
        changed = json.loads(json.dumps(config))
        parent = changed
        for step in path[:-1]:
            parent = parent[step]
        parent[path[-1]] = value = draw.choice(spoilt)
        (tmp_path / "config.json").write_text(json.dumps(changed))
        try:
            shape = read_shape(tmp_path)
            assert shape.tokens_per_frame > 0 and shape.vision_macs > 0, (path, value)
        except CheckpointError as error:
            assert str(tmp_path) in str(error)
    assert detect_family(folders[name]).name == name


def _paths(value: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*before, key)
            yield from _paths(item, (*before, key))
