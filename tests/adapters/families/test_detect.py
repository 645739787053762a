"""Which family a checkpoint folder is of, from its config.json and its keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from paths import PARITY
from safetensors.torch import save_file

from prunevid_kernels.adapters.checkpoint.files import CheckpointError
from prunevid_kernels.adapters.families import FAMILIES
from prunevid_kernels.adapters.families.detect import detect_family, read_shape

pytestmark = pytest.mark.one_version


def write(folder: Path, config: dict, key: str) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    save_file({key: torch.zeros(1)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"model_type": "llava_onevision"}, "llava_onevision"),
        ({"model_type": "llava", "architectures": ["PlavaForConditionalGeneration"]}, "pllava"),
        ({"model_type": "llava", "pooling_shape": [16, 12, 12]}, "pllava"),
        ({"model_type": "pllava"}, "pllava"),
        ({"model_type": "st_llm_hf", "architectures": ["STLLMForCausalLM"]}, "st_llm"),
        ({"model_type": "st_llm"}, "st_llm"),
        ({"model_type": "qwen2_5_vl"}, "qwen2_5_vl"),
        ({"model_type": "qwen2_vl"}, "qwen2_vl"),
        ({"model_type": "qwen3_vl"}, "qwen3_vl"),
        ({"model_type": "qwen3_vl_moe"}, "qwen3_vl"),
        ({"model_type": "qwen3_5"}, "qwen3_5"),
        ({"model_type": "qwen3_5_moe"}, "qwen3_5"),
        ({"model_type": "llava_next_video"}, "llava_next_video"),
        ({"model_type": "internvl"}, "internvl"),
        ({"model_type": "smolvlm"}, "smolvlm"),
        ({"model_type": "video_llama_3"}, "video_llama_3"),
    ],
    ids=str,
)
def test_family_by_config(tmp_path, config, family):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert detect_family(tmp_path).name == family


def test_family_by_keys(tmp_path):
    folder = write(tmp_path, {"model_type": "llama"}, "model.stllm_model.query_tokens")
    assert detect_family(folder).name == "st_llm"


@pytest.mark.parametrize("config", [{"model_type": "llava"}, {"model_type": "llama"}, {}], ids=str)
def test_no_family(tmp_path, config):
    write(tmp_path, config, "model.layers.0.weight")
    titles = ", ".join(family.title for family in FAMILIES.values())
    with pytest.raises(CheckpointError, match=f"must hold {titles}, got"):
        detect_family(tmp_path)


@pytest.mark.parametrize(
    ("folder", "frames", "tokens_per_frame"),
    [("pllava_tiny_ckpt", 6, 9), ("stllm_tiny_qa_ckpt", 16, 8)],
)
def test_shape_without_a_weight(folder, frames, tokens_per_frame):
    shape = read_shape(PARITY / folder)
    assert (shape.frames, shape.tokens_per_frame) == (frames, tokens_per_frame)
    assert shape.decoder.num_layers == 4
