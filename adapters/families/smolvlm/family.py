"""SmolVLM2 (Marafioti et al., https://arxiv.org/abs/2504.05299): SigLIP, 3 x 3 or 4 x 4 patches a
token, one matrix, and SmolLM2, a Llama. A frame is one square image.

The published sampling takes a frame a second, 64 at most. Here it is 64 frames evenly, or as many
as a checkpoint's preprocessor says, whatever the length of the video.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..record import Family, Later, bare_choice_prompt
from ..shape import DecoderShape, ModelShape, Size, VisionShape

NUM_FRAMES = 64
SCALE = 3
SIGLIP = VisionShape(
    width=1152, mlp=4304, layers=27, heads=16, image_px=384, patch_px=14, has_class_token=False
)
_SIGLIP_BASE = VisionShape(
    width=768, mlp=3072, layers=12, heads=12, image_px=512, patch_px=16, has_class_token=False
)
_WORDS = 49280


def _recognises(config: Mapping[str, Any], keys: Callable[[], Collection[str]]) -> bool:
    return config.get("model_type") == "smolvlm"


def token_side(config: Any) -> int:
    """Visual tokens along one side of a frame.

    Raises:
        ValueError: a scale that does not fit the patches.
    """
    vision, scale = config.vision_config, config.scale_factor
    patches = int(vision.image_size // vision.patch_size)
    if scale < 1 or patches % scale:
        raise ValueError(f"scale_factor must be a whole part of {patches} patches, got {scale}")
    return patches // int(scale)


def model_shape(decoder: DecoderShape, vision: VisionShape, scale: int) -> ModelShape:
    """SigLIP, and one matrix on the patches of a token together.

    Args:
        decoder: of the language model.
        vision: the tower.
        scale: side of the square of patches that become one token.
    """
    tokens = (vision.side // scale) ** 2
    return ModelShape(
        family="smolvlm",
        decoder=decoder,
        frames=NUM_FRAMES,
        tokens_per_frame=tokens,
        vision_macs=vision.frame_macs(),
        projector_macs=tokens * scale**2 * vision.width * decoder.hidden_size,
        importance_macs=vision.tokens**2 * vision.width,
        key_width=vision.width,
    )


def _shape(config: Any) -> ModelShape:
    return model_shape(
        DecoderShape.from_text_config(config.text_config),
        VisionShape.of(config.vision_config, has_class_token=False),
        config.scale_factor,
    )


FAMILY = Family(
    name="smolvlm",
    title="SmolVLM2",
    model_types=("smolvlm",),
    recognises=_recognises,
    adapter=Later(__name__, "adapter:SmolVLMAdapter"),
    read_config=Later(__name__, "checkpoint:read_config"),
    check=Later(__name__, "checkpoint:check"),
    load=Later(__name__, "checkpoint:load"),
    processor=Later(__name__, "processor:SmolVLMFrameProcessor.from_pretrained"),
    random_model=Later(__name__, "random_model:random_smolvlm"),
    shape=_shape,
    sizes=(
        Size(
            "smolvlm2-2.2b",
            model_shape(DecoderShape(2048, 8192, 24, 32, 32, _WORDS), SIGLIP, SCALE),
        ),
        Size(
            "smolvlm2-500m",
            model_shape(DecoderShape(960, 2560, 32, 15, 5, _WORDS), _SIGLIP_BASE, 4),
        ),
        Size(
            "smolvlm2-256m", model_shape(DecoderShape(576, 1536, 30, 9, 3, _WORDS), _SIGLIP_BASE, 4)
        ),
    ),
    num_frames=NUM_FRAMES,
    sampling="linspace",
    prompt_tokens=(30, 40),
    choice_prompt=bare_choice_prompt,
    prunevid_share=None,
    prumerge_share=None,
)
