"""Frames and a question become the inputs of LLaVA-OneVision, with Pillow alone.

transformers' own video processor needs torchvision, which has no CPU build in many places, for
what is a resize and a normalisation; so both are done here. The prompt is the checkpoint's chat
template with the placeholder repeated once for each visual token, as ``LlavaOnevisionProcessor``
does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, LlavaOnevisionConfig

from ...checkpoint.preprocessor import (
    chat_template,
    normalisation,
    num_frames,
    require_placeholders,
)
from ...video.pixels import normalised_pixels
from ..plain_text import encode_prompt
from ..processor import Clip, FrameProcessor
from ..shape import VisionShape
from .checkpoint import read_config
from .family import NUM_FRAMES, pooled_side


@dataclass(frozen=True)
class LlavaOnevisionFrameProcessor(FrameProcessor):
    """Preprocessing of one LLaVA-OneVision checkpoint.

    Attributes:
        chat_template: Jinja source; renders a conversation with one video to a prompt.
        image_mean, image_std: normalisation of each RGB channel, on values in [0, 1].
        frames: of a video, as the checkpoint's video processor says; most do not.
    """

    config: LlavaOnevisionConfig
    chat_template: str
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    frames: int = NUM_FRAMES

    @classmethod
    def from_pretrained(cls, path: str | Path) -> LlavaOnevisionFrameProcessor:
        """Read tokenizer, chat template and normalisation of a checkpoint folder.

        Raises:
            CheckpointError: a config.json that describes no LLaVA-OneVision.
            OSError: a file that is missing.
            ValueError: a file that does not say what it has to.
        """
        folder = Path(path)
        config = read_config(folder)
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        require_placeholders(config, tokenizer)
        mean, std = normalisation(folder)
        if config.vision_config.model_type == "siglip_vision_model" and {*mean, *std} != {0.5}:
            raise ValueError(
                f"image_mean and image_std must be 0.5 for a SigLIP tower, got {mean}, {std}"
            )
        template, frames = chat_template(folder, tokenizer), num_frames(folder) or NUM_FRAMES
        return cls(config, tokenizer, template, mean, std, frames)

    @property
    def num_frames(self) -> int:
        return self.frames

    @property
    def image_size_px(self) -> int:
        """Side of the square that every frame is resized to."""
        return self.config.vision_config.image_size

    def grid_of(self, frames: np.ndarray) -> tuple[int, int]:
        """After the model's 2 x 2 pooling."""
        side = pooled_side(VisionShape.of(self.config.vision_config, has_class_token=False))
        return side, side

    @property
    def reserved_texts(self) -> tuple[str, ...]:
        return self._placeholder, self._token(self.config.image_token_id)

    @property
    def _placeholder(self) -> str:
        return self._token(self.config.video_token_id)

    def _token(self, index: int) -> str:
        return self.tokenizer.convert_ids_to_tokens(index)

    def _prompt_ids(
        self, clip: Clip, question: str, system: str | None, answer_prefix: str
    ) -> Tensor:
        # One placeholder for each pooled token of each frame, and one for the newline after them.
        visual_tokens = len(clip.frames) * math.prod(self.grid_of(clip.frames)) + 1
        texts = [question, answer_prefix, *([] if system is None else [system])]

        def render(texts: Sequence[str]) -> str:
            prompt = self._render(texts[0], texts[2] if len(texts) > 2 else None)
            return prompt.replace(self._placeholder, self._placeholder * visual_tokens) + texts[1]

        return torch.tensor(
            [encode_prompt(self.tokenizer, render, texts, add_special_tokens=False)]
        )

    def _render(self, question: str, system: str | None) -> str:
        """The prompt by the chat template, with a single placeholder."""
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
        count = prompt.count(self._placeholder)
        if count != 1:
            raise ValueError(
                f"the chat template must render one {self._placeholder!r} for one video,"
                f" got {count}"
            )
        return prompt

    def _visual_inputs(self, clip: Clip, question: str) -> dict[str, Tensor]:
        side = (self.image_size_px, self.image_size_px)
        resized = [
            np.asarray(Image.fromarray(f).resize(side, Image.Resampling.BICUBIC))
            for f in clip.frames
        ]
        return {"pixel_values_videos": normalised_pixels(resized, self.image_mean, self.image_std)}
