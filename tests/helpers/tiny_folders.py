"""Whole checkpoint folders of tiny PLLaVA and ST-LLM models, tokenizers included."""

from __future__ import annotations

import string
from pathlib import Path

import tiny_pllava
import tiny_st_llm
from sentencepiece import SentencePieceTrainer
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

CORPUS = (
    "Where does the red circle go? What is blue? When is the scene dark? Look, what happens next: "
    "###Human: ###Assistant: red"
)
# What a prompt of a test may have, so that <unk>, which stands for a visual token, comes out of no
# text.
CHARACTERS = string.ascii_letters + string.digits + ".,:?#()_-"


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
