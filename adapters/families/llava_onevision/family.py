"""LLaVA-OneVision: SigLIP, a two-layer projector, 2 x 2 pooling, and Qwen2."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..record import Family, Later, bare_choice_prompt
from ..shape import DecoderShape, ModelShape, Size, VisionShape

NUM_FRAMES = 32
SIGLIP = VisionShape(
    width=1152, mlp=4304, layers=26, heads=16, image_px=384, patch_px=14, has_class_token=False
)
_QWEN2_7B = DecoderShape(3584, 18944, 28, 28, 4, 152128)
_QWEN2_0_5B = DecoderShape(896, 4864, 24, 14, 2, 152000)


def _recognises(config: Mapping[str, Any], keys: Callable[[], Collection[str]]) -> bool:
    return config.get("model_type") == "llava_onevision"


def pooled_side(vision: VisionShape) -> int:
    """Visual tokens along one side of a frame, after the 2 x 2 pooling that videos get."""
    return -(-vision.side // 2)


def model_shape(decoder: DecoderShape, vision: VisionShape) -> ModelShape:
    """SigLIP, and a two-layer projector on all of its patches."""
    width = decoder.hidden_size
    return ModelShape(
        family="llava_onevision",
        decoder=decoder,
        frames=NUM_FRAMES,
        tokens_per_frame=pooled_side(vision) ** 2,
        vision_macs=vision.frame_macs(),
        projector_macs=vision.tokens * (vision.width * width + width**2),
        importance_macs=vision.tokens**2 * vision.width,
        key_width=vision.width,
    )


def _shape(config: Any) -> ModelShape:
    return model_shape(
        DecoderShape.from_text_config(config.text_config),
        VisionShape.of(config.vision_config, has_class_token=False),
    )


FAMILY = Family(
    name="llava_onevision",
    title="LLaVA-OneVision",
    model_types=("llava_onevision",),
    recognises=_recognises,
    adapter=Later(__name__, "adapter:LlavaOnevisionAdapter"),
    read_config=Later(__name__, "checkpoint:read_config"),
    check=Later(__name__, "checkpoint:check"),
    load=Later(__name__, "checkpoint:load"),
    processor=Later(__name__, "processor:LlavaOnevisionFrameProcessor.from_pretrained"),
    random_model=Later(__name__, "random_model:random_llava_onevision"),
    shape=_shape,
    sizes=(
        Size("llava-onevision-7b", model_shape(_QWEN2_7B, SIGLIP)),
        Size("llava-onevision-0.5b", model_shape(_QWEN2_0_5B, SIGLIP)),
    ),
    num_frames=NUM_FRAMES,
    sampling="linspace",
    prompt_tokens=(14, 40),
    choice_prompt=bare_choice_prompt,
    prunevid_share=0.17,
    prumerge_share=0.552,
)
