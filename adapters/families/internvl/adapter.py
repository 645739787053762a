"""Where things live in InternVL 3 and 3.5 (transformers' ``InternVLForConditionalGeneration``).

A frame is an image: ``Frame1: <img>``, a run of placeholders, ``</img>``, on a line of its own.
InternVL 3.5's decoder, Qwen3, has a norm of its heads.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...engine.interface import VisionAttention
from ..placeholders import ImageFramesAdapter, core_of
from .family import token_side


class InternVLAdapter(ImageFramesAdapter):
    decoder_types = ("qwen2", "qwen3")

    def decoder(self, model: nn.Module) -> nn.Module:
        return core_of(model).language_model

    def frame_grid(self, model: nn.Module) -> tuple[int, int]:
        side = token_side(core_of(model).config)
        return side, side

    def vision_attention(self, model: nn.Module) -> VisionAttention:
        """What the class token attends to in the last layer, averaged over the patches that become
        one token."""
        core = core_of(model)
        attention: Any = core.vision_tower.encoder.layer[core.config.vision_feature_layer].attention
        patches_a_side = round(1 / core.config.downsample_ratio)

        def pool(patches: Tensor, videos: int) -> Tensor:
            side = token_side(core.config)
            square = (side, patches_a_side, side, patches_a_side)
            return patches.unflatten(1, square).mean(dim=(2, 4)).flatten(1, 2)

        return VisionAttention(
            query=attention.q_norm,
            key=attention.k_norm,
            num_heads=attention.num_heads,
            tokens=slice(1, None),
            has_class_token=True,
            encoder=core.multi_modal_projector,
            pool=pool,
        )
