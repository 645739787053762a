"""Qwen2.5-VL (Bai et al., https://arxiv.org/abs/2502.13923): a tower of its own, with attention in
windows, at any resolution; 2 x 2 patches of two frames a token; Qwen2 with rotary positions of
three axes.

Sizes are counted for a clip of 32 frames of 640 x 360 pixels: 16 frames of 13 x 23 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..record import FRAMES_OF_ANY_SIZE, Family, Later, bare_choice_prompt
from ..shape import DecoderShape, ModelShape, Size, grid_shape

NUM_FRAMES = 32
GRID = (16, 13, 23)
# Bounds of a frame's pixels: 128 and 768 tokens of 28 x 28, as published for videos.
PIXELS = (128 * 28 * 28, 768 * 28 * 28)
_DEPTH, _WIDTH, _MLP, _WINDOW = 32, 1280, 3420, 64
_FULL_LAYERS = 4


def _recognises(config: Mapping[str, Any], keys: Callable[[], Collection[str]]) -> bool:
    return config.get("model_type") == "qwen2_5_vl"


def model_shape(
    decoder: DecoderShape,
    *,
    depth: int = _DEPTH,
    width: int = _WIDTH,
    mlp: int = _MLP,
    window: int = _WINDOW,
    full_layers: int = _FULL_LAYERS,
    patch_px: int = 14,
) -> ModelShape:
    """One frame of tokens, of two frames of pixels: attention in windows but for a few layers, a
    gated MLP of three matrices, and a merger of two on four patches together.

    Args:
        decoder: of the language model.
        depth, width, mlp: of the tower.
        window: patches of a window.
        full_layers: layers that attend to the whole frame.
        patch_px: side of a patch.
    """
    patches = 4 * GRID[1] * GRID[2]
    layer = 4 * patches * width**2 + 3 * patches * width * mlp
    attention = 2 * patches * width * ((depth - full_layers) * window + full_layers * patches)
    return grid_shape(
        "qwen2_5_vl",
        decoder,
        GRID,
        width=width,
        patch_px=patch_px,
        layers_macs=depth * layer + attention,
    )


def _shape(config: Any) -> ModelShape:
    vision = config.vision_config
    return model_shape(
        DecoderShape.from_text_config(config.text_config),
        depth=vision.depth,
        width=vision.hidden_size,
        mlp=vision.intermediate_size,
        window=(vision.window_size // vision.patch_size) ** 2,
        full_layers=len(vision.fullatt_block_indexes),
        patch_px=vision.patch_size,
    )


FAMILY = Family(
    name="qwen2_5_vl",
    title="Qwen2.5-VL",
    model_types=("qwen2_5_vl",),
    recognises=_recognises,
    adapter=Later(__name__, "adapter:Qwen2_5VLAdapter"),
    read_config=Later(__name__, "checkpoint:read_config"),
    check=Later(__name__, "checkpoint:check"),
    load=Later(__name__, "checkpoint:load"),
    processor=Later(__name__, "processor:Qwen2_5VLFrameProcessor.from_pretrained"),
    random_model=Later(__name__, "random_model:random_qwen2_5_vl"),
    shape=_shape,
    sizes=(
        Size("qwen2.5-vl-7b", model_shape(DecoderShape(3584, 18944, 28, 28, 4, 152064))),
        Size("qwen2.5-vl-3b", model_shape(DecoderShape(2048, 11008, 36, 16, 2, 151936))),
        Size("qwen2.5-vl-32b", model_shape(DecoderShape(5120, 27648, 64, 40, 8, 152064))),
        Size("qwen2.5-vl-72b", model_shape(DecoderShape(8192, 29568, 80, 64, 8, 152064))),
    ),
    num_frames=NUM_FRAMES,
    sampling="linspace",
    prompt_tokens=(15, 40),
    choice_prompt=bare_choice_prompt,
    prunevid_share=0.181,
    prumerge_share=None,
    lacks=FRAMES_OF_ANY_SIZE,
)
