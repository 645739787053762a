"""Frames and a question become the inputs of LLaVA-OneVision, with Pillow alone.

transformers' own video processor needs torchvision, which has no CPU build in many places, for
what is a resize and a normalisation; so both are done here. The prompt is the checkpoint's chat
template with the placeholder repeated once for each visual token, as ``LlavaOnevisionProcessor``
does. A pixel normalisation that is not written down is an error and never a guess: the processor
classes' defaults are another model's.
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

from ...checkpoint.files import read_json, require_int
from ...video.pixels import normalised_pixels
from ..plain_text import encode_prompt
from ..processor import FrameProcessor
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
        _require_placeholders(config, tokenizer)
        mean, std = _normalisation(folder)
        if config.vision_config.model_type == "siglip_vision_model" and {*mean, *std} != {0.5}:
            raise ValueError(
                f"image_mean and image_std must be 0.5 for a SigLIP tower, got {mean}, {std}"
            )
        template = _chat_template(folder, tokenizer)
        return cls(config, tokenizer, template, mean, std, _num_frames(folder))

    @property
    def num_frames(self) -> int:
        return self.frames

    @property
    def image_size_px(self) -> int:
        """Side of the square that every frame is resized to."""
        return self.config.vision_config.image_size

    @property
    def grid(self) -> tuple[int, int]:
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
        self, num_frames: int, question: str, system: str | None, answer_prefix: str
    ) -> Tensor:
        visual_tokens = num_frames * math.prod(self.grid) + 1  # the newline after them counts
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

    def _visual_inputs(self, frames: np.ndarray, question: str) -> dict[str, Tensor]:
        side = (self.image_size_px, self.image_size_px)
        resized = [
            np.asarray(Image.fromarray(f).resize(side, Image.Resampling.BICUBIC)) for f in frames
        ]
        return {"pixel_values_videos": normalised_pixels(resized, self.image_mean, self.image_std)}


def _require_placeholders(config: LlavaOnevisionConfig, tokenizer: Any) -> None:
    """Hold the config's placeholders against the tokenizer: a prompt of ``generate`` has none where
    the two disagree, and an id past the embeddings' end fails in the middle of a forward call."""
    for kind in ("video", "image"):
        index = getattr(config, f"{kind}_token_id")
        rows = min(len(tokenizer), config.text_config.vocab_size)
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < rows:
            raise ValueError(
                f"config.json: {kind}_token_index must be a token's id, from 0 to {rows - 1}, got "
                f"{index!r:.80}"
            )
        added = tokenizer.added_tokens_decoder.get(index)
        if added is None:
            token = tokenizer.convert_ids_to_tokens(index)
            raise ValueError(
                f"config.json: {kind}_token_index {index} is {token!r}, which is no added token"
            )
    if config.video_token_id == config.image_token_id:
        raise ValueError(f"config.json: one token, {config.image_token_id}, for images and videos")


_PREPROCESSORS = (
    "video_preprocessor_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)


def _preprocessing(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """The first preprocessor file that a folder has, and what it says of videos."""
    for name in _PREPROCESSORS:
        if (folder / name).is_file():
            values = read_json(folder / name)
            values = values.get("video_processor", values)
            if not isinstance(values, dict):
                raise ValueError(f"{name}: video_processor must be an object, got {values!r:.80}")
            return name, values
    return None


def _num_frames(folder: Path) -> int:
    found = _preprocessing(folder)
    if found is None or found[1].get("num_frames") is None:
        return NUM_FRAMES
    name, values = found
    require_int(f"{name}: num_frames", values["num_frames"], 1, 2**14)
    return int(values["num_frames"])


def _normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the pixels."""
    found = _preprocessing(folder)
    if found is None:
        raise ValueError(f"none of {', '.join(_PREPROCESSORS)}")
    name, values = found
    mean: Any = values.get("image_mean")
    std: Any = values.get("image_std")
    if not _are_channels(mean) or not _are_channels(std) or min(std) <= 0:
        raise ValueError(
            f"{name}: no valid image_mean and image_std: must be three numbers each, the latter"
            f" above 0, got {mean!r:.80} and {std!r:.80}"
        )
    return tuple(map(float, mean)), tuple(map(float, std))


def _are_channels(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(isinstance(x, (int, float)) and math.isfinite(x) for x in values)
    )


def _chat_template(folder: Path, tokenizer: Any) -> str:
    """The processor's template, which knows about videos, before the tokenizer's, which may not."""
    jinja, legacy = folder / "chat_template.jinja", folder / "chat_template.json"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    if legacy.is_file():
        template = read_json(legacy).get("chat_template")
        if not isinstance(template, str):
            raise ValueError(f"chat_template.json: no valid chat_template, got {template!r:.80}")
        return template
    if isinstance(tokenizer.chat_template, str):
        return tokenizer.chat_template
    raise ValueError("no chat template")
