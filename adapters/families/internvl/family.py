"""InternVL 3 (Zhu et al., https://arxiv.org/abs/2504.10479) and 3.5 (Wang et al.,
https://arxiv.org/abs/2508.18265), as transformers has them: InternViT, 2 x 2 patches a token, a
two-layer projector, and Qwen2.5 or Qwen3. A frame is one tile of 448 x 448 pixels, 256 tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..record import Family, Later, bare_choice_prompt
from ..shape import DecoderShape, ModelShape, Size, VisionShape

NUM_FRAMES = 16
DOWNSAMPLE = 0.5
INTERN_VIT = VisionShape(
    width=1024, mlp=4096, layers=24, heads=16, image_px=448, patch_px=14, has_class_token=True
)
_INTERN_VIT_6B = VisionShape(
    width=3200, mlp=12800, layers=45, heads=25, image_px=448, patch_px=14, has_class_token=True
)
_WORDS_3, _WORDS_3_5 = 151674, 151936


def _recognises(config: Mapping[str, Any], keys: Callable[[], Collection[str]]) -> bool:
    return config.get("model_type") == "internvl"


def square_side(value: Any) -> int:
    """A side that a config gives as one number or as (height, width).

    Raises:
        ValueError: it is no square.
    """
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1:
        raise ValueError(f"images and patches must be square, got {value}")
    return int(sides.pop())


def token_side(config: Any) -> int:
    """Visual tokens along one side of a frame.

    Raises:
        ValueError: sides that are no squares, or a ratio that does not fit them.
    """
    vision, ratio = config.vision_config, config.downsample_ratio
    patches = square_side(vision.image_size) // square_side(vision.patch_size)
    if not 0 < ratio <= 1 or (1 / ratio) % 1 or patches % (1 / ratio):
        raise ValueError(
            f"downsample_ratio must be one over a whole part of the {patches} patches along a "
            f"side, got {ratio}"
        )
    return int(patches * ratio)


def model_shape(decoder: DecoderShape, vision: VisionShape, side: int) -> ModelShape:
    """InternViT, and a two-layer projector on the patches of a token together.

    Args:
        decoder: of the language model.
        vision: the tower.
        side: visual tokens along one side of a frame.
    """
    width, patches = decoder.hidden_size, (vision.tokens - 1) // side**2
    return ModelShape(
        family="internvl",
        decoder=decoder,
        frames=NUM_FRAMES,
        tokens_per_frame=side**2,
        vision_macs=vision.frame_macs(),
        projector_macs=side**2 * (patches * vision.width * width + width**2),
        importance_macs=vision.tokens * vision.width,  # the row of CLS
        key_width=vision.width,
    )


def _shape(config: Any) -> ModelShape:
    vision = config.vision_config
    return model_shape(
        DecoderShape.from_text_config(config.text_config),
        VisionShape(
            width=vision.hidden_size,
            mlp=vision.intermediate_size,
            layers=vision.num_hidden_layers,
            heads=vision.num_attention_heads,
            image_px=square_side(vision.image_size),
            patch_px=square_side(vision.patch_size),
            has_class_token=True,
        ),
        token_side(config),
    )


def _published(decoder: DecoderShape, vision: VisionShape = INTERN_VIT) -> ModelShape:
    return model_shape(decoder, vision, int(vision.side * DOWNSAMPLE))


FAMILY = Family(
    name="internvl",
    title="InternVL",
    model_types=("internvl",),
    recognises=_recognises,
    adapter=Later(__name__, "adapter:InternVLAdapter"),
    read_config=Later(__name__, "checkpoint:read_config"),
    check=Later(__name__, "checkpoint:check"),
    load=Later(__name__, "checkpoint:load"),
    processor=Later(__name__, "processor:InternVLFrameProcessor.from_pretrained"),
    random_model=Later(__name__, "random_model:random_internvl"),
    shape=_shape,
    sizes=(
        Size("internvl3-8b", _published(DecoderShape(3584, 18944, 28, 28, 4, _WORDS_3))),
        Size("internvl3-1b", _published(DecoderShape(896, 4864, 24, 14, 2, _WORDS_3))),
        Size("internvl3-2b", _published(DecoderShape(1536, 8960, 28, 12, 2, _WORDS_3))),
        Size("internvl3-14b", _published(DecoderShape(5120, 13824, 48, 40, 8, _WORDS_3))),
        Size(
            "internvl3-38b",
            _published(DecoderShape(5120, 27648, 64, 40, 8, _WORDS_3), vision=_INTERN_VIT_6B),
        ),
        Size(
            "internvl3-78b",
            _published(DecoderShape(8192, 29568, 80, 64, 8, _WORDS_3), vision=_INTERN_VIT_6B),
        ),
        # Qwen3 from here on, whose heads are always 128: said, so that a random copy is one.
        Size("internvl3.5-8b", _published(DecoderShape(4096, 12288, 36, 32, 8, _WORDS_3_5, 128))),
        Size("internvl3.5-1b", _published(DecoderShape(1024, 3072, 28, 16, 8, _WORDS_3_5, 128))),
        Size("internvl3.5-2b", _published(DecoderShape(2048, 6144, 28, 16, 8, _WORDS_3_5, 128))),
        Size("internvl3.5-4b", _published(DecoderShape(2560, 9728, 36, 32, 8, _WORDS_3_5, 128))),
        Size("internvl3.5-14b", _published(DecoderShape(5120, 17408, 40, 40, 8, _WORDS_3_5, 128))),
    ),
    num_frames=NUM_FRAMES,
    sampling="half_segments",
    prompt_tokens=(3, 40),
    choice_prompt=bare_choice_prompt,
    prunevid_share=None,
    prumerge_share=None,
)
