"""Reference data and tiny models of ST-LLM for its tests; nothing is downloaded."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from paths import PARITY
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import text_config, text_tokens
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipVisionConfig

from prunevid_kernels.adapters.checkpoint.files import open_checkpoint
from prunevid_kernels.adapters.checkpoint.loading import load_weights
from prunevid_kernels.adapters.families.st_llm.checkpoint import IGNORED, recipes
from prunevid_kernels.adapters.families.st_llm.config import StLlmConfig
from prunevid_kernels.adapters.families.st_llm.model import StLlm

# What neither the shapes nor the published config.json of the tiny checkpoints tell.
TINY_SIZES = {"vision_heads": 4, "qformer_heads": 4, "residual_size": 4}
QUERIES = 32


class Reference:
    """One file of reference data: ``config``, and tensors by name."""

    def __init__(self, name: str) -> None:
        with safe_open(PARITY / f"{name}.safetensors", framework="pt") as file:
            self.config: dict[str, Any] = json.loads((file.metadata() or {}).get("config", "{}"))
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def fill(self, module: nn.Module, path: str, folder: Path) -> None:
        """Load the file's weights into a part of the model, which has ``path`` in the whole."""
        whole = nn.Module()
        inner = whole
        *parents, leaf = path.split(".")
        for name in parents:
            inner.add_module(name, nn.Module())
            inner = inner.get_submodule(name)
        inner.add_module(leaf, module)
        state = {k[6:]: t for k, t in self.tensors.items() if k.startswith("state.")}
        state.pop("model.stllm_model.query_tokens", None)  # a parameter of the whole
        save_file(state, folder / "model.safetensors")
        checkpoint = open_checkpoint(folder)
        load_weights(whole, checkpoint, recipes(state), ignore=IGNORED, dtype=None, device="cpu")


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def checkpoint_folder(folder: Path, kind: str, **config: Any) -> Path:
    """A copy of a tiny published checkpoint, "qa" or "conversation", that states its sizes."""
    source = PARITY / f"stllm_tiny_{kind}_ckpt"
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    values = json.loads((source / "config.json").read_text()) | TINY_SIZES | config
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def edit_weights(folder: Path, **changes: Tensor | None) -> None:
    """Write a checkpoint anew as one file, with tensors replaced, added, or (None) left out."""
    state: dict[str, Tensor] = {}
    for file in sorted(folder.glob("pytorch_model-*.bin")):
        state |= torch.load(file, weights_only=True)
        file.unlink()
    (folder / "pytorch_model.bin.index.json").unlink()
    for key, value in changes.items():
        state.pop(key, None)
        if value is not None:
            state[key] = value
    torch.save(state, folder / "pytorch_model.bin")


@cache
def random_model(attention: str = "sdpa", residual_size: int | None = None) -> StLlm:
    """Seeded random weights, 32 tokens a frame as published, five decoder layers."""
    config = StLlmConfig(
        text_config=text_config("llama"),
        vision_config=InstructBlipVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=28,
            patch_size=14,
        ),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=61,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=40,
            max_position_embeddings=32,
            encoder_hidden_size=32,
            hidden_dropout_prob=0.0,
        ),
        num_query_tokens=QUERIES,
        adapter_layers=0 if residual_size else 1,
        adapter_frames=16,
        residual_size=residual_size,
        residual_width=8,
    )
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = StLlm(config).eval()
    with torch.no_grad():
        for name, parameter in model.video_encoder.named_parameters():
            if parameter.ndim > 1 and "norm" not in name:
                parameter.normal_(0, 0.3)
        model.video_encoder.query_tokens.normal_()
    model.generation_config.eos_token_id = None
    return model


def clip(frames: int, seed: int = 0, side: int = 28) -> Tensor:
    """[frames, 3, side, side]: two scenes with faint noise."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Tensor:
        return torch.randn(count, 3, side, side, generator=generator)

    scenes = [draw(1).expand(n, -1, -1, -1) for n in (frames // 2, frames - frames // 2)]
    return torch.cat(scenes) + 0.3 * draw(frames)


def question(
    frames: int = 6, seed: int = 0, words: int = 7, visual_frames: int | None = None
) -> dict[str, Tensor]:
    """The inputs of a prompt, placeholders in front."""
    visual = (visual_frames or frames) * QUERIES
    ids = torch.tensor([[0] * visual + [2] + text_tokens(words, seed)])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": clip(frames, seed)[None],
        "qformer_input_ids": torch.tensor([text_tokens(4, seed)]) % 61,
    }


def batch(*prompts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Prompts of :func:`question` in one batch, padded on the left."""
    longest = max(prompt["input_ids"].shape[1] for prompt in prompts)

    def pad(row: Tensor, value: int) -> Tensor:
        return nn.functional.pad(row, (longest - row.shape[1], 0), value=value)

    return {
        "input_ids": torch.cat([pad(prompt["input_ids"], 2) for prompt in prompts]),
        "attention_mask": torch.cat([pad(prompt["attention_mask"], 0) for prompt in prompts]),
        "pixel_values": torch.cat([prompt["pixel_values"] for prompt in prompts]),
        "qformer_input_ids": torch.cat([prompt["qformer_input_ids"] for prompt in prompts]),
    }
