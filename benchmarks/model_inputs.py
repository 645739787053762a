"""A video model with all that turns frames and a question into an answer.

The three families differ in how they are loaded, how many frames they take and which ones, and
how a prompt reads; the commands need none of that, so it ends here. Loading is strict: a layer that
the checkpoint does not fill, or a value that it does not state, is an error and never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, LlavaOnevisionForConditionalGeneration
from transformers.utils import logging

from prunevid_kernels.adapters.llava_onevision_processor import LlavaOnevisionFrameProcessor

Family = Literal["llava_onevision", "pllava", "st_llm"]


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
        grid: (rows, columns) of visual tokens a frame; None where they have no places in it.
        is_random: True for random weights, whose answers mean nothing.
    """

    model: Any
    processor: Any
    family: Family
    name: str
    default_frames: int
    grid: tuple[int, int] | None
    is_random: bool = False

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

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
        output = self.model.generate(**encoded, **{"do_sample": False, **options})
        new_ids = output[0, encoded["input_ids"].shape[1] :]
        return self.tokenizer.decode(new_ids, skip_special_tokens=True).strip()


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
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder")
    try:
        kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if kind != "llava_onevision":
            raise ModelError(f"{folder}: model_type must be 'llava_onevision', got {kind!r}")
        return _load_llava_onevision(folder, device, dtype)
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{folder}: the checkpoint cannot be loaded: {lines[0]}") from error


def _load_llava_onevision(folder: Path, device: str, dtype: torch.dtype | None) -> VideoModel:
    processor = LlavaOnevisionFrameProcessor.from_pretrained(folder)
    config = processor.config
    stored = torch.float32 if device == "cpu" else "auto"
    model, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
        folder,
        config=config,
        local_files_only=True,
        dtype=dtype or stored,
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
        default_frames=32,
        grid=(processor.grid_side,) * 2,
    )
