"""VideoLLaMA3 (Zhang et al., https://arxiv.org/abs/2501.13106): SigLIP at any resolution, 2 x 2
patches of a frame a token, a two-layer projector, and Qwen2.5. Its own token compression is off.

The published sampling takes a frame a second, 180 at most, and 16,384 tokens at most. Here it is
180 frames evenly, whatever the length of the video. Sizes are counted for a clip of 640 x 360
pixels, of which that bound makes 7 x 12 tokens a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..record import FRAMES_OF_ANY_SIZE, Family, Later, bare_choice_prompt
from ..shape import DecoderShape, ModelShape, Size, encoder_layer_macs

NUM_FRAMES = 180
GRID = (7, 12)
MERGE = 2
# Where a folder does not say them: 128 tokens of a frame at least, 16,384 of a video at most.
PIXELS = (128 * 28 * 28, 16384 * 28 * 28)


def _recognises(config: Mapping[str, Any], keys: Callable[[], Collection[str]]) -> bool:
    return config.get("model_type") == "video_llama_3"


def model_shape(
    decoder: DecoderShape,
    *,
    depth: int = 27,
    width: int = 1152,
    mlp: int = 4304,
    patch_px: int = 14,
) -> ModelShape:
    """SigLIP on all patches of a frame, and a projector of two matrices on its tokens.

    Args:
        decoder: of the language model.
        depth, width, mlp: of the tower.
        patch_px: side of a patch.
    """
    tokens = GRID[0] * GRID[1]
    patches = MERGE**2 * tokens
    embedding = patches * 3 * patch_px**2 * width
    return ModelShape(
        family="video_llama_3",
        decoder=decoder,
        frames=NUM_FRAMES,
        tokens_per_frame=tokens,
        vision_macs=embedding + depth * encoder_layer_macs(patches, width, mlp),
        projector_macs=tokens * (width * decoder.hidden_size + decoder.hidden_size**2),
        importance_macs=patches**2 * width,
        key_width=width,
    )


def _shape(config: Any) -> ModelShape:
    vision = config.vision_config
    return model_shape(
        DecoderShape.from_text_config(config.text_config),
        depth=vision.num_hidden_layers,
        width=vision.hidden_size,
        mlp=vision.intermediate_size,
        patch_px=vision.patch_size,
    )


FAMILY = Family(
    name="video_llama_3",
    title="VideoLLaMA3",
    model_types=("video_llama_3",),
    recognises=_recognises,
    adapter=Later(__name__, "adapter:VideoLlama3Adapter"),
    read_config=Later(__name__, "checkpoint:read_config"),
    check=Later(__name__, "checkpoint:check"),
    load=Later(__name__, "checkpoint:load"),
    processor=Later(__name__, "processor:VideoLlama3FrameProcessor.from_pretrained"),
    random_model=Later(__name__, "random_model:random_video_llama_3"),
    shape=_shape,
    sizes=(
        Size("videollama3-7b", model_shape(DecoderShape(3584, 18944, 28, 28, 4, 152064))),
        Size("videollama3-2b", model_shape(DecoderShape(1536, 8960, 28, 12, 2, 151936))),
    ),
    num_frames=NUM_FRAMES,
    sampling="linspace",
    prompt_tokens=(15, 40),
    choice_prompt=bare_choice_prompt,
    prunevid_share=None,
    prumerge_share=None,
    lacks=FRAMES_OF_ANY_SIZE,
)
