"""Frames and a question become ST-LLM's inputs, with Pillow and the tokenizers' own vocabularies.

Two tokenizers read the question. The language model's is ``tokenizer.model`` alone, and two things
go wrong with it in transformers: ``AutoTokenizer`` loses the blank that SentencePiece puts in front
of a text, and re-assigning ``bos_token`` does not change the id that is prepended, while this model
was trained with ``</s>``, id 2, in that place. So prompts are encoded by SentencePiece itself, and
2 is put in front. ``</s>`` and the like in a question are then text, and no special tokens.

The Q-Former's is that of bert-base-uncased, with "[DEC]" added. The published folders do not hold
it: put bert-base-uncased's ``vocab.txt`` into the model's folder, or say where it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from transformers import BertTokenizer, LlamaTokenizer, StoppingCriteria
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ...checkpoint.files import open_checkpoint
from ...video.pixels import normalised_pixels, require_frames
from .config import BOS_ID, StLlmConfig

ST_LLM_FRAMES = 16
ST_LLM_CONVERSATION_FRAMES = 64
# The ways that "###", which begins the next turn, comes out of the published vocabulary.
STOP_IDS = ((835,), (2277, 29937))
_QUESTION_TOKENS = 256


@dataclass(frozen=True)
class StLlmProcessor:
    """Preprocessing of one ST-LLM checkpoint.

    Attributes:
        config: the model's.
        tokenizer: a transformers tokenizer; for answers, prompts go through ``sentencepiece``.
        sentencepiece: the same vocabulary, as the model was trained with it.
        qformer_tokenizer: what the Q-Former reads the question with.
    """

    config: StLlmConfig
    tokenizer: Any
    sentencepiece: SentencePieceProcessor
    qformer_tokenizer: Any

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
        config = StLlmConfig.read(folder, open_checkpoint(folder).tensors)
        vocabulary = folder / "tokenizer.model"
        if not vocabulary.is_file():
            raise ValueError(f"{folder}: no tokenizer.model")
        return cls(
            config,
            LlamaTokenizer.from_pretrained(folder, local_files_only=True),
            SentencePieceProcessor(model_file=str(vocabulary)),
            _qformer_tokenizer(Path(qformer_tokenizer or folder), config),
        )

    @property
    def num_frames(self) -> int:
        """Frames of a video that the model was published with."""
        return ST_LLM_FRAMES if self.config.residual_size is None else ST_LLM_CONVERSATION_FRAMES

    def __call__(
        self,
        frames: np.ndarray,
        question: str,
        *,
        system: str | None = None,
        answer_prefix: str = "",
    ) -> dict[str, Tensor]:
        """Inputs for ``generate``, a batch of one.

        Args:
            frames: [T, H, W, 3] uint8, RGB.
            question: what the user asks; the Q-Former reads it as well, its last 256 tokens.
            system: said before the question.
            answer_prefix: how the answer begins.

        Returns:
            ``input_ids`` and ``attention_mask`` [1, S] int64, a placeholder for each visual token
            in front; ``pixel_values`` [1, T, 3, side, side] float32; ``qformer_input_ids`` and
            ``qformer_attention_mask`` [1, L] int64.

        Raises:
            ValueError: frames of another shape or dtype.
        """
        require_frames(frames)
        visual = self.config.num_visual_frames(len(frames)) * self.config.num_query_tokens
        text = self.sentencepiece.encode(prompt_text(question, system, answer_prefix))
        ids = torch.tensor([[self.config.video_token_id] * visual + [BOS_ID, *text]])
        read = self.qformer_tokenizer(question, truncation=True, return_tensors="pt")
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": self._pixels(frames),
            "qformer_input_ids": read.input_ids,
            "qformer_attention_mask": read.attention_mask,
        }

    def _pixels(self, frames: np.ndarray) -> Tensor:
        cropped = [crop_frame(frame, self.config.vision_config.image_size) for frame in frames]
        return normalised_pixels(cropped, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)


class StopAtNextTurn(StoppingCriteria):
    """Ends an answer where the model goes on to write the next turn.

    Args:
        stop_ids: token sequences that begin one.
    """

    def __init__(self, stop_ids: tuple[tuple[int, ...], ...] = STOP_IDS) -> None:
        self.stop_ids = stop_ids

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """[B] bool: which rows of ``input_ids`` [B, S] end with one of the sequences."""
        ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for stop in self.stop_ids:
            end = input_ids.new_tensor(stop)
            ended |= (input_ids[:, -len(stop) :] == end).all(dim=1)
        return ended


def prompt_text(question: str, system: str | None = None, answer_prefix: str = "") -> str:
    """The text behind the visual tokens and BOS. A question that ends with a line break is followed
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
            "vocab.txt, which the published folders do not hold: copy it there, or pass "
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
