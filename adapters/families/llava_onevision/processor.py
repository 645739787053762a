"""Frames and a question become the inputs of LLaVA-OneVision, with Pillow alone.

transformers' own video processor needs torchvision, which has no CPU build in many places, for
what is a resize and a normalisation; so both are done here. The prompt is the checkpoint's chat
template with the placeholder repeated once for each visual token, as ``LlavaOnevisionProcessor``
does. A pixel normalisation that is not written down is an error and never a guess: the processor
classes' defaults are another model's.
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
from torch import Tensor
from transformers import AutoTokenizer, LlavaOnevisionConfig

from ...video.pixels import normalised_pixels, require_frames


@dataclass(frozen=True)
class LlavaOnevisionFrameProcessor:
    """Preprocessing of one LLaVA-OneVision checkpoint.

    Attributes:
        config: the model's.
        tokenizer: a transformers tokenizer.
        chat_template: Jinja source; renders a conversation with one video to a prompt.
        image_mean, image_std: normalisation of each RGB channel, on values in [0, 1].
    """

    config: LlavaOnevisionConfig
    tokenizer: Any
    chat_template: str
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]

    @classmethod
    def from_pretrained(cls, path: str | Path) -> LlavaOnevisionFrameProcessor:
        """Read tokenizer, chat template and normalisation of a checkpoint folder.

        Raises:
            OSError: a file that is missing.
            ValueError: a file that does not say what it has to.
        """
        folder = Path(path)
        config = LlavaOnevisionConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        mean, std = _normalisation(folder)
        if config.vision_config.model_type == "siglip_vision_model" and {*mean, *std} != {0.5}:
            raise ValueError(
                f"image_mean and image_std must be 0.5 for a SigLIP tower, got {mean}, {std}"
            )
        return cls(config, tokenizer, _chat_template(folder, tokenizer), mean, std)

    @property
    def image_size_px(self) -> int:
        """Side of the square that every frame is resized to."""
        return self.config.vision_config.image_size

    @property
    def grid_side(self) -> int:
        """Visual tokens along one side of a frame, after the model's 2 x 2 pooling."""
        return math.ceil((self.image_size_px // self.config.vision_config.patch_size) / 2)

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
            question: what the user asks; without special tokens of the prompt.
            system: the system message, if any.
            answer_prefix: how the answer begins; the model goes on from there.

        Returns:
            ``input_ids`` and ``attention_mask`` [1, S] int64, ``pixel_values_videos``
            [1, T, 3, side, side] float32.

        Raises:
            ValueError: frames of another shape or dtype; a text that contains a placeholder; a
                template that does not render exactly one.
        """
        require_frames(frames)
        placeholder = self.tokenizer.convert_ids_to_tokens(self.config.video_token_id)
        image = self.tokenizer.convert_ids_to_tokens(self.config.image_token_id)
        texts = {"question": question, "system": system or "", "answer_prefix": answer_prefix}
        for name, text in texts.items():
            for reserved in (placeholder, image):
                if reserved in text:
                    raise ValueError(f"the {name} must not contain the placeholder {reserved!r}")
        content = [{"type": "video"}, {"type": "text", "text": question}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if system is not None:
            system_content = [{"type": "text", "text": system}]
            messages.insert(0, {"role": "system", "content": system_content})
        prompt = self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
        if prompt.count(placeholder) != 1:
            raise ValueError(
                f"the chat template must render one {placeholder!r} for one video,"
                f" got {prompt.count(placeholder)}"
            )
        # One placeholder for each pooled token of each frame, and one for the newline after them.
        visual_tokens = len(frames) * self.grid_side**2 + 1
        prompt = prompt.replace(placeholder, placeholder * visual_tokens) + answer_prefix
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values_videos": self._pixels(frames),
        }

    def _pixels(self, frames: np.ndarray) -> Tensor:
        side = (self.image_size_px, self.image_size_px)
        resized = [
            np.asarray(Image.fromarray(f).resize(side, Image.Resampling.BICUBIC)) for f in frames
        ]
        return normalised_pixels(resized, self.image_mean, self.image_std)


def _normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the pixels, from the first preprocessor file that the folder has."""
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
            raise ValueError(f"{name}: no valid image_mean and image_std") from error
    raise ValueError(f"none of {', '.join(names)}")


def _chat_template(folder: Path, tokenizer: Any) -> str:
    """The processor's template, which knows about videos, before the tokenizer's, which may not."""
    jinja, legacy = folder / "chat_template.jinja", folder / "chat_template.json"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    if legacy.is_file():
        try:
            return str(json.loads(legacy.read_text(encoding="utf-8"))["chat_template"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError("chat_template.json: no valid chat_template") from error
    if isinstance(tokenizer.chat_template, str):
        return tokenizer.chat_template
    raise ValueError("no chat template")
