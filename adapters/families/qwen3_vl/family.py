"""Qwen3-VL (Bai et al., https://arxiv.org/abs/2511.21631), dense and with experts: a tower of its
own at any resolution, 2 x 2 patches of two frames a token, planes of earlier features for the
decoder's first layers, and a Qwen3 with rotary positions of three axes; frames stand apart, with
timestamps.

Sizes are counted for a clip of 32 frames of 640 x 360 pixels: 16 frames of 11 x 20 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..record import FRAMES_OF_ANY_SIZE, Family, Later, bare_choice_prompt
from ..shape import DecoderShape, ModelShape, Size, encoder_layer_macs, grid_shape

NUM_FRAMES = 32
GRID = (16, 11, 20)
# Bounds of a video's pixels, as its preprocessor file has them.
PIXELS = (4096, 25165824)


def _recognises(config: Mapping[str, Any], keys: Callable[[], Collection[str]]) -> bool:
    return config.get("model_type") in ("qwen3_vl", "qwen3_vl_moe")


def model_shape(
    decoder: DecoderShape,
    *,
    depth: int = 27,
    width: int = 1152,
    mlp: int = 4304,
    planes: int = 3,
    patch_px: int = 16,
) -> ModelShape:
    """One frame of tokens, of two frames of pixels; a merger of two matrices on four patches
    together, once for the tokens and once for each plane.

    Args:
        decoder: of the language model.
        depth, width, mlp: of the tower.
        planes: features of earlier layers that the decoder adds.
        patch_px: side of a patch.
    """
    patches = 4 * GRID[1] * GRID[2]
    return grid_shape(
        "qwen3_vl",
        decoder,
        GRID,
        width=width,
        patch_px=patch_px,
        layers_macs=depth * encoder_layer_macs(patches, width, mlp),
        mergers=1 + planes,
    )


def _shape(config: Any) -> ModelShape:
    vision = config.vision_config
    return model_shape(
        DecoderShape.from_text_config(config.text_config),
        depth=vision.depth,
        width=vision.hidden_size,
        mlp=vision.intermediate_size,
        planes=len(vision.deepstack_visual_indexes),
        patch_px=vision.patch_size,
    )


def _small_tower(decoder: DecoderShape) -> ModelShape:
    return model_shape(decoder, depth=24, width=1024, mlp=4096)


FAMILY = Family(
    name="qwen3_vl",
    title="Qwen3-VL",
    model_types=("qwen3_vl", "qwen3_vl_moe"),
    recognises=_recognises,
    adapter=Later(__name__, "adapter:Qwen3VLAdapter"),
    read_config=Later(__name__, "checkpoint:read_config"),
    check=Later(__name__, "checkpoint:check"),
    load=Later(__name__, "checkpoint:load"),
    processor=Later(__name__, "processor:Qwen3VLFrameProcessor.from_pretrained"),
    random_model=Later(__name__, "random_model:random_qwen3_vl"),
    shape=_shape,
    sizes=(
        Size("qwen3-vl-8b", model_shape(DecoderShape(4096, 12288, 36, 32, 8, 151936))),
        Size("qwen3-vl-2b", _small_tower(DecoderShape(2048, 6144, 28, 16, 8, 151936))),
        Size("qwen3-vl-4b", _small_tower(DecoderShape(2560, 9728, 36, 32, 8, 151936, 128))),
        Size("qwen3-vl-32b", model_shape(DecoderShape(5120, 25600, 64, 64, 8, 151936, 128))),
        # 8 of 128 experts of 768.
        Size("qwen3-vl-30b-a3b", model_shape(DecoderShape(2048, 6144, 48, 32, 4, 151936, 128))),
    ),
    num_frames=NUM_FRAMES,
    sampling="linspace",
    prompt_tokens=(15, 40),
    choice_prompt=bare_choice_prompt,
    prunevid_share=None,
    prumerge_share=None,
    lacks=FRAMES_OF_ANY_SIZE,
)
