"""Where things live in Qwen3-VL, dense (transformers' ``Qwen3VLForConditionalGeneration``) and with
experts (``Qwen3VLMoeForConditionalGeneration``).

Frames stand apart: for each pair of frames a timestamp in words (``<12.3 seconds>``), then a run of
placeholders between ``<|vision_start|>`` and ``<|vision_end|>``. After each of its first layers the
decoder adds a plane of the vision tower's earlier features to the visual tokens. Queries and keys
have a norm of their heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ...engine.interface import VideoSpan, VisualPlanes
from ..grids import GridAdapter, one_run_a_frame
from ..placeholders import Run, core_of


class Qwen3VLAdapter(GridAdapter):
    decoder_types = ("qwen3_vl_text", "qwen3_vl_moe_text")

    def spans(
        self, runs: list[Run], lengths: list[int], inputs: Mapping[str, Any]
    ) -> list[tuple[int, VideoSpan]]:
        return one_run_a_frame(runs, lengths, inputs)

    def planes(self, model: nn.Module) -> VisualPlanes:
        count = len(core_of(model).config.vision_config.deepstack_visual_indexes)
        return VisualPlanes("visual_pos_masks", "deepstack_visual_embeds", count)
