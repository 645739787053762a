"""Tiny seeded models with videos of any resolution and positions of three axes, and their prompts.

Prompts are made as the published templates make them: markers around each video or image; where
frames stand apart, a timestamp in words before each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import transformers
from tiny_models import text_tokens
from torch import Tensor

IMAGE_ID, VIDEO_ID, START_ID, END_ID, PAD_ID = 1, 2, 3, 4, 0
VOCABULARY, NUM_LAYERS, PATCH_PX, SIDE = 96, 5, 4, 64
APART = {"qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"}
PLANES = 2  # of the models that have them

_VISION: dict[str, Any] = {
    "depth": 2,
    "patch_size": PATCH_PX,
    "in_channels": 3,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_OF_TOWER: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"embed_dim": 32, "hidden_size": SIDE, "num_heads": 2, "mlp_ratio": 2},
    "qwen2_5_vl": {
        "hidden_size": 32,
        "out_hidden_size": SIDE,
        "num_heads": 2,
        "intermediate_size": 48,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    },
    "qwen3": {
        "hidden_size": 32,
        "out_hidden_size": SIDE,
        "num_heads": 2,
        "intermediate_size": 48,
        "num_position_embeddings": 64,
    },
}
_TEXT: dict[str, Any] = {
    "hidden_size": SIDE,
    "intermediate_size": 96,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,  # wide enough that attention prefers some tokens
    "pad_token_id": PAD_ID,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
_LINEAR: dict[str, Any] = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2 + ["linear_attention"],
    "partial_rotary_factor": 0.5,
}
_OF_TEXT: dict[str, dict[str, Any]] = {
    "qwen3_vl": {"head_dim": 16},
    "qwen3_vl_moe": {
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "decoder_sparse_step": 1,
    },
    "qwen3_5": {"head_dim": 16, **_LINEAR},
    "qwen3_5_moe": {
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        **_LINEAR,
    },
}
_CLASSES = {
    "qwen2_vl": "Qwen2VL",
    "qwen2_5_vl": "Qwen2_5_VL",
    "qwen3_vl": "Qwen3VL",
    "qwen3_vl_moe": "Qwen3VLMoe",
    "qwen3_5": "Qwen3_5",
    "qwen3_5_moe": "Qwen3_5Moe",
}


def config_of(kind: str, **text: Any) -> Any:
    """The config of a tiny model."""
    tower = _OF_TOWER.get(kind, _OF_TOWER["qwen3"])
    vision = {**_VISION, **tower}
    if kind.startswith("qwen3_vl"):
        vision["deepstack_visual_indexes"] = [0, 1][:PLANES]
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    if kind in APART:
        rope |= {"mrope_interleaved": True, "mrope_section": [4, 2, 2]}
    return getattr(transformers, f"{_CLASSES[kind]}Config")(
        vision_config=vision,
        text_config={**_TEXT, **_OF_TEXT.get(kind, {}), "rope_parameters": rope, **text},
        image_token_id=IMAGE_ID,
        video_token_id=VIDEO_ID,
        vision_start_token_id=START_ID,
        vision_end_token_id=END_ID,
        tie_word_embeddings=False,
    )


@cache
def build(kind: str, attention: str = "sdpa") -> Any:
    """A tiny model, the same object for the same arguments."""
    return draw(kind, attention)


def draw(kind: str, attention: str = "sdpa", **text: Any) -> Any:
    """A tiny model of its own."""
    config = config_of(kind, **text)
    config._attn_implementation = attention
    torch.manual_seed(0)
    name = f"{_CLASSES[kind]}ForConditionalGeneration"
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for name, parameter in model.model.visual.named_parameters():
            if parameter.ndim > 1:  # features with a spread of about 1, as trained towers give
                parameter.mul_(8.0 if "merger" not in name else 12.0)
    model.generation_config.do_sample = False
    model.generation_config.pad_token_id = PAD_ID
    model.generation_config.eos_token_id = None
    return model


@dataclass(frozen=True)
class Clip:
    """A video, or (``frames == 1`` temporal patch, ``is_image``) an image, in merged patches."""

    frames: int
    rows: int
    columns: int
    seed: int = 0
    is_image: bool = False
    seconds_a_frame: float = 1.0

    @property
    def grid(self) -> list[int]:
        return [self.frames, 2 * self.rows, 2 * self.columns]

    def patches(self) -> Tensor:
        """[T * H * W, 3 * 2 * p * p]: two scenes, the upper half still but for faint noise."""
        generator = torch.Generator().manual_seed(40 + self.seed)
        size = 4 * self.rows * self.columns
        width = 3 * 2 * PATCH_PX**2
        scenes = torch.randn((2, size, width), generator=generator)
        cut = self.frames // 2
        own = [scenes[int(frame >= cut)] for frame in range(self.frames)]
        noise = torch.randn((self.frames, size, width), generator=generator)
        noise[:, : size // 2] *= 0.02
        return (torch.stack(own) + noise).flatten(0, 1)


Part = Clip | list[int]


@dataclass(frozen=True)
class Question:
    """A prompt for one of the kinds: words, videos and images.

    Attributes:
        kind: of the model.
        parts: token ids and clips in order.
        ids: the prompt's token ids.
        frames: for each clip, the first place of each of its frames.
    """

    kind: str
    parts: Sequence[Part]
    ids: list[int] = field(default_factory=list)
    frames: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number, part in enumerate(self.parts):
            if isinstance(part, list):
                self.ids.extend(part)
                continue
            width = part.rows * part.columns
            places = []
            if self.kind in APART and not part.is_image:
                for frame in range(part.frames):
                    stamp = text_tokens(3 + frame % 2, 20 * number + frame)
                    self.ids.extend([*stamp, START_ID])
                    places.append(len(self.ids))
                    self.ids.extend([VIDEO_ID] * width + [END_ID])
            else:
                self.ids.append(START_ID)
                places = [len(self.ids) + frame * width for frame in range(part.frames)]
                token = IMAGE_ID if part.is_image else VIDEO_ID
                self.ids.extend([token] * width * part.frames + [END_ID])
            self.frames.append(places)

    @property
    def clips(self) -> list[Clip]:
        return [part for part in self.parts if isinstance(part, Clip)]


def inputs_of(*questions: Question) -> dict[str, Tensor]:
    """The arguments of ``generate`` for a batch of prompts, padded on the left."""
    longest = max(len(question.ids) for question in questions)
    rows = [[PAD_ID] * (longest - len(q.ids)) + q.ids for q in questions]
    ids = torch.tensor(rows)
    mask = torch.tensor(
        [[int(i >= longest - len(q.ids)) for i in range(longest)] for q in questions]
    )
    inputs = {"input_ids": ids, "attention_mask": mask}
    inputs["mm_token_type_ids"] = (ids == IMAGE_ID).int() + 2 * (ids == VIDEO_ID).int()
    clips = [clip for question in questions for clip in question.clips]
    for is_image, pixels, grid in (
        (False, "pixel_values_videos", "video_grid_thw"),
        (True, "pixel_values", "image_grid_thw"),
    ):
        own = [clip for clip in clips if clip.is_image == is_image]
        if own:
            inputs[pixels] = torch.cat([clip.patches() for clip in own])
            inputs[grid] = torch.tensor([clip.grid for clip in own])
    videos = [clip for clip in clips if not clip.is_image]
    if questions[0].kind == "qwen2_5_vl" and videos:
        inputs["second_per_grid_ts"] = torch.tensor([clip.seconds_a_frame for clip in videos])
    return inputs
