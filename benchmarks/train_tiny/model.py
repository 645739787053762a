"""The untrained embedded model: architecture, vocabulary, prompt, and the files beside the weights.

A real ``LlavaOnevisionForConditionalGeneration`` with one million parameters: 12 x 12 patches a
frame, pooled to the 6 x 6 cells on which the generated clips stand, and a Qwen2 decoder with five
layers. Its vocabulary is the words of the questions and answers.

Two initial values differ from the library's, because with its own ones training takes many times
longer: the tower's positions are sines and cosines of row and column, and the decoder's attention
starts as content matching (``match_content``), so that "red" in a question finds what is red in the
video before anything is learned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from ..datasets import drawing
from .tasks import PLAIN, Task

PATCH_PX = 8
TOKENS_PER_FRAME = drawing.GRID**2
TOWER_WIDTH = 96
DECODER_WIDTH = 128
EMBEDDING_STD = 0.1
# How attention begins, see match_content.
MATCH_SCALE = 0.55  # attention logits near 3 where a word meets what it names
OTHER_CONTENT = 0.1
COPY_SCALE = 3.0
MLP_SCALE = 0.3

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'video' %}<video>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(task: Task = PLAIN) -> PreTrainedTokenizerFast:
    """Whole words in lower case; a word it does not know is ``<unk>``."""
    core = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(task.words)}, unk_token="<unk>")
    )
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[?.,!]"), "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_model(seed: int, task: Task = PLAIN) -> LlavaOnevisionForConditionalGeneration:
    """The model with its first weights, on the CPU in float32: drawn from ``seed``, or the task's
    own, with only the embeddings of new words drawn."""
    words = task.words
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=TOWER_WIDTH,
            intermediate_size=2 * TOWER_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=drawing.SIZE_PX,
            patch_size=PATCH_PX,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            hidden_size=DECODER_WIDTH,
            intermediate_size=2 * DECODER_WIDTH,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=len(words),
            max_position_embeddings=4096,
            initializer_range=DECODER_WIDTH**-0.5,
            rope_parameters={"rope_type": "default", "rope_theta": task.rope_theta},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=words.index("<|im_end|>"),
        ),
        image_token_index=words.index("<image>"),
        video_token_index=words.index("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaOnevisionForConditionalGeneration(config)
        nn.init.normal_(model.get_input_embeddings().weight, std=EMBEDDING_STD)
    embeddings = next(m for m in model.modules() if hasattr(m, "position_embedding"))
    with torch.no_grad():
        embeddings.position_embedding.weight.copy_(_position_waves())
    if task.start is not None:
        _take_weights(model, task.start)
    generation = model.generation_config
    generation.eos_token_id = words.index("<|im_end|>")
    generation.pad_token_id = words.index("<|endoftext|>")
    generation.do_sample = False
    return model


@torch.no_grad()
def _take_weights(model: LlavaOnevisionForConditionalGeneration, folder: Path) -> None:
    """All weights of a checkpoint whose words are the first of the model's."""
    given = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    weights = dict(model.named_parameters())
    for name, value in given.named_parameters():
        own = weights[name]
        if own is model.get_input_embeddings().weight:
            own[: len(value)] = value
        else:
            own.copy_(value)


@torch.no_grad()
def match_content(
    model: LlavaOnevisionForConditionalGeneration,
    word_groups: Sequence[Tensor],
    generator: torch.Generator,
) -> None:
    """Let the decoder's attention begin as a search for equal content, whose findings are copied.

    In the first key head of each layer, key and query see a token through the same directions:
    those that tell the words of a group apart, such as one colour from another. They lie in the
    dimensions that rotary positions hardly turn. What attention finds is added to the token, since
    output projections begin as the transposes of the value projections.

    Args:
        model: with a decoder that has not been trained; its embeddings and its tower have been.
        word_groups: ids of words that exclude each other, group by group.
        generator: for the weights of the other heads.
    """
    embeddings = model.get_input_embeddings().weight
    words = [embeddings[group] - embeddings[group].mean(dim=0) for group in word_groups]
    # As many directions as there are differences: one less than words in each group.
    apart = [torch.linalg.svd(group).Vh[: len(group) - 1] for group in words]
    directions = torch.linalg.qr(torch.cat(apart).T).Q.T  # [D, C]
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        head_dim = attention.head_dim
        slow = torch.arange(head_dim).unflatten(0, (2, -1))[:, -len(directions) // 2 :].flatten()
        matching = torch.zeros(head_dim, DECODER_WIDTH, device=directions.device)
        matching[slow[: len(directions)]] = MATCH_SCALE * directions
        query, key = attention.q_proj.weight, attention.k_proj.weight
        value, output = attention.v_proj.weight, attention.o_proj.weight
        heads_per_key = len(query) // len(key)
        for weight in (key, value):
            weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape), generator=generator))
        key[:head_dim] = matching + OTHER_CONTENT * key[:head_dim]
        for head in query.split(head_dim)[:heads_per_key]:
            head.copy_(matching + OTHER_CONTENT * head)
        values = value.unflatten(0, (-1, head_dim)).repeat_interleave(heads_per_key, dim=0)
        output.copy_(COPY_SCALE * values.flatten(0, 1).T)
        for projection in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj):
            projection.weight.mul_(MLP_SCALE)


def save_checkpoint(
    model: LlavaOnevisionForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    num_frames: int = PLAIN.frames,
) -> None:
    """Write weights (bfloat16) and everything else that loading needs, as transformers does.

    ``num_frames``: how many frames of a video it is given by default.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = model.device
    model.to("cpu", torch.bfloat16).save_pretrained(folder)
    model.to(device, torch.float32)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    for name, content in processor_files(model.config, num_frames).items():
        text = json.dumps(content, indent=2) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def processor_files(config: LlavaOnevisionConfig, num_frames: int) -> dict[str, dict[str, Any]]:
    """What ``AutoProcessor`` reads: file name -> content.

    Its classes know another model's sizes by default, so every value is written down. They need
    torchvision for videos; this project's own processor reads the same files without it.
    """
    vision = config.vision_config
    side = {"height": vision.image_size, "width": vision.image_size}
    pixels = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,  # bicubic
        "rescale_factor": 1 / 255,
        "size": side,
    }
    kind = "LlavaOnevision"
    tiles = {"do_pad": True, "image_grid_pinpoints": config.image_grid_pinpoints}
    names = {"processor_class": f"{kind}Processor"}
    return {
        "preprocessor_config.json": {
            **names, "image_processor_type": f"{kind}ImageProcessor", **pixels, **tiles
        },
        "video_preprocessor_config.json": {
            **names, "video_processor_type": f"{kind}VideoProcessor", **pixels,
            "do_sample_frames": False, "num_frames": num_frames,
        },
        "processor_config.json": {
            **names,
            "image_token": "<image>",
            "num_image_tokens": (vision.image_size // vision.patch_size) ** 2,
            "video_token": "<video>",
            "vision_aspect_ratio": config.vision_aspect_ratio,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
        },
    }  # fmt: skip


def _position_waves() -> Tensor:
    """[patches, TOWER_WIDTH]: half of the channels for the row, half for the column."""
    side = drawing.SIZE_PX // PATCH_PX
    bands = TOWER_WIDTH // 4
    at = torch.arange(side, dtype=torch.float32)
    frequency = 100 ** -(torch.arange(bands) / bands)
    angle = at[:, None] * frequency * math.pi / 2  # [side, bands]
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows = line[:, None].expand(side, side, -1)
    columns = line[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)
