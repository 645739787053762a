"""Frames and a question as ST-LLM's inputs: prompts, pixels, and what tokenizers get wrong."""

from __future__ import annotations

import json
import string
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tiny_st_llm import PARITY, checkpoint_folder
from transformers import AutoTokenizer

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import prune
from prunevid_kernels.adapters.families.st_llm.generation import STOP_IDS, StopAtNextTurn
from prunevid_kernels.adapters.families.st_llm.model import StLlm
from prunevid_kernels.adapters.families.st_llm.processor import (
    StLlmProcessor,
    crop_frame,
    prompt_text,
)

QUESTION = "what is in the video?"
MVBENCH = "mvbench_ask_simple_system_llm(text after the visual span; BOS id 2 first)"


def write_vocabularies(folder: Path) -> Path:
    """As the published folder has it, tokenizer.model alone; and a Q-Former vocabulary of 60."""
    lines = [
        "###Human: what is in the video? ###Assistant: a cat",
        string.ascii_lowercase + "</>",
    ] * 20
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=60,
        model_type="bpe",
        character_coverage=1.0,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    letters = list(string.ascii_lowercase)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "?"]
    words += letters + [f"##{letter}" for letter in letters]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_vocabularies(checkpoint_folder(tmp_path_factory.mktemp("qa"), "qa"))


@pytest.fixture(scope="module")
def processor(folder) -> StLlmProcessor:
    return StLlmProcessor.from_pretrained(folder)


def frames(count: int, height: int = 60, width: int = 83) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["landscape_240x320", "portrait_400x220", "hd_360x640"])
def test_pixels_are_the_published_ones(name):
    reference = load_file(PARITY / "preprocess.safetensors")
    cropped = crop_frame(reference[f"{name}.in_uint8"].numpy(), 224)
    expected = reference[f"{name}.stllm_224_before_norm_uint8"].permute(1, 2, 0).numpy()
    assert np.array_equal(cropped, expected)


def test_prompts_are_the_published_ones():
    published = json.loads((PARITY / "prompts.json").read_text())
    sentence = published["stllm"][MVBENCH].removeprefix("###Human: ").partition("\n")[0]
    asked = f"{sentence}\n{published['question_text']}\nOnly give the best option.\n"
    assert prompt_text(asked, answer_prefix="Best option:(") == published["stllm"][MVBENCH]
    question = "What is happening in the video?"
    without = published["stllm"]["chat_instructblip_system=False"]["text"]
    assert prompt_text(question) == without
    with_system = published["stllm"]["chat_instructblip_system=True"]["text"]
    system = with_system.removesuffix(f"\n{without}")
    assert prompt_text(question, system) == with_system


def test_inputs_are_the_prompt_s_ids_and_pixels(processor, folder):
    inputs = processor(frames(5), QUESTION, answer_prefix="a ")
    text = "###Human: what is in the video? ###Assistant: a "
    spoken = SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode(text)
    assert inputs["input_ids"].tolist() == [[0] * 5 * 8 + [2] + spoken]
    assert inputs["attention_mask"].eq(1).all()
    assert inputs["pixel_values"].shape == (1, 5, 3, 56, 56)
    white = processor(np.full((1, 60, 60, 3), 255, np.uint8), "")["pixel_values"]
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = (1 - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(white[0, 0, :, 3, 4], expected, rtol=0, atol=1e-6)
    read = processor.qformer_tokenizer.convert_ids_to_tokens(inputs["qformer_input_ids"][0])
    assert read[:3] == ["[CLS]", "what", "is"] and read[-2:] == ["?", "[SEP]"]


def test_the_tokenizer_reads_as_sentencepiece_where_auto_tokenizer_loses_the_first_blank(
    processor, folder
):
    auto = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    text = "what is in the video?"
    spoken = processor.sentencepiece.encode(text)
    is_mended = Version(version("transformers")) >= Version("5.24")
    assert (auto(text, add_special_tokens=False).input_ids == spoken) == is_mended
    tokenizer = processor.tokenizer
    assert tokenizer(text, add_special_tokens=False).input_ids == spoken
    assert tokenizer.decode([2, *spoken, 2], skip_special_tokens=True).strip() == text


def test_special_tokens_in_a_question_are_text(processor):
    ids = processor(frames(1), "<unk> and </s> and <s>")["input_ids"][0, 8:]
    assert ids[0] == 2 and 2 not in ids[1:] and 1 not in ids[1:]


def test_a_character_that_would_become_a_placeholder_is_refused(processor):
    """The published vocabulary writes any character as bytes; a poorer one gives <unk>."""
    with pytest.raises(ValueError, match="<unk>, id 0, which stands for a visual token"):
        processor(frames(1), "what is \u00fcber?")


def test_long_question_loses_its_beginning_for_the_qformer(processor):
    read = processor(frames(1), "what " * 60 + "is ?")["qformer_input_ids"][0]
    assert len(read) == 40  # the tiny model's positions; 256 in the published one
    tokens = processor.qformer_tokenizer.convert_ids_to_tokens(read)
    assert tokens[0] == "[CLS]" and tokens[-3:] == ["is", "?", "[SEP]"]


def test_qformer_vocabulary_has_dec(processor):
    assert processor.qformer_tokenizer.convert_tokens_to_ids("[DEC]") == 60
    assert len(processor.qformer_tokenizer) == 61


def test_frames_of_the_published_models(tmp_path, processor):
    assert processor.num_frames == 16
    other = write_vocabularies(checkpoint_folder(tmp_path, "conversation"))
    conversation = StLlmProcessor.from_pretrained(other)
    assert conversation.num_frames == 64
    ids = conversation(frames(12), QUESTION)["input_ids"][0]
    assert ids[:33].tolist() == [0] * 32 + [2]  # residual mode: 4 frames of 8, whatever came in


def test_pruned_answer_to_a_question(processor, folder):
    model = StLlm.from_pretrained(folder)
    inputs = processor(frames(6), QUESTION)
    plain = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert plain.shape[1] <= inputs["input_ids"].shape[1] + 5
    with prune(model, PruneVidConfig(layer=1)) as handle:
        model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert handle.report.last.tokens_before == 48 > handle.report.last.tokens_kept


def test_vocabulary_elsewhere(tmp_path, folder):
    (tmp_path / "bert.txt").write_text((folder / "vocab.txt").read_text())
    for place in (tmp_path / "bert.txt", folder):
        processor = StLlmProcessor.from_pretrained(folder, qformer_tokenizer=place)
        assert len(processor.qformer_tokenizer) == 61


def test_missing_vocabularies_are_named(tmp_path, folder):
    bare = checkpoint_folder(tmp_path, "qa")
    with pytest.raises(ValueError, match="no tokenizer.model"):
        StLlmProcessor.from_pretrained(bare)
    (bare / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    with pytest.raises(ValueError, match="vocab.txt: no such file; the Q-Former reads") as missing:
        StLlmProcessor.from_pretrained(bare)
    fetch = f"`hf download google-bert/bert-base-uncased vocab.txt --local-dir {bare}`"
    assert fetch in str(missing.value)
    (bare / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    with pytest.raises(ValueError, match="must have 60 tokens for this Q-Former.* got 5"):
        StLlmProcessor.from_pretrained(bare)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(frames(2).astype(np.float32), id="float"),
        pytest.param(frames(2)[0], id="one-frame-alone"),
        pytest.param(frames(2)[:0], id="none"),
        pytest.param(frames(2)[..., :2], id="two-channels"),
    ],
)
def test_frames_of_another_form_are_refused(processor, wrong):
    with pytest.raises(ValueError, match=r"frames must be \[T, H, W, 3\] uint8, got"):
        processor(wrong, QUESTION)


def test_answer_ends_where_the_next_turn_begins():
    stop = StopAtNextTurn()
    rows = torch.tensor([[5, 7, 835], [5, 2277, 29937], [5, 835, 7], [2277, 29937, 9]])
    assert stop(rows, None).tolist() == [True, True, False, False]
    assert STOP_IDS == ((835,), (2277, 29937))
