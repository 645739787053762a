"""LLaVA-NeXT-Video (Zhang et al., https://llava-vl.github.io/blog/2024-04-30-llava-next-video/):
CLIP, 2 x 2 pooling, a two-layer projector, and Llama (Vicuna 7B, Yi 34B); 32 frames a video."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..record import Family, Later, bare_choice_prompt
from ..shape import DecoderShape, ModelShape, Size, VisionShape

NUM_FRAMES = 32
STRIDE = 2
CLIP = VisionShape(
    width=1024, mlp=4096, layers=24, heads=16, image_px=336, patch_px=14, has_class_token=True
)


def _recognises(config: Mapping[str, Any], keys: Callable[[], Collection[str]]) -> bool:
    return config.get("model_type") == "llava_next_video"


def pooled_side(config: Any) -> int:
    """Visual tokens along one side of a frame.

    Raises:
        ValueError: pooling that leaves none.
    """
    vision, stride = config.vision_config, config.spatial_pool_stride
    patches = int(vision.image_size // vision.patch_size)
    if not 1 <= stride <= patches:
        raise ValueError(f"spatial_pool_stride must be from 1 to {patches} patches, got {stride}")
    return patches // int(stride)


def model_shape(decoder: DecoderShape, vision: VisionShape, side: int) -> ModelShape:
    """CLIP, and a two-layer projector on its pooled patches.

    Args:
        decoder: of the language model.
        vision: the tower.
        side: visual tokens along one side of a frame.
    """
    width = decoder.hidden_size
    return ModelShape(
        family="llava_next_video",
        decoder=decoder,
        frames=NUM_FRAMES,
        tokens_per_frame=side**2,
        vision_macs=vision.frame_macs(),
        projector_macs=side**2 * (vision.width * width + width**2),
        importance_macs=vision.tokens * vision.width,  # the row of CLS
        key_width=vision.width,
    )


def _shape(config: Any) -> ModelShape:
    return model_shape(
        DecoderShape.from_text_config(config.text_config),
        VisionShape.of(config.vision_config, has_class_token=True),
        pooled_side(config),
    )


def _published(decoder: DecoderShape) -> ModelShape:
    return model_shape(decoder, CLIP, CLIP.side // STRIDE)


FAMILY = Family(
    name="llava_next_video",
    title="LLaVA-NeXT-Video",
    model_types=("llava_next_video",),
    recognises=_recognises,
    adapter=Later(__name__, "adapter:LlavaNextVideoAdapter"),
    read_config=Later(__name__, "checkpoint:read_config"),
    check=Later(__name__, "checkpoint:check"),
    load=Later(__name__, "checkpoint:load"),
    processor=Later(__name__, "processor:LlavaNextVideoFrameProcessor.from_pretrained"),
    random_model=Later(__name__, "random_model:random_llava_next_video"),
    shape=_shape,
    sizes=(
        Size("llava-next-video-7b", _published(DecoderShape(4096, 11008, 32, 32, 32, 32064))),
        Size("llava-next-video-34b", _published(DecoderShape(7168, 20480, 60, 56, 8, 64064))),
    ),
    num_frames=NUM_FRAMES,
    sampling="linspace",
    prompt_tokens=(5, 40),
    choice_prompt=bare_choice_prompt,
    prunevid_share=None,
    prumerge_share=None,
)
