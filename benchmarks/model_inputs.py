"""A LLaVA-OneVision model with all that turns frames and a question into its inputs.

transformers' own video processor needs torchvision, which has no CPU build in many places, for
what is a resize and a normalisation; so both are done here with Pillow. The prompt is the
checkpoint's chat template with the placeholder repeated once for each visual token, as
``LlavaOnevisionProcessor`` does. Loading is strict: a layer that the checkpoint does not fill, or
a pixel normalisation that is not written down, is an error and never a guess.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, LlavaOnevisionForConditionalGeneration
from transformers.utils import logging


class ModelError(ValueError):
    """A checkpoint or a prompt that cannot be used; the message is one line."""


@dataclass(frozen=True)
class VideoModel:
    """A model and its preprocessing.

    Attributes:
        model: in eval mode, on its device.
        tokenizer: a transformers tokenizer.
        chat_template: Jinja source; renders a conversation with one video to a prompt.
        image_size_px: side of the square that every frame is resized to.
        image_mean, image_std: normalisation of each RGB channel, on values in [0, 1].
        name: what to call the model in print.
        is_random: True for random weights, whose answers mean nothing.
    """

    model: LlavaOnevisionForConditionalGeneration
    tokenizer: Any
    chat_template: str
    image_size_px: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    name: str
    is_random: bool = False

    @property
    def grid_side(self) -> int:
        """Visual tokens along one side of a frame, after the model's 2 x 2 pooling."""
        vision = self.model.config.vision_config
        return math.ceil((vision.image_size // vision.patch_size) / 2)

    def encode(self, frames: np.ndarray, question: str) -> dict[str, Tensor]:
        """Inputs for ``model.generate``.

        Args:
            frames: [T, H, W, 3] uint8, RGB.
            question: what the user asks; without special tokens of the prompt.

        Returns:
            ``input_ids`` and ``attention_mask`` [1, S] int64, ``pixel_values_videos``
            [1, T, 3, side, side] in the model's dtype, all on its device.

        Raises:
            ModelError: a question that contains a placeholder; a template that does not render
                exactly one.
        """
        config = self.model.config
        placeholder = self.tokenizer.convert_ids_to_tokens(config.video_token_id)
        for reserved in (placeholder, self.tokenizer.convert_ids_to_tokens(config.image_token_id)):
            if reserved in question:
                raise ModelError(f"the question must not contain the placeholder {reserved!r}")
        content = [{"type": "video"}, {"type": "text", "text": question}]
        prompt = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
        if prompt.count(placeholder) != 1:
            raise ModelError(
                f"the chat template must render one {placeholder!r} for one video,"
                f" got {prompt.count(placeholder)}"
            )
        # One placeholder for each pooled token of each frame, and one for the newline after them.
        visual_tokens = len(frames) * self.grid_side**2 + 1
        prompt = prompt.replace(placeholder, placeholder * visual_tokens)
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        device = self.model.device
        return {
            "input_ids": ids.to(device),
            "attention_mask": torch.ones_like(ids).to(device),
            "pixel_values_videos": self._pixels(frames).to(device, self.model.dtype),
        }

    def _pixels(self, frames: np.ndarray) -> Tensor:
        side = (self.image_size_px, self.image_size_px)
        resized = [
            np.asarray(Image.fromarray(f).resize(side, Image.Resampling.BICUBIC)) for f in frames
        ]
        pixels = np.stack(resized).astype(np.float32) / 255.0  # [T, side, side, 3]
        mean, std = np.array((self.image_mean, self.image_std), dtype=np.float32)
        pixels = (pixels - mean) / std
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)[None].contiguous()


def silence_transformers() -> None:
    """Keep transformers' warnings and loading bars off a command's stderr."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_checkpoint(folder: Path, device: str) -> VideoModel:
    """Load a LLaVA-OneVision checkpoint folder (safetensors) as transformers writes it.

    Weights keep their stored dtype on an accelerator; on a CPU, where half precision is slow, they
    become float32.

    Raises:
        ModelError: no such folder, another kind of model, unreadable or incomplete files.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type != "llava_onevision":
            raise ModelError(
                f"{folder}: model_type must be 'llava_onevision', got {config.model_type!r}"
            )
        model, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            dtype=torch.float32 if device == "cpu" else "auto",
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{folder}: the checkpoint cannot be loaded: {lines[0]}") from error
    for problem in ("missing_keys", "mismatched_keys"):
        if info[problem]:
            first = sorted(map(str, info[problem]))[0]
            raise ModelError(
                f"{folder}: the checkpoint does not fit the model: {len(info[problem])}"
                f" {problem.replace('_', ' ')}, the first is {first}"
            )
    mean, std = _normalisation(folder)
    if config.vision_config.model_type == "siglip_vision_model" and {*mean, *std} != {0.5}:
        raise ModelError(
            f"{folder}: image_mean and image_std must be 0.5 for a SigLIP tower, got {mean}, {std}"
        )
    return VideoModel(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        chat_template=_chat_template(folder, tokenizer),
        image_size_px=config.vision_config.image_size,
        image_mean=mean,
        image_std=std,
        name=folder.resolve().name,
    )


def _normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the pixels, from the first preprocessor file that the folder has.

    The processor classes' own defaults are CLIP's and wrong for this family, so a file without the
    values is an error.
    """
    names = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
    for name in names:
        if not (folder / name).is_file():
            continue
        try:
            values = json.loads((folder / name).read_text(encoding="utf-8"))
            values = values.get("video_processor", values)
            mean, std = values["image_mean"], values["image_std"]
            return tuple(float(x) for x in mean), tuple(float(x) for x in std)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{folder / name}: no valid image_mean and image_std") from error
    raise ModelError(f"{folder}: none of {', '.join(names)}")


def _chat_template(folder: Path, tokenizer: Any) -> str:
    """The processor's template, which knows about videos, before the tokenizer's, which may not."""
    jinja, legacy = folder / "chat_template.jinja", folder / "chat_template.json"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    if legacy.is_file():
        try:
            return str(json.loads(legacy.read_text(encoding="utf-8"))["chat_template"])
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{legacy}: no valid chat_template") from error
    if isinstance(tokenizer.chat_template, str):
        return tokenizer.chat_template
    raise ModelError(f"{folder}: no chat template")
