"""A video model with all that turns frames and a question into an answer.

The three families differ in how they are loaded, how many frames they take and which ones, and
how a prompt reads; the commands need none of that, so it ends here. Loading is strict: a layer that
the checkpoint does not fill, or a value that it does not state, is an error and never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    LlavaOnevisionForConditionalGeneration,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
)
from transformers.utils import logging

from ..checkpoint.files import CheckpointError
from ..video.reader import Video, read_video
from ..video.sampling import Rule, frame_indices
from .detect import Family, detect_family
from .llava_onevision.processor import LlavaOnevisionFrameProcessor
from .pllava.model import Pllava
from .pllava.processor import PLLAVA_FRAMES, PllavaProcessor
from .st_llm.model import StLlm
from .st_llm.processor import StLlmProcessor, StopAtNextTurn

LLAVA_ONEVISION_FRAMES = 32
# Which frames of a video each family was published with.
SAMPLING: dict[Family, Rule] = {
    "llava_onevision": "linspace",
    "pllava": "pllava",
    "st_llm": "st_llm",
}


class ModelError(ValueError):
    """A checkpoint or a prompt that cannot be used; the message is one line."""


@dataclass(frozen=True)
class VideoModel:
    """A model and its preprocessing.

    Attributes:
        model: in eval mode, on its device.
        processor: frames and question to the model's inputs.
        family: which of the three it is.
        name: what to call the model in print.
        default_frames: how many frames it was published with.
        grid: (rows, columns) of the visual tokens of a frame.
        tokens_have_places: whether a token shows its part of the frame. Those of a Q-Former do not.
        is_random: True for random weights, whose answers mean nothing.
        limits: what a reader of its answers has to know; None: nothing in particular.
    """

    model: Any
    processor: Any
    family: Family
    name: str
    default_frames: int
    grid: tuple[int, int]
    tokens_have_places: bool = True
    is_random: bool = False
    limits: str | None = None

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def sampling(self) -> Rule:
        """The rule of :func:`..video.sampling.frame_indices` that it takes."""
        return SAMPLING[self.family]

    def read_video(self, source: Path, num_frames: int | None = None) -> Video:
        """The frames of a video that the model was published with, or so many by the same rule.

        Raises:
            VideoError: it cannot be read.
        """
        count = num_frames or self.default_frames
        if self.sampling == "linspace":  # a shorter video gives each frame once
            return read_video(source, count)
        return read_video(source, indices=partial(frame_indices, n=count, rule=self.sampling))

    def shown_frames(self, frames: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """What the model sees of frames [T, H, W, 3], in their own resolution: [F, h, w, 3], one
        for each frame of visual tokens, and which of the T each one is."""
        if self.family == "llava_onevision":  # resizes without cropping
            return frames, list(range(len(frames)))
        side = min(frames.shape[1:3])
        top, left = ((edge - side) // 2 for edge in frames.shape[1:3])
        chosen = self.model.token_frames(len(frames))
        return frames[chosen, top : top + side, left : left + side], chosen

    def encode(
        self,
        frames: np.ndarray,
        question: str,
        *,
        system: str | None = None,
        answer_prefix: str = "",
    ) -> dict[str, Tensor]:
        """Inputs for ``model.generate``, on its device, floats in its dtype.

        Args:
            frames: [T, H, W, 3] uint8, RGB.
            question: what the user asks; without special tokens of the prompt.
            system: the system message; None leaves it out.
            answer_prefix: how the answer begins; the model goes on from there.

        Raises:
            ModelError: a text or a prompt template that cannot make a prompt.
        """
        try:
            inputs = self.processor(frames, question, system=system, answer_prefix=answer_prefix)
        except ValueError as error:
            raise ModelError(str(error)) from error
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device, dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }

    def generate(self, encoded: dict[str, Tensor], **options: Any) -> str:
        """The answer, greedy unless ``options`` of ``generate`` say otherwise."""
        if self.family == "st_llm":
            options |= _st_llm_options(encoded["input_ids"].shape[1], options)
        output = self.model.generate(**encoded, **{"do_sample": False, **options})
        new_ids = output[0, encoded["input_ids"].shape[1] :]
        answer = self.tokenizer.decode(new_ids, skip_special_tokens=True)
        if self.family == "st_llm":
            answer = answer.partition("###")[0]  # which begins the next turn
        return answer.strip()


def _st_llm_options(prompt_length: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """The stop ids, and the repetition penalty counting the answer only, as published."""
    found: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([StopAtNextTurn()])}
    if "repetition_penalty" in options:
        penalty = RepetitionPenaltyLogitsProcessor(
            options["repetition_penalty"], prompt_ignore_length=prompt_length
        )
        found |= {"repetition_penalty": 1.0, "logits_processor": LogitsProcessorList([penalty])}
    return found


def silence_transformers() -> None:
    """Keep transformers' warnings and loading bars off a command's stderr."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_video_model(
    folder: Path,
    device: str,
    *,
    dtype: torch.dtype | None = None,
    lora_alpha: float | None = None,
) -> VideoModel:
    """Load a checkpoint folder of any of the three families.

    Args:
        folder: the checkpoint.
        device: a torch device.
        dtype: of the weights; by default as stored on an accelerator, float32 on a CPU, where half
            precision is slow.
        lora_alpha: for a PLLaVA checkpoint whose LoRA is not merged, and only for it.

    Raises:
        ModelError: no such folder, another kind of model, unreadable or incomplete files.
    """
    try:
        family = detect_family(folder)
        if lora_alpha is not None and family != "pllava":
            raise ModelError(f"lora_alpha is for PLLaVA checkpoints, {folder} holds {family}")
        if family == "pllava":
            return _load_pllava(folder, device, dtype, lora_alpha)
        return (_load_st_llm if family == "st_llm" else _load_llava_onevision)(
            folder, device, dtype
        )
    except ModelError:
        raise
    except CheckpointError as error:
        raise ModelError(str(error)) from error
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{folder}: the checkpoint cannot be loaded: {lines[0]}") from error


def _float32_on_cpu(device: str, dtype: torch.dtype | None) -> torch.dtype | None:
    return torch.float32 if dtype is None and device == "cpu" else dtype


def _load_llava_onevision(folder: Path, device: str, dtype: torch.dtype | None) -> VideoModel:
    processor = LlavaOnevisionFrameProcessor.from_pretrained(folder)
    config = processor.config
    model, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
        folder,
        config=config,
        local_files_only=True,
        dtype=_float32_on_cpu(device, dtype) or "auto",
        output_loading_info=True,
    )
    for problem in ("missing_keys", "mismatched_keys"):
        if info[problem]:
            first = sorted(map(str, info[problem]))[0]
            raise ModelError(
                f"{folder}: the checkpoint does not fit the model: {len(info[problem])}"
                f" {problem.replace('_', ' ')}, the first is {first}"
            )
    return VideoModel(
        model=model.to(device).eval(),
        processor=processor,
        family="llava_onevision",
        name=folder.resolve().name,
        default_frames=LLAVA_ONEVISION_FRAMES,
        grid=(processor.grid_side,) * 2,
    )


def _load_pllava(
    folder: Path, device: str, dtype: torch.dtype | None, lora_alpha: float | None
) -> VideoModel:
    processor = PllavaProcessor.from_pretrained(folder)
    model = Pllava.from_pretrained(
        folder, lora_alpha=lora_alpha, dtype=_float32_on_cpu(device, dtype), device=device
    )
    return VideoModel(
        model=model,
        processor=processor,
        family="pllava",
        name=folder.resolve().name,
        default_frames=PLLAVA_FRAMES,
        grid=tuple(processor.config.pooling_shape[1:]),
    )


def _load_st_llm(folder: Path, device: str, dtype: torch.dtype | None) -> VideoModel:
    processor = StLlmProcessor.from_pretrained(folder)
    model = StLlm.from_pretrained(folder, dtype=_float32_on_cpu(device, dtype), device=device)
    return VideoModel(
        model=model,
        processor=processor,
        family="st_llm",
        name=folder.resolve().name,
        default_frames=processor.num_frames,
        grid=_count_grid(processor.config.num_query_tokens),
        tokens_have_places=False,
    )


def _count_grid(count: int) -> tuple[int, int]:
    """The rectangle nearest to a square: 32 -> (4, 8)."""
    rows = max(r for r in range(1, math.isqrt(count) + 1) if count % r == 0)
    return rows, count // rows
