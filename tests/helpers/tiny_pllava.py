"""Reference data and tiny models of PLLaVA for its tests; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from paths import PARITY
from safetensors.torch import load_file, save_file
from tiny_models import IMAGE_SIZE_PX, PAD_ID, PATCH_PX, clip, left_pad, text_config, text_tokens
from torch import Tensor
from transformers import CLIPVisionConfig

from prunevid_kernels.adapters.families.pllava.config import PllavaConfig
from prunevid_kernels.adapters.families.pllava.model import Pllava

PUBLISHED = PARITY / "pllava_tiny_ckpt"
IMAGE_ID, FRAMES, TOKENS_PER_FRAME = 1, 6, 16
TOKENS = FRAMES * TOKENS_PER_FRAME


@cache
def reference(name: str) -> dict[str, Tensor]:
    return load_file(PARITY / f"{name}.safetensors")


def relative_error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def published_folder(folder: Path, change: Callable[[str, Tensor], tuple[str, Tensor] | None]):
    """The published tiny checkpoint in one file, each tensor put through ``change``; None drops
    it."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(PUBLISHED.glob("*.safetensors")):
        changed = (change(key, tensor) for key, tensor in load_file(file).items())
        tensors |= dict(pair for pair in changed if pair is not None)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text((PUBLISHED / "config.json").read_text())
    return folder


def merge_by_hand(alpha: float) -> Callable[[str, Tensor], tuple[str, Tensor] | None]:
    """For :func:`published_folder`: the plain layout, LoRA merged as its definition says."""
    stored = {k: t for f in PUBLISHED.glob("*.safetensors") for k, t in load_file(f).items()}

    def change(key: str, tensor: Tensor) -> tuple[str, Tensor] | None:
        if ".lora_" in key:
            return None
        if ".base_layer." in key:
            down, up = (
                stored[key.replace("base_layer", f"lora_{side}.default")].double() for side in "AB"
            )
            tensor = (tensor.double() + alpha / 8 * up @ down).float()
        return key.replace(".base_model.model", "").replace(".base_layer", ""), tensor

    return change


@cache
def random_model(attention: str = "sdpa", image_id: int = IMAGE_ID, **text: Any) -> Pllava:
    config = PllavaConfig(
        text_config=text_config("llama", **text),
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=IMAGE_SIZE_PX,
            patch_size=PATCH_PX,
        ),
        image_token_index=image_id,
        num_frames=FRAMES,
        pooling_shape=(FRAMES, 4, 4),
        frame_shape=(8, 8),
    )
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = Pllava(config).eval()
    with torch.no_grad():  # features that differ, as trained projectors give them
        model.multi_modal_projector.linear_1.weight.normal_()
        model.multi_modal_projector.linear_2.weight.normal_()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD_ID
    return model


def prompt(before: int = 3, after: int = 7, seed: int = 0) -> list[int]:
    """Ids with the placeholder repeated."""
    return text_tokens(before, seed) + [IMAGE_ID] * TOKENS + text_tokens(after, seed + 50)


def question(seed: int = 0, **lengths: int) -> dict[str, Any]:
    return batch([prompt(seed=seed, **lengths)], [seed])


def batch(prompts: list[list[int]], seeds: list[int]) -> dict[str, Any]:
    """Left-padded prompts, and a clip for each seed."""
    ids, mask = left_pad(prompts)
    clips = torch.stack([clip(FRAMES, seed) for seed in seeds])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": clips}
