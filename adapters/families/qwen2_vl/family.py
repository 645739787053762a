"""Qwen2-VL (Wang et al., https://arxiv.org/abs/2409.12191): a tower of its own at any resolution,
2 x 2 patches of two frames a token, and a Qwen2 with rotary positions of three axes.

Sizes are counted for a clip of 32 frames of 640 x 360 pixels: 16 frames of 13 x 23 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..record import FRAMES_OF_ANY_SIZE, Family, Later, bare_choice_prompt
from ..shape import DecoderShape, ModelShape, Size, encoder_layer_macs, grid_shape

NUM_FRAMES = 32
GRID = (16, 13, 23)
# Bounds of a frame's pixels: 128 and 768 tokens of 28 x 28, as published for videos.
PIXELS = (128 * 28 * 28, 768 * 28 * 28)


def _recognises(config: Mapping[str, Any], keys: Callable[[], Collection[str]]) -> bool:
    return config.get("model_type") == "qwen2_vl"


def model_shape(
    decoder: DecoderShape,
    *,
    depth: int = 32,
    width: int = 1280,
    mlp: int = 5120,
    patch_px: int = 14,
) -> ModelShape:
    """One frame of tokens, of two frames of pixels, and a merger of two matrices on four patches
    together.

    Args:
        decoder: of the language model.
        depth, width, mlp: of the tower.
        patch_px: side of a patch.
    """
    patches = 4 * GRID[1] * GRID[2]
    return grid_shape(
        "qwen2_vl",
        decoder,
        GRID,
        width=width,
        patch_px=patch_px,
        layers_macs=depth * encoder_layer_macs(patches, width, mlp),
    )


def _shape(config: Any) -> ModelShape:
    vision = config.vision_config
    return model_shape(
        DecoderShape.from_text_config(config.text_config),
        depth=vision.depth,
        width=vision.embed_dim,
        mlp=int(vision.embed_dim * vision.mlp_ratio),
        patch_px=vision.patch_size,
    )


FAMILY = Family(
    name="qwen2_vl",
    title="Qwen2-VL",
    model_types=("qwen2_vl",),
    recognises=_recognises,
    adapter=Later(__name__, "adapter:Qwen2VLAdapter"),
    read_config=Later(__name__, "checkpoint:read_config"),
    check=Later(__name__, "checkpoint:check"),
    load=Later(__name__, "checkpoint:load"),
    processor=Later(__name__, "processor:Qwen2VLFrameProcessor.from_pretrained"),
    random_model=Later(__name__, "random_model:random_qwen2_vl"),
    shape=_shape,
    sizes=(
        Size("qwen2-vl-7b", model_shape(DecoderShape(3584, 18944, 28, 28, 4, 152064))),
        Size("qwen2-vl-2b", model_shape(DecoderShape(1536, 8960, 28, 12, 2, 151936))),
        Size("qwen2-vl-72b", model_shape(DecoderShape(8192, 29568, 80, 64, 8, 152064))),
    ),
    num_frames=NUM_FRAMES,
    sampling="linspace",
    prompt_tokens=(15, 40),
    choice_prompt=bare_choice_prompt,
    prunevid_share=None,
    prumerge_share=None,
    lacks=FRAMES_OF_ANY_SIZE,
)
