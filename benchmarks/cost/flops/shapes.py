"""The dimensions of a whole video LLM that its arithmetic depends on, and what its vision side
costs.

Counts are multiply-accumulates; norms, activations, softmax and resizing are left out, as they are
for decoders (:mod:`.flops`). Two approximations, both of parts below a hundredth of the whole: the
Q-Former's question tokens are not counted, since their number is another tokenizer's; a block of
ST-LLM's branch over time is counted as a block of the tower and one linear layer more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .decoder import QWEN2_0_5B, QWEN2_7B, VICUNA_7B, DecoderShape


def transformer_macs(tokens: int, width: int, mlp: int) -> int:
    """One encoder layer: four projections, attention, and an MLP of two matrices."""
    return 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * mlp


@dataclass(frozen=True)
class VisionShape:
    """A vision transformer.

    Attributes:
        width, mlp, layers: of its blocks.
        tokens: of a frame, CLS included.
        patch_px: side of a patch.
    """

    width: int
    mlp: int
    layers: int
    tokens: int
    patch_px: int

    @classmethod
    def of(cls, config: Any, *, class_token: bool) -> VisionShape:
        """From a transformers vision config."""
        patches = (config.image_size // config.patch_size) ** 2
        return cls(
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            patches + class_token,
            config.patch_size,
        )

    def frame_macs(self) -> int:
        """What one frame costs."""
        embedding = self.tokens * 3 * self.patch_px**2 * self.width
        return embedding + self.layers * transformer_macs(self.tokens, self.width, self.mlp)


@dataclass(frozen=True)
class ModelShape:
    """One model.

    Attributes:
        family: ``"pllava"``, ``"st_llm"`` or ``"llava_onevision"``.
        decoder: its language model.
        frames, tokens_per_frame: of a video in the language model, as published.
        vision_macs: what the vision tower costs a frame.
        projector_macs: what comes between it and the language model costs a frame.
        importance_macs: what LLaVA-PruMerge+ computes of a frame's attention.
        key_width: channels of the keys that it compares.
    """

    family: str
    decoder: DecoderShape
    frames: int
    tokens_per_frame: int
    vision_macs: int
    projector_macs: int
    importance_macs: int
    key_width: int

    @property
    def visual_tokens(self) -> int:
        return self.frames * self.tokens_per_frame


def llava_onevision_shape(
    decoder: DecoderShape, vision: VisionShape, tokens_per_frame: int
) -> ModelShape:
    """SigLIP, and a two-layer projector on all of its patches."""
    width = decoder.hidden_size
    return ModelShape(
        family="llava_onevision",
        decoder=decoder,
        frames=32,
        tokens_per_frame=tokens_per_frame,
        vision_macs=vision.frame_macs(),
        projector_macs=vision.tokens * (vision.width * width + width**2),
        importance_macs=vision.tokens**2 * vision.width,
        key_width=vision.width,
    )


def pllava_shape(
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


def st_llm_shape(
    decoder: DecoderShape,
    vision: VisionShape,
    *,
    branch_layers: int,
    queries: int,
    width: int,
    mlp: int,
    layers: int,
    cross_every: int,
) -> ModelShape:
    """EVA-ViT-g with a branch over time, a Q-Former of ``width``, ``mlp`` and ``layers``, and a
    linear layer."""
    branch = transformer_macs(vision.tokens, vision.width, vision.mlp)
    branch += 5 * vision.tokens * vision.width**2  # over time, and the linear layer behind it
    cross = 2 * queries * width**2 + 2 * vision.tokens * vision.width * width
    cross += 2 * queries * vision.tokens * width
    qformer = layers * transformer_macs(queries, width, mlp) + -(-layers // cross_every) * cross
    return ModelShape(
        family="st_llm",
        decoder=decoder,
        frames=16,
        tokens_per_frame=queries,
        vision_macs=vision.frame_macs() + branch_layers * branch,
        projector_macs=qformer + queries * width * decoder.hidden_size,
        importance_macs=queries**2 * width,
        key_width=width,
    )


_SIGLIP = VisionShape(1152, 4304, 26, 729, 14)
_CLIP = VisionShape(1024, 4096, 24, 577, 14)
_EVA = VisionShape(1408, 6144, 39, 257, 14)
VICUNA_7B_11 = DecoderShape(4096, 11008, 32, 32, 32, 32001)

MODELS: dict[str, ModelShape] = {
    "pllava-7b": pllava_shape(VICUNA_7B, _CLIP, 16, 144),
    "st-llm": st_llm_shape(
        VICUNA_7B_11,
        _EVA,
        branch_layers=3,
        queries=32,
        width=768,
        mlp=3072,
        layers=12,
        cross_every=2,
    ),
    "llava-onevision-7b": llava_onevision_shape(QWEN2_7B, _SIGLIP, 196),
    "llava-onevision-0.5b": llava_onevision_shape(QWEN2_0_5B, _SIGLIP, 196),
}


def shape_of(config: Any) -> ModelShape:
    """The shape of a model, from its transformers config.

    Raises:
        ValueError: a model of another family.
    """
    kind = config.model_type
    if kind not in ("llava_onevision", "pllava", "st_llm"):
        raise ValueError(f"model_type must be llava_onevision, pllava or st_llm, got {kind!r}")
    decoder = DecoderShape.from_text_config(config.text_config)
    vision = VisionShape.of(config.vision_config, class_token=kind != "llava_onevision")
    if kind == "llava_onevision":
        side = -(-int(vision.tokens**0.5) // 2)  # pooled 2 x 2
        return llava_onevision_shape(decoder, vision, side**2)
    if kind == "pllava":
        return pllava_shape(decoder, vision, config.pooling_shape[0], config.tokens_per_frame)
    qformer = config.qformer_config
    return st_llm_shape(
        decoder,
        vision,
        branch_layers=config.adapter_layers,
        queries=config.num_query_tokens,
        width=qformer.hidden_size,
        mlp=qformer.intermediate_size,
        layers=qformer.num_hidden_layers,
        cross_every=qformer.cross_attention_frequency,
    )


def read_shape(folder: Path) -> ModelShape:
    """The shape of a checkpoint folder, weights unread.

    Raises:
        CheckpointError: no such folder, none of the three families, or an unreadable config.
    """
    from prunevid_kernels.adapters.checkpoint.files import CheckpointError, open_checkpoint
    from prunevid_kernels.adapters.families.detect import detect_family

    family = detect_family(folder)
    if family == "pllava":
        from prunevid_kernels.adapters.families.pllava.config import PllavaConfig

        return shape_of(PllavaConfig.read(folder))
    if family == "st_llm":
        from prunevid_kernels.adapters.families.st_llm.config import StLlmConfig

        return shape_of(StLlmConfig.read(folder, open_checkpoint(folder).tensors))
    from transformers import AutoConfig

    try:
        return shape_of(AutoConfig.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
