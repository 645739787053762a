"""Sizes of a PLLaVA model, and what config.json of a published checkpoint says of them.

The published file calls itself "llava" and holds options of the authors' training code. Those that
would make another model of it have one value in every published checkpoint; any other is refused
rather than ignored.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedConfig

from ...checkpoint.files import CheckpointError, read_json, require_int

# The published config has another pad, which the published code does not use.
BOS_ID, EOS_ID, PAD_ID = 1, 2, 0
_MOST_FRAMES = 2**14

# Options of the published code that every published checkpoint has in common.
_PUBLISHED = {
    "pooling_method": "avg",
    "projector_hidden_act": "gelu",
    "register": False,
    "tie_word_embeddings": False,
    "use_pooling": True,
    "vision_feature_select_strategy": "default",
}


class PllavaConfig(PreTrainedConfig):
    """Sizes of a PLLaVA model; the defaults are the published 7B model's.

    Attributes:
        text_config, vision_config: of Llama and of CLIP's vision tower.
        image_token_index: the id of ``<image>``.
        num_frames: frames that a video is repeated to if it has fewer.
        pooling_shape: (frames, rows, columns) of a video's tokens.
        frame_shape: (rows, columns) of a frame's patches.
        vision_feature_layer: the hidden state of the tower that is projected.
    """

    model_type = "pllava"
    sub_configs = {"text_config": LlamaConfig, "vision_config": CLIPVisionConfig}

    text_config: Any = None
    vision_config: Any = None
    image_token_index: int = 32000
    num_frames: int = 16
    pooling_shape: Any = (16, 12, 12)
    frame_shape: Any = (24, 24)
    vision_feature_layer: int = -2
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name, kind in (("text_config", LlamaConfig), ("vision_config", CLIPVisionConfig)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                setattr(self, name, kind.from_dict(dict(value or {})))
        self.pooling_shape, self.frame_shape = list(self.pooling_shape), list(self.frame_shape)
        super().__post_init__(**kwargs)

    @property
    def tokens_per_frame(self) -> int:
        return math.prod(self.pooling_shape[1:])

    @property
    def tokens_per_video(self) -> int:
        return math.prod(self.pooling_shape)

    def repeated_frames(self, num_frames: int) -> list[int]:
        """Indices that repeat too few frames to ``num_frames`` of the model, as published."""
        if num_frames >= self.num_frames:
            return list(range(num_frames))
        repeats = self.num_frames // num_frames + 1
        return [index // repeats for index in range(self.num_frames)]

    def token_frames(self, num_frames: int) -> list[int]:
        """Which of so many frames each frame of visual tokens is made from; of several that are
        averaged, the first."""
        source, pooled = self.repeated_frames(num_frames), self.pooling_shape[0]
        return [source[index * len(source) // pooled] for index in range(pooled)]

    @classmethod
    def read(cls, folder: Path) -> PllavaConfig:
        """The config of a checkpoint folder, published or saved by :class:`Pllava`.

        Raises:
            CheckpointError: no config.json, sizes that are missing or impossible, options that
                change the model and that the published checkpoints do not use.
        """
        file = folder / "config.json"
        values = read_json(file)
        names = [
            *("text_config", "vision_config", "image_token_index"),
            *("num_frames", "pooling_shape", "frame_shape", "vision_feature_layer"),
        ]
        missing = [name for name in names if name not in values]
        if missing:
            raise CheckpointError(f"{file}: no {', '.join(missing)}")
        for name, supported in _PUBLISHED.items():
            if values.get(name, supported) != supported:
                raise CheckpointError(
                    f"{file}: {name} must be {supported!r}, got {values[name]!r}; no published "
                    "PLLaVA differs"
                )
        _require_sides(file, values)
        try:
            config = cls(**{name: values[name] for name in names})
        except (StrictDataclassError, ValueError, TypeError) as error:
            raise CheckpointError(f"{file}: {str(error).splitlines()[-1].strip()}") from error
        config._require_parts_agree(file)
        return config

    def _require_parts_agree(self, file: Path) -> None:
        """Hold what the file says of the whole model against what it says of its parts."""
        vision = self.vision_config
        side = vision.image_size // vision.patch_size
        if self.frame_shape != [side, side]:
            raise CheckpointError(
                f"{file}: frame_shape must be {[side, side]}, the tower's patches, got "
                f"{self.frame_shape}"
            )
        layers, last = vision.num_hidden_layers, self.text_config.vocab_size - 1
        require_int(f"{file}: vision_feature_layer", self.vision_feature_layer, -layers - 1, layers)
        require_int(f"{file}: image_token_index", self.image_token_index, 0, last)


def _require_sides(file: Path, values: dict[str, Any]) -> None:
    require_int(f"{file}: num_frames", values["num_frames"], 1, _MOST_FRAMES)
    for name, count in (("pooling_shape", 3), ("frame_shape", 2)):
        sides = values[name]
        if not isinstance(sides, list) or len(sides) != count:
            raise CheckpointError(f"{file}: {name} must be {count} integers, got {sides!r:.80}")
        for side in sides:
            require_int(f"{file}: {name}", side, 1, _MOST_FRAMES)
