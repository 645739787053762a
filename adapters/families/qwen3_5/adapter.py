"""Where things live in Qwen3.5, dense (transformers' ``Qwen3_5ForConditionalGeneration``) and with
experts (``Qwen3_5MoeForConditionalGeneration``).

Frames stand apart: for each pair of frames a timestamp in words (``<12.3 seconds>``), then a run of
placeholders between ``<|vision_start|>`` and ``<|vision_end|>``. Three of four decoder layers are
gated linear attention: their states have seen every token of the prompt, so that nothing can be
dropped inside the decoder. Merging before it is all there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...engine.interface import VideoSpan
from ..grids import GridAdapter, one_run_a_frame
from ..placeholders import Run


class Qwen3_5Adapter(GridAdapter):
    decoder_types = ("qwen3_5_text", "qwen3_5_moe_text")

    def spans(
        self, runs: list[Run], lengths: list[int], inputs: Mapping[str, Any]
    ) -> list[tuple[int, VideoSpan]]:
        return one_run_a_frame(runs, lengths, inputs)
