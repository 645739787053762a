"""Tiny checkpoints with random weights that a vLLM server can load.

vLLM wants what a published checkpoint brings: weights, tokenizer, chat template, processors. The
answers mean nothing; token counts, positions, caches and scheduling are as real as with real ones.
Weights are drawn wide enough that the next token depends on the video.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipVisionConfig,
)

IMAGE_SIZE_PX, PATCH_PX = 96, 8  # LLaVA-OneVision: 12 x 12 patches, 6 x 6 tokens after pooling
QWEN_PATCH_PX = 14
QWEN3_PATCH_PX = 8
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LLAVA_SPECIAL = ("<image>", "<video>")
_QWEN_SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}
_HALF_BILLION: dict[str, Any] = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
}
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% elif 'video' in part.type %}VIDEO\n"
    "{% else %}IMAGE\n{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_TEMPLATE = _TEMPLATE.replace("VIDEO", "<video>").replace("IMAGE", "<image>")
QWEN_TEMPLATE = _TEMPLATE.replace("VIDEO", "<|vision_start|><|video_pad|><|vision_end|>").replace(
    "IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"
)


def write_llava_onevision(folder: Path, *, half_billion: bool = False) -> None:
    """A LLaVA-OneVision checkpoint of 36 tokens a frame.

    Args:
        half_billion: the shapes of llava-onevision-qwen2-0.5b, to measure with: its decoder, its
            vocabulary, its 196 tokens a frame, and a vision tower of its widths with two of its 26
            layers, so that a CPU answers within seconds.
    """
    tokenizer = _tokenizer(_LLAVA_SPECIAL, entries=152000 if half_billion else 0)
    side = 384 if half_billion else IMAGE_SIZE_PX
    patch = 14 if half_billion else PATCH_PX
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=1152 if half_billion else 64,
            intermediate_size=4304 if half_billion else 128,
            num_hidden_layers=2,
            num_attention_heads=16 if half_billion else 2,
            image_size=side,
            patch_size=patch,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            **{**_TEXT, **(_HALF_BILLION if half_billion else {}), **_token_ids(tokenizer)}
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[side, side]],
        tie_word_embeddings=half_billion,
    )
    size = {"height": side, "width": side}
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=[[side, side]]
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(side // patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=LLAVA_TEMPLATE,
    )
    _write(folder, LlavaOnevisionForConditionalGeneration, config, processor)
    # transformers leaves a level out of the tower's names when it saves; vLLM wants it.
    tower, full = "vision_tower.", "vision_tower.vision_model."
    _rewrite(
        folder,
        lambda key, value: (key if full in key else key.replace(tower, full), value),
    )


def write_qwen2_5_vl(folder: Path, *, half_billion: bool = False) -> None:
    """A Qwen2.5-VL checkpoint; the video's size decides how many tokens a frame has.

    Args:
        half_billion: a decoder with the shape and the vocabulary of Qwen2's of 0.5 billion
            parameters, to measure with. The vision tower stays tiny, and frames have at most 4 x 4
            tokens, so that a CPU answers within seconds.
    """
    tokenizer = _tokenizer(_QWEN_SPECIAL, entries=151936 if half_billion else 0)
    sections = [8, 12, 12] if half_billion else [4, 6, 6]
    text = {**_TEXT, **(_HALF_BILLION if half_billion else {}), **_token_ids(tokenizer)}
    config = Qwen2_5_VLConfig(
        text_config={**text, "rope_scaling": {"type": "mrope", "mrope_section": sections}},
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": text["hidden_size"],
            "patch_size": QWEN_PATCH_PX,
            "fullatt_block_indexes": [1],
            "window_size": 4 * QWEN_PATCH_PX,
            "tokens_per_second": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=half_billion,
    )
    # Small pictures stay small: real processors would blow them up to a minimum of pixels.
    side = 112 if half_billion else 224
    size = {"shortest_edge": 56 * 56, "longest_edge": side * side}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=QWEN_PATCH_PX, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=QWEN_PATCH_PX, size=size),
        chat_template=QWEN_TEMPLATE,
    )
    _write(folder, Qwen2_5_VLForConditionalGeneration, config, processor)


_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
}
_LINEAR = {
    "linear_key_head_dim": 128,  # published; the CPU engine's kernel takes few others
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
_QWEN3 = {  # checkpoint -> transformers' name, what its decoder has beside the others'
    "qwen3_vl": ("Qwen3VL", {}),
    "qwen3_vl_moe": ("Qwen3VLMoe", _EXPERTS),
    "qwen3_5": ("Qwen3_5", _LINEAR),
    "qwen3_5_moe": ("Qwen3_5Moe", {**_LINEAR, **_EXPERTS, "shared_expert_intermediate_size": 64}),
}
QWEN3_PLANES = 2


def write_qwen3(kind: str, folder: Path) -> None:
    """A Qwen3-VL or a Qwen3.5 checkpoint, dense or with experts; frames stand apart in the
    prompt. The video's size decides how many tokens a frame has."""
    name, own = _QWEN3[kind]
    tokenizer = _tokenizer(_QWEN_SPECIAL)
    vision = {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "out_hidden_size": _TEXT["hidden_size"],
        "patch_size": QWEN3_PATCH_PX,
        "num_position_embeddings": 64,
    }
    if kind.startswith("qwen3_vl"):
        vision["deepstack_visual_indexes"] = [0, 1][:QWEN3_PLANES]
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_interleaved": True}
    rope |= {"mrope_section": [6, 5, 5], "partial_rotary_factor": 1.0}
    config = getattr(transformers, f"{name}Config")(
        text_config={
            **_TEXT,
            **_token_ids(tokenizer),
            **own,
            "head_dim": 32,
            "rope_parameters": rope,
        },
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    size = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    # Of all frames together; the longest clips of the tests stay as they are.
    video_size = {"shortest_edge": 32 * 32, "longest_edge": 112 * 112 * 40}
    common = {"patch_size": QWEN3_PATCH_PX, "merge_size": 2, "temporal_patch_size": 2}
    # The same for both kinds, as in published checkpoints: vLLM normalizes in the tower.
    common |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **common),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=video_size, **common),
        chat_template=QWEN_TEMPLATE,
    )
    _write(folder, getattr(transformers, f"{name}ForConditionalGeneration"), config, processor)
    if kind == "qwen3_vl_moe":
        # Published with inputs before outputs, as transformers reads them but does not save them.
        _rewrite(
            folder,
            lambda key, value: (key, value.mT.contiguous()) if ".experts." in key else (key, value),
        )


WRITERS = {
    "llava_onevision": write_llava_onevision,
    "qwen2_5_vl": write_qwen2_5_vl,
    **{kind: partial(write_qwen3, kind) for kind in _QWEN3},
}


def main() -> None:
    """``python vllm_checkpoints.py KIND FOLDER``: a checkpoint to measure with."""
    kind, folder = sys.argv[1:]
    measured = {
        "qwen2_5_vl_0.5b": partial(write_qwen2_5_vl, half_billion=True),
        "llava_onevision_0.5b": partial(write_llava_onevision, half_billion=True),
    }
    (WRITERS | measured)[kind](Path(folder))


def _tokenizer(special: tuple[str, ...], entries: int = 0) -> PreTrainedTokenizerFast:
    """Single bytes, so that every question can be read; filled up to a number of entries that no
    text has."""
    tokens = [*_SPECIAL, *special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [f"<{number}>" for number in range(len(tokens), entries)]
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=_SPECIAL[0],
        eos_token=_SPECIAL[2],
        additional_special_tokens=[_SPECIAL[1], *special],
        clean_up_tokenization_spaces=False,
    )


def _token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _rewrite(folder: Path, change: Callable[[str, Tensor], tuple[str, Tensor]]) -> None:
    """Change names or values in a checkpoint's file."""
    weights = folder / "model.safetensors"
    changed = dict(change(key, value) for key, value in load_file(weights).items())
    save_file(changed, weights, metadata={"format": "pt"})


@torch.no_grad()
def _write(folder: Path, model_class: Any, config: Any, processor: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).float()
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "language_model" not in name:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        if hasattr(model.model, "image_newline"):
            model.model.image_newline.normal_()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


if __name__ == "__main__":
    main()
