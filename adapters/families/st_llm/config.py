"""Sizes of an ST-LLM, and how to tell them from a published checkpoint.

The published config.json describes the language model and nothing else. Everything about vision
and Q-Former that has a size is read from the shapes of the weights; heads and the number of frames
that residual mode keeps have none, so they are the published models', unless config.json says
otherwise. The two published architectures are told apart by their keys.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    PreTrainedConfig,
)

from ...checkpoint.files import CheckpointError, StoredTensor, read_json, require_int

# The language model was trained with </s> as BOS; the published config.json, which says bos 0,
# eos 1 and pad -1, is not what it was used with.
BOS_ID = EOS_ID = PAD_ID = 2
# <unk>: byte fallback never gives it for a text, and the embedding table has a row for it, which
# the logits processors of ``generate`` need of every id in a prompt.
VIDEO_TOKEN_ID = 0

_PARTS = {
    "text_config": LlamaConfig,
    "vision_config": InstructBlipVisionConfig,
    "qformer_config": InstructBlipQFormerConfig,
}


class StLlmConfig(PreTrainedConfig):
    """Sizes of an ST-LLM; the defaults are those of the published QA model's vision.

    Attributes:
        text_config, vision_config, qformer_config: of Llama, of EVA-ViT-g and of the Q-Former.
        num_query_tokens: visual tokens of a frame.
        adapter_layers: blocks of the tower that BT-Adapter runs beside; 0: it has none.
        adapter_frames: the most frames that BT-Adapter takes.
        residual_size: frames whose tokens the language model gets in residual mode, the mean over
            all frames added to each; None: it gets the tokens of all frames.
        residual_width: channels of the bottleneck that the mean goes through.
        video_token_id: stands for a visual token in ``input_ids``.
    """

    model_type = "st_llm"
    sub_configs = dict(_PARTS)

    text_config: Any = None
    vision_config: Any = None
    qformer_config: Any = None
    num_query_tokens: int = 32
    adapter_layers: int = 3
    adapter_frames: int = 64
    residual_size: int | None = None
    residual_width: int = 1024
    video_token_id: int = VIDEO_TOKEN_ID
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name, kind in _PARTS.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                setattr(self, name, kind.from_dict(dict(value or {})))
        super().__post_init__(**kwargs)

    def token_frames(self, num_frames: int) -> list[int]:
        """Which of so many frames the language model gets the tokens of.

        Raises:
            ValueError: fewer frames than residual mode needs.
        """
        if self.residual_size is None:
            return list(range(num_frames))
        if num_frames < self.residual_size:
            raise ValueError(
                f"this model takes at least {self.residual_size} frames, got {num_frames}"
            )
        step = num_frames / self.residual_size
        return [int(step / 2 + round(step * i)) for i in range(self.residual_size)]

    def _require_sizes(self) -> None:
        """Refuse sizes that make no model, by the name that config.json has for them.

        Raises:
            CheckpointError: the first of them.
        """
        for name, least in _LEAST.items():
            if name != "residual_size" or self.residual_size is not None:
                require_int(name, getattr(self, name), least, 2**20)
        require_int("video_token_id", self.video_token_id, 0, self.text_config.vocab_size - 1)
        layers = self.vision_config.num_hidden_layers
        if self.adapter_layers > layers:
            raise CheckpointError(
                f"adapter_layers must be at most the tower's {layers} layers, got "
                f"{self.adapter_layers}"
            )

    def require_heads(self, folder: Path) -> None:
        """Refuse numbers of heads that do not fit: they are the one size that no tensor shows, and
        the published files do not say them.

        Raises:
            CheckpointError: heads that do not divide a width.
        """
        for part, config in (("vision", self.vision_config), ("qformer", self.qformer_config)):
            heads, width = config.num_attention_heads, config.hidden_size
            require_int(f"{folder}: {part}_heads", heads, 1, width)
            if width % heads:
                raise CheckpointError(
                    f"{folder}: the {part} side is {width} wide, which {heads} heads do not divide;"
                    f' if it has another number of them, say so in config.json: "{part}_heads": N'
                )

    @classmethod
    def read(cls, folder: Path, tensors: Mapping[str, StoredTensor]) -> StLlmConfig:
        """The config of a checkpoint folder, published or saved by :class:`~.model.StLlm`.

        Args:
            folder: has a config.json. Beside the published keys, it may have ``vision_heads``,
                ``qformer_heads`` and ``residual_size`` for models of other sizes.
            tensors: of the checkpoint.

        Raises:
            CheckpointError: a config.json that is missing; one, or tensors, not of an ST-LLM.
        """
        file = folder / "config.json"
        values = read_json(file)
        try:
            if values.get("model_type") == cls.model_type:
                config = cls.from_dict(values)
            else:
                config = _published(values, _Shapes(tensors))
            config._require_sizes()
            return config
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        except (TypeError, ValueError, StrictDataclassError) as error:
            line = " ".join(str(error).split())
            raise CheckpointError(f"{file}: does not describe an ST-LLM: {line}") from error


def _published(values: dict[str, Any], shapes: _Shapes) -> StLlmConfig:
    heads = {name: values.pop(f"{name}_heads", count) for name, count in _HEADS.items()}
    residual_size = values.pop("residual_size", 16)
    adapter_layers = shapes.count(r"visual_encoder\.BTAdapter_S\.(\d+)\..*")
    has_residual = shapes.has("down_proj.weight")
    if (adapter_layers > 0) == has_residual:
        found = "both" if has_residual else "neither"
        raise CheckpointError(
            "an ST-LLM has either a BT-Adapter (the QA model) or a down_proj (the conversation "
            f"model), this checkpoint has {found}"
        )
    _, positions, width = shapes["visual_encoder.pos_embed"]
    patch_size = shapes["visual_encoder.patch_embed.proj.weight"][-1]
    layer = "Qformer.bert.encoder.layer.0."
    vocabulary, qformer_width = shapes["Qformer.bert.embeddings.word_embeddings.weight"]
    text = {key: value for key, value in values.items() if key not in _NOT_OF_LLAMA}
    return StLlmConfig(
        text_config=LlamaConfig.from_dict({**text, "bos_token_id": BOS_ID, "eos_token_id": EOS_ID}),
        vision_config=InstructBlipVisionConfig(
            hidden_size=width,
            intermediate_size=shapes["visual_encoder.blocks.0.mlp.fc1.weight"][0],
            num_hidden_layers=shapes.count(r"visual_encoder\.blocks\.(\d+)\..*"),
            num_attention_heads=heads["vision"],
            image_size=math.isqrt(positions - 1) * patch_size,
            patch_size=patch_size,
        ),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=vocabulary,
            hidden_size=qformer_width,
            num_hidden_layers=shapes.count(r"Qformer\.bert\.encoder\.layer\.(\d+)\..*"),
            num_attention_heads=heads["qformer"],
            intermediate_size=shapes[f"{layer}intermediate.dense.weight"][0],
            max_position_embeddings=shapes["Qformer.bert.embeddings.position_embeddings.weight"][0],
            encoder_hidden_size=width,
        ),
        num_query_tokens=shapes["query_tokens"][1],
        adapter_layers=adapter_layers,
        adapter_frames=shapes["visual_encoder.BTAdapter_position.weight"][0]
        if adapter_layers
        else 0,
        residual_size=residual_size if has_residual else None,
        residual_width=shapes["down_proj.weight"][0] if has_residual else 0,
    )


_LEAST = {
    "num_query_tokens": 1,
    "adapter_layers": 0,
    "adapter_frames": 0,
    "residual_size": 1,
    "residual_width": 0,
}
_HEADS = {"vision": 16, "qformer": 12}
# Of the model around it, or the tokens that the published config.json has wrong.
_NOT_OF_LLAMA = frozenset(
    "architectures model_type bos_token_id eos_token_id pad_token_id torch_dtype dtype".split()
    + ["transformers_version", "_name_or_path"]
)


class _Shapes:
    """Shapes of the tensors beside the language model, by their keys without the prefix."""

    _PREFIX = "model.stllm_model."

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._shapes = {
            key.removeprefix(self._PREFIX): tensor.shape
            for key, tensor in tensors.items()
            if key.startswith(self._PREFIX)
        }

    def has(self, key: str) -> bool:
        return key in self._shapes

    def __getitem__(self, key: str) -> tuple[int, ...]:
        if key not in self._shapes:
            raise CheckpointError(f"no {self._PREFIX}{key}, which an ST-LLM has")
        return self._shapes[key]

    def count(self, pattern: str) -> int:
        """Different values of the pattern's group among the keys."""
        return len({m[1] for m in (re.fullmatch(pattern, key) for key in self._shapes) if m})
