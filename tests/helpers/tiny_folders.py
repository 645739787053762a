"""Whole checkpoint folders of tiny random models of each family, tokenizers included."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tiny_frames
import tiny_grids
import tiny_models
import tiny_pllava
import tiny_st_llm
from sentencepiece import SentencePieceTrainer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CORPUS = (
    "Where does the red circle go? What is blue? When is the scene dark? Look, what happens next: "
    "###Human: ###Assistant: red"
)
# What a prompt of a test may have, so that <unk>, which stands for a visual token, comes out of no
# text.
CHARACTERS = string.ascii_letters + string.digits + ".,:?#()_-"

LLAVA_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'video' %}<video>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

LLAVA_NEXT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content[0].text }} {% else %}USER: "
    "{% for part in message.content %}"
    "{% if part.type == 'video' %}<video>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def byte_tokenizer(special: list[str], end: str, template: str) -> PreTrainedTokenizerFast:
    """Single bytes after the special tokens, of which the first pads and ``end`` ends."""
    entries = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(entries)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=special[0],
        eos_token=end,
        additional_special_tokens=[token for token in special[1:] if token != end],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def write_folder(folder: Path, model: Any, tokenizer: Any, preprocessing: dict[str, Any]) -> Path:
    """A random model that answers in ASCII letters and spaces."""
    sayable = {tokenizer.eos_token, "Ġ", *string.ascii_letters}  # Ġ is a space
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.suppress_tokens = [
        index for entry, index in tokenizer.get_vocab().items() if entry not in sayable
    ]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(tokenizer.chat_template)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return folder


def write_llava_onevision(folder: Path, **text: Any) -> Path:
    special = ["<|endoftext|>", "<image>", "<video>", "<|im_start|>", "<|im_end|>"]
    assert special.index("<image>") == tiny_models.IMAGE_ID
    assert special.index("<video>") == tiny_models.VIDEO_ID
    tokenizer = byte_tokenizer(special, "<|im_end|>", LLAVA_TEMPLATE)
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 32768}
    model = tiny_models.llava(**words, **text)
    side = tiny_models.IMAGE_SIZE_PX
    size = {"height": side, "width": side}
    return write_folder(folder, model, tokenizer, {**_HALVES, "size": size})


def write_llava_next_video(folder: Path) -> Path:
    special = ["<pad>", "<image>", "<video>", "<s>", "</s>"]
    tokenizer = byte_tokenizer(special, "</s>", LLAVA_NEXT_TEMPLATE)
    model = tiny_frames.llava_next_video(vocab_size=len(tokenizer), max_position_embeddings=32768)
    return write_folder(folder, model, tokenizer, _HALVES)


def write_internvl(folder: Path) -> Path:
    special = ["<|endoftext|>", "<IMG_CONTEXT>", "<video>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_tokenizer([*special, "<img>", "</img>"], "<|im_end|>", LLAVA_TEMPLATE)
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 32768}
    return write_folder(folder, tiny_frames.internvl("qwen3", **words), tokenizer, _HALVES)


def write_smolvlm(folder: Path) -> Path:
    special = ["<|im_end|>", "<image>", "<video>", "<|im_start|>", "<end_of_utterance>"]
    special += ["<fake_token_around_image>", "<global-img>"]
    tokenizer = byte_tokenizer(special, "<end_of_utterance>", "{{ messages }}")
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 32768}
    sampling = {"fps": 1, "max_frames": 48, "video_size": {"longest_edge": 32}}
    model = tiny_frames.smolvlm(**words)
    return write_folder(folder, model, tokenizer, {**_HALVES, "video_sampling": sampling})


def write_video_llama_3(folder: Path) -> Path:
    special = ["<|endoftext|>", "<image>", "<video>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_tokenizer(special, "<|im_end|>", LLAVA_TEMPLATE)
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 32768}
    return write_folder(folder, tiny_frames.video_llama_3(**words), tokenizer, _HALVES)


def write_pllava(folder: Path) -> Path:
    """A random model that knows single bytes."""
    tiny_pllava.random_model(image_id=3, vocab_size=260).save_pretrained(folder)
    write_pllava_tokenizer(folder, image_id=3)
    return folder


def write_pllava_tokenizer(folder: Path, image_id: int, vocab_size: int = 260) -> None:
    entries = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    entries.insert(image_id, "<image>")
    vocabulary = {token: index for index, token in enumerate(entries[:vocab_size])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = [AddedToken(token) for token in ("<unk>", "<s>", "</s>", "<image>")]
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def write_st_llm(folder: Path, residual_size: int | None = None) -> Path:
    """A random model of single characters, and a Q-Former of 60 words and [DEC]."""
    tiny_st_llm.random_model(residual_size=residual_size).save_pretrained(folder)
    words = CORPUS.split()
    SentencePieceTrainer.train(
        sentence_iterator=iter([CORPUS, *words] * 20),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=90,
        required_chars=CHARACTERS,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    bert = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(words)]
    bert += [f"[unused{index}]" for index in range(60 - len(bert))]
    (folder / "vocab.txt").write_text("\n".join(bert))
    return folder


GRID_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_grid(folder: Path, kind: str) -> Path:
    """A random model of one of the kinds of ``tiny_grids`` that knows single bytes and answers in
    ASCII letters and spaces; up to 12 tokens a frame."""
    special = ["<|endoftext|>", "<|image_pad|>", "<|video_pad|>"]
    special += ["<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"]
    entries = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(entries)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=special[1:-1],
        clean_up_tokenization_spaces=False,
    )
    model = tiny_grids.draw(kind, vocab_size=len(entries))
    sayable = {"<|im_end|>", "Ġ", *string.ascii_letters}
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.suppress_tokens = [
        index for index, entry in enumerate(entries) if entry not in sayable
    ]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(GRID_TEMPLATE)
    block = (2 * tiny_grids.PATCH_PX) ** 2
    frames = 32 if kind in tiny_grids.APART else 1  # of a video, or of a frame
    preprocessing = {
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
        "size": {"shortest_edge": 4 * block, "longest_edge": 12 * block * frames},
    }
    (folder / "video_preprocessor_config.json").write_text(json.dumps(preprocessing))
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "llava_onevision": write_llava_onevision,
    "llava_next_video": write_llava_next_video,
    "internvl": write_internvl,
    "smolvlm": write_smolvlm,
    "video_llama_3": write_video_llama_3,
    "pllava": write_pllava,
    "st_llm": write_st_llm,
    "qwen2_5_vl": partial(write_grid, kind="qwen2_5_vl"),
    "qwen3_vl": partial(write_grid, kind="qwen3_vl"),
}
