"""PLLaVA: CLIP, a projector that pools over space and time, and Llama (Vicuna 7B)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..record import Evaluation, Family, Later, Prompt
from ..shape import DecoderShape, ModelShape, Size, VisionShape

NUM_FRAMES = 16
POOLED_SIDE = 12  # visual tokens along one side of a frame
CLIP = VisionShape(
    width=1024, mlp=4096, layers=24, heads=16, image_px=336, patch_px=14, has_class_token=True
)
_VICUNA_7B = DecoderShape(4096, 11008, 32, 32, 32, 32064)

_DESCRIBE = (
    "You are Video-ChatGPT, a large vision-language assistant. You are able to understand the video"
    " content that the user provides, and assist the user with a variety of tasks using natural"
    " language.Follow the instructions carefully and explain your answers in detail based on the"
    " provided video."
)


def _recognises(config: Mapping[str, Any], keys: Callable[[], Collection[str]]) -> bool:
    """The published config calls itself "llava", as image models do; its architecture or its
    pooling shape tells."""
    kind, architectures = config.get("model_type"), config.get("architectures") or []
    return (
        kind == "pllava"
        or "PlavaForConditionalGeneration" in architectures
        or (kind == "llava" and "pooling_shape" in config)
    )


def model_shape(
    decoder: DecoderShape, vision: VisionShape, frames: int, tokens_per_frame: int
) -> ModelShape:
    """CLIP, and a two-layer projector on all of its patches."""
    width = decoder.hidden_size
    return ModelShape(
        family="pllava",
        decoder=decoder,
        frames=frames,
        tokens_per_frame=tokens_per_frame,
        vision_macs=vision.frame_macs(),
        projector_macs=(vision.tokens - 1) * (vision.width * width + width**2),
        importance_macs=vision.tokens * vision.width,  # the row of CLS
        key_width=vision.width,
    )


def _shape(config: Any) -> ModelShape:
    return model_shape(
        DecoderShape.from_text_config(config.text_config),
        VisionShape.of(config.vision_config, has_class_token=True),
        config.pooling_shape[0],
        config.tokens_per_frame,
    )


def _choice_prompt(question: str, instruction: str) -> Prompt:
    return Prompt(f"{question} \nOnly give the best option.", instruction, "Best option:(")


FAMILY = Family(
    name="pllava",
    title="PLLaVA",
    model_types=("pllava",),
    recognises=_recognises,
    adapter=Later(__name__, "adapter:PllavaAdapter"),
    read_config=Later(__name__, "config:PllavaConfig.read"),
    check=Later(__name__, "model:Pllava.check_pretrained"),
    load=Later(__name__, "model:Pllava.from_pretrained"),
    processor=Later(__name__, "processor:PllavaProcessor.from_pretrained"),
    random_model=Later(__name__, "random_model:random_pllava"),
    shape=_shape,
    sizes=(Size("pllava-7b", model_shape(_VICUNA_7B, CLIP, NUM_FRAMES, POOLED_SIDE**2)),),
    num_frames=NUM_FRAMES,
    sampling="half_segments",
    prompt_tokens=(45, 40),
    choice_prompt=_choice_prompt,
    # Open questions have the published evaluation's system message, and PruneVid selects earlier.
    evaluations={"vcgbench": Evaluation(options={"layer": 5}, system=_DESCRIBE)},
    prunevid_share=0.162,
    prumerge_share=0.557,
    load_options=("lora_alpha",),
    needed_options=Later(__name__, "checkpoint:needed_options"),
)
