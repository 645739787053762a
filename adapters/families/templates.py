"""Frames and a question become the inputs of models whose prompt is their checkpoint's chat
template: what their processors have in common.

The template renders a conversation with one placeholder for the video. What the prompt has in its
place is the family's: a run of placeholders, or some text and a run for each frame.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoTokenizer

from ..checkpoint.preprocessor import chat_template, normalisation
from .plain_text import encode_prompt
from .processor import Clip, FrameProcessor

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class TemplateFrameProcessor(FrameProcessor):
    """Preprocessing of one checkpoint.

    Attributes:
        chat_template: Jinja source; renders a conversation with one video to a prompt.
        image_mean, image_std: normalisation of each RGB channel, on values in [0, 1].
        adds_special_tokens: whether the tokenizer puts its own in front of what the template
            renders.
    """

    chat_template: str
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]

    adds_special_tokens: ClassVar[bool] = False

    @classmethod
    def read(cls, folder: Path, config: Any, **fields: Any) -> Self:
        """Read tokenizer, chat template and normalisation of a checkpoint folder.

        Args:
            folder: the checkpoint.
            config: of the model.
            **fields: what else the class has.

        Raises:
            OSError: a file that is missing.
            ValueError: a file that does not say what it has to.
        """
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        mean, std = normalisation(folder)
        return cls(config, tokenizer, chat_template(folder, tokenizer), mean, std, **fields)

    @property
    @abstractmethod
    def placeholder(self) -> str:
        """What the template renders for a video."""

    @abstractmethod
    def video_text(self, clip: Clip) -> str:
        """What stands for a video in the prompt."""

    def token(self, index: int) -> str:
        """The text of a token."""
        return str(self.tokenizer.convert_ids_to_tokens(index))

    def _prompt_ids(
        self, clip: Clip, question: str, system: str | None, answer_prefix: str
    ) -> Tensor:
        video = self.video_text(clip)
        texts = [question, answer_prefix, *([] if system is None else [system])]

        def render(texts: Sequence[str]) -> str:
            prompt = self._render(texts[0], texts[2] if len(texts) > 2 else None)
            return prompt.replace(self.placeholder, video) + texts[1]

        return torch.tensor(
            [
                encode_prompt(
                    self.tokenizer, render, texts, add_special_tokens=self.adds_special_tokens
                )
            ]
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
        count = prompt.count(self.placeholder)
        if count != 1:
            raise ValueError(
                f"the chat template must render one {self.placeholder!r} for one video, got {count}"
            )
        return str(prompt)


def require_placeholder(config: Any, tokenizer: Any, name: str, index: object) -> None:
    """Hold a config's placeholder against the tokenizer: a prompt of ``generate`` has none where
    the two disagree, and an id past the embeddings' end fails in the middle of a forward call.

    Args:
        config: the model's, whose text config has the embeddings' size.
        tokenizer: of the checkpoint.
        name: what config.json calls the id.
        index: the id.

    Raises:
        ValueError: it is no added token.
    """
    rows = min(len(tokenizer), config.text_config.vocab_size)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < rows:
        raise ValueError(
            f"config.json: {name} must be a token's id, from 0 to {rows - 1}, got {index!r:.80}"
        )
    if tokenizer.added_tokens_decoder.get(index) is None:
        token = tokenizer.convert_ids_to_tokens(index)
        raise ValueError(f"config.json: {name} {index} is {token!r}, which is no added token")


def require_two_placeholders(config: Any, tokenizer: Any, ending: str = "index") -> None:
    """:func:`require_placeholder` for models with a token for images and another for videos.

    Args:
        config, tokenizer: see there.
        ending: of what config.json calls them: ``video_token_index`` or ``video_token_id``.

    Raises:
        ValueError: one is no added token, or both are one.
    """
    for kind in ("video", "image"):
        index = getattr(config, f"{kind}_token_id")
        require_placeholder(config, tokenizer, f"{kind}_token_{ending}", index)
    if config.video_token_id == config.image_token_id:
        raise ValueError(f"config.json: one token, {config.image_token_id}, for images and videos")
