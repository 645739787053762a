"""Where things live in SmolVLM2 (transformers' ``SmolVLMForConditionalGeneration``).

A frame is an image: ``Frame from 00:03:``, two markers, a run of placeholders and a marker.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...engine.interface import VisionAttention
from ..placeholders import ImageFramesAdapter, core_of
from ..vision import encoder_layers
from .family import token_side


class SmolVLMAdapter(ImageFramesAdapter):
    decoder_types = ("llama",)

    def decoder(self, model: nn.Module) -> nn.Module:
        return core_of(model).text_model

    def frame_grid(self, model: nn.Module) -> tuple[int, int]:
        side = token_side(core_of(model).config)
        return side, side

    def vision_attention(self, model: nn.Module) -> VisionAttention:
        """What a patch of SigLIP, which has no class token, receives from all of its frame in the
        last layer, averaged over the patches that become one token."""
        core = core_of(model)
        attention: Any = encoder_layers(core.vision_model)[-1].self_attn

        def pool(patches: Tensor, videos: int) -> Tensor:
            side, scale = token_side(core.config), core.config.scale_factor
            square = (side, scale, side, scale)
            return patches.unflatten(1, square).mean(dim=(2, 4)).flatten(1, 2)

        return VisionAttention(
            query=attention.q_proj,
            key=attention.k_proj,
            num_heads=attention.num_heads,
            tokens=slice(None),
            has_class_token=False,
            encoder=core.connector,
            pool=pool,
        )
