"""Frames and a question become ST-LLM's inputs, with Pillow and the tokenizers' own vocabularies.

Two tokenizers read the question. The language model's is ``tokenizer.model`` alone, and two things
go wrong with it in transformers: before 5.24, ``AutoTokenizer`` loses the blank that SentencePiece
puts in front of a text, and re-assigning ``bos_token`` does not change the id that is prepended,
while this model was trained with ``</s>``, id 2, in that place. So prompts are encoded by
SentencePiece itself, and 2 is put in front. ``</s>`` and the like in a question are then text, and
no special tokens.

The Q-Former's is that of bert-base-uncased, with "[DEC]" added. The published folders do not hold
it: put bert-base-uncased's ``vocab.txt`` into the model's folder, or say where it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from transformers import BertTokenizer, LlamaTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ...video.pixels import normalised_pixels
from ..processor import Clip, FrameProcessor, central_squares
from .checkpoint import read_config
from .config import BOS_ID, StLlmConfig
from .family import CONVERSATION_FRAMES, NUM_FRAMES

_QUESTION_TOKENS = 256


@dataclass(frozen=True)
class StLlmProcessor(FrameProcessor):
    """Preprocessing of one ST-LLM checkpoint.

    Attributes:
        sentencepiece: the vocabulary of ``tokenizer``, as the model was trained with it: prompts
            go through this one.
        qformer_tokenizer: what the Q-Former reads the question with.
    """

    config: StLlmConfig
    sentencepiece: SentencePieceProcessor
    qformer_tokenizer: Any

    tokens_have_places = False

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, qformer_tokenizer: str | Path | None = None
    ) -> StLlmProcessor:
        """Read config and tokenizers of a checkpoint folder; nothing is downloaded.

        Args:
            path: the folder, with ``tokenizer.model``.
            qformer_tokenizer: bert-base-uncased's ``vocab.txt``, or a folder that has it; by
                default the model's folder.

        Raises:
            CheckpointError: a folder that is no ST-LLM.
            ValueError: a vocabulary that is missing, or not the model's.
        """
        folder = Path(path)
        config = read_config(folder)
        vocabulary = folder / "tokenizer.model"
        if not vocabulary.is_file():
            raise ValueError(f"{folder}: no tokenizer.model")
        return cls(
            config,
            LlamaTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
            SentencePieceProcessor(model_file=str(vocabulary)),
            _qformer_tokenizer(Path(qformer_tokenizer or folder), config),
        )

    @property
    def num_frames(self) -> int:
        return NUM_FRAMES if self.config.residual_size is None else CONVERSATION_FRAMES

    def grid_of(self, frames: np.ndarray) -> tuple[int, int]:
        """The rectangle of so many tokens that is nearest to a square: 32 -> (4, 8)."""
        count = self.config.num_query_tokens
        rows = max(r for r in range(1, math.isqrt(count) + 1) if count % r == 0)
        return rows, count // rows

    @property
    def reserved_texts(self) -> tuple[str, ...]:
        return ()  # SentencePiece reads special tokens as text

    def _prompt_ids(
        self, clip: Clip, question: str, system: str | None, answer_prefix: str
    ) -> Tensor:
        """The placeholders first, then BOS and the text."""
        visual = len(self.config.token_frames(len(clip.frames))) * self.config.num_query_tokens
        text = self.sentencepiece.encode(prompt_text(question, system, answer_prefix))
        if self.config.video_token_id in text:
            raise ValueError(
                "the prompt has a character that this vocabulary does not know; it would become "
                f"<unk>, id {self.config.video_token_id}, which stands for a visual token"
            )
        return torch.tensor([[self.config.video_token_id] * visual + [BOS_ID, *text]])

    def _visual_inputs(self, clip: Clip, question: str) -> dict[str, Tensor]:
        """The Q-Former reads the question as well, its last 256 tokens: ``qformer_input_ids`` and
        ``qformer_attention_mask`` [1, L] int64."""
        cropped = [crop_frame(frame, self.config.vision_config.image_size) for frame in clip.frames]
        read = self.qformer_tokenizer(
            question, truncation=True, return_tensors="pt", split_special_tokens=True
        )
        return {
            "pixel_values": normalised_pixels(cropped, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
            "qformer_input_ids": read.input_ids,
            "qformer_attention_mask": read.attention_mask,
        }

    def shown_frames(self, frames: np.ndarray) -> tuple[np.ndarray, list[int]]:
        chosen = self.config.token_frames(len(frames))
        return central_squares(frames)[chosen], chosen


def prompt_text(question: str, system: str | None = None, answer_prefix: str = "") -> str:
    """The text after the visual tokens and BOS. A question that ends with a line break is followed
    by the assistant's turn at once, any other by a blank first."""
    said = "" if system is None else f"{system}\n"
    blank = "" if question.endswith("\n") else " "
    return f"{said}###Human: {question}{blank}###Assistant: {answer_prefix}"


def crop_frame(frame: np.ndarray, side: int) -> np.ndarray:
    """[H, W, 3] uint8 -> [side, side, 3]: short edge to ``side``, then the middle."""
    height, width = frame.shape[:2]
    short = min(height, width)
    size = (side * width // short, side * height // short)
    resized = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
    left, top = (round((edge - side) / 2) for edge in size)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def _qformer_tokenizer(path: Path, config: StLlmConfig) -> Any:
    vocabulary = path / "vocab.txt" if path.is_dir() else path
    if not vocabulary.is_file():
        raise ValueError(
            f"{vocabulary}: no such file; the Q-Former reads questions with bert-base-uncased's "
            "vocab.txt, which the published folders do not hold: `hf download "
            f"google-bert/bert-base-uncased vocab.txt --local-dir {vocabulary.parent}`, or pass "
            "qformer_tokenizer"
        )
    tokenizer = BertTokenizer(vocab=str(vocabulary), truncation_side="left")
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    expected = config.qformer_config.vocab_size
    if len(tokenizer) != expected:
        raise ValueError(
            f"{vocabulary}: must have {expected - 1} tokens for this Q-Former, one less than it "
            f"embeds, got {len(tokenizer) - 1}"
        )
    tokenizer.model_max_length = min(
        _QUESTION_TOKENS, config.qformer_config.max_position_embeddings
    )
    return tokenizer
