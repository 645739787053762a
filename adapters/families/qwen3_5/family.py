"""Qwen3.5, dense and with experts: a tower of its own at any resolution, 2 x 2 patches of two
frames a token, and a decoder of which every fourth layer is attention with rotary positions of
three axes, the others gated linear attention; frames stand apart, with timestamps.

Sizes are counted for a clip of 32 frames of 640 x 360 pixels: 16 frames of 11 x 20 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..record import FRAMES_OF_ANY_SIZE, Family, Later, bare_choice_prompt
from ..shape import DecoderShape, LinearAttention, ModelShape, Size, encoder_layer_macs, grid_shape

NUM_FRAMES = 32
GRID = (16, 11, 20)
# Bounds of a video's pixels, as its preprocessor file has them.
PIXELS = (4096, 25165824)

# These two are what transformers' configs, dense and with experts, are by default.
_DECODER_9B = DecoderShape(
    4096, 12288, 32, 16, 4, 248320, None, LinearAttention(layers=24, key=2048, value=4096, head=128)
)
# 8 of 256 experts of 512, and one that all tokens share.
_DECODER_35B_A3B = DecoderShape(
    2048, 4608, 40, 16, 2, 248320, 256, LinearAttention(layers=30, key=2048, value=4096, head=128)
)


def _recognises(config: Mapping[str, Any], keys: Callable[[], Collection[str]]) -> bool:
    return config.get("model_type") in ("qwen3_5", "qwen3_5_moe")


def model_shape(
    decoder: DecoderShape,
    *,
    depth: int = 27,
    width: int = 1152,
    mlp: int = 4304,
    patch_px: int = 16,
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
        "qwen3_5",
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
        width=vision.hidden_size,
        mlp=vision.intermediate_size,
        patch_px=vision.patch_size,
    )


FAMILY = Family(
    name="qwen3_5",
    title="Qwen3.5",
    model_types=("qwen3_5", "qwen3_5_moe"),
    recognises=_recognises,
    adapter=Later(__name__, "adapter:Qwen3_5Adapter"),
    read_config=Later(__name__, "checkpoint:read_config"),
    check=Later(__name__, "checkpoint:check"),
    load=Later(__name__, "checkpoint:load"),
    processor=Later(__name__, "processor:Qwen3_5FrameProcessor.from_pretrained"),
    random_model=Later(__name__, "random_model:random_qwen3_5"),
    shape=_shape,
    sizes=(
        Size("qwen3.5-9b", model_shape(_DECODER_9B)),
        Size("qwen3.5-35b-a3b", model_shape(_DECODER_35B_A3B)),
    ),
    num_frames=NUM_FRAMES,
    sampling="linspace",
    prompt_tokens=(15, 40),
    choice_prompt=bare_choice_prompt,
    prunevid_share=None,
    prumerge_share=None,
    selects=False,
    lacks=FRAMES_OF_ANY_SIZE,
)
