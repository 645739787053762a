"""Tiny seeded models, clips and prompts for the adapter tests; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    SiglipVisionConfig,
)

from prunevid_kernels import PruneVidConfig

IMAGE_ID, VIDEO_ID, PAD_ID = 1, 2, 0
FIRST_TEXT_ID, VOCABULARY = 8, 96
IMAGE_SIZE_PX, PATCH_PX = 32, 4
TOKENS_PER_FRAME = 16  # 8 x 8 patches, pooled
NUM_LAYERS = 5
CONFIG = PruneVidConfig(layer=1)


def text_config(kind: str = "qwen2", **overrides: Any) -> LlamaConfig | Qwen2Config | Qwen3Config:
    values: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,  # wide enough that attention prefers some tokens
        "tie_word_embeddings": False,
        "pad_token_id": PAD_ID,
        "bos_token_id": None,
        "eos_token_id": None,
        **overrides,
    }
    if kind == "qwen3":
        values["head_dim"] = 16  # its heads have a size of their own
    return {"qwen2": Qwen2Config, "llama": LlamaConfig, "qwen3": Qwen3Config}[kind](**values)


def llava(
    kind: str = "qwen2", attention: str = "sdpa", dtype: torch.dtype = torch.float32, **text: Any
) -> LlavaOnevisionForConditionalGeneration:
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=IMAGE_SIZE_PX,
            patch_size=PATCH_PX,
            vision_use_head=False,
        ),
        text_config=text_config(kind, **text),
        image_token_index=IMAGE_ID,
        video_token_index=VIDEO_ID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[IMAGE_SIZE_PX, IMAGE_SIZE_PX]],
        tie_word_embeddings=False,
    )
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = LlavaOnevisionForConditionalGeneration(config).eval().to(dtype)
    with torch.no_grad():  # features with a spread of about 1, as trained projectors give
        model.model.multi_modal_projector.linear_2.weight.mul_(1.0)
        model.model.image_newline.normal_()
    return _greedy(model)


def causal_lm(kind: str = "llama", attention: str = "sdpa", **text: Any) -> Any:
    config = text_config(kind, **text)
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = {"qwen2": Qwen2ForCausalLM, "llama": LlamaForCausalLM}[kind](config)
    return _greedy(model.eval())


def _greedy(model: Any) -> Any:
    model.generation_config.do_sample = False
    model.generation_config.pad_token_id = PAD_ID
    model.generation_config.eos_token_id = None
    return model


def clip(frames: int, seed: int = 0) -> Tensor:
    """[frames, 3, H, W]: two scenes, the upper half still but for faint noise, the lower noisy."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX, generator=generator)

    scenes = torch.cat([draw(1).expand(n, -1, -1, -1) for n in (frames // 2, frames - frames // 2)])
    noise = draw(frames)
    noise[:, :, : IMAGE_SIZE_PX // 2] *= 0.02
    return scenes + noise


def video_tokens(frames: int) -> list[int]:
    return [VIDEO_ID] * (frames * TOKENS_PER_FRAME + 1)


def text_tokens(count: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randint(FIRST_TEXT_ID, VOCABULARY, (count,), generator=generator).tolist()


def features(model: Any, pixels: Tensor) -> Tensor:
    """[T, N, C] the tokens of a clip as the model gives them to its decoder, newline excluded."""
    core = model.model
    hidden = core.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    return core.apply_pooling(core.multi_modal_projector(hidden))


def left_pad(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(input_ids, attention_mask) [B, S]."""
    longest = max(map(len, prompts))
    ids = [[PAD_ID] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def question(frames: int = 8, seed: int = 0, before: int = 5, after: int = 7) -> dict[str, Tensor]:
    """The inputs of a prompt with one video."""
    ids = text_tokens(before, seed) + video_tokens(frames) + text_tokens(after, seed + 50)
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
        "pixel_values_videos": clip(frames, seed)[None],
    }


def two_prompts() -> dict[str, Tensor]:
    """A padded batch whose rows keep different numbers of tokens."""
    ids, mask = left_pad(
        [
            text_tokens(3) + video_tokens(8) + text_tokens(4, 1),
            text_tokens(9, 2) + video_tokens(8) + text_tokens(6, 3),
        ]
    )
    clips = torch.stack([clip(8, 1), clip(8, 2)])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values_videos": clips}


def generate(model: Any, inputs: dict[str, Any], tokens: int = 9, **kwargs: Any) -> Any:
    """Greedy ``generate``; the result has ``sequences``, ``logits`` and ``past_key_values``."""
    return model.generate(
        **inputs,
        max_new_tokens=tokens,
        return_dict_in_generate=True,
        output_logits=True,
        **kwargs,
    )


def logits_of(result: Any) -> Tensor:
    """[tokens, B, vocabulary] of what :func:`generate` gave."""
    return torch.stack(result.logits)
