"""Where things live in Qwen2-VL (transformers' ``Qwen2VLForConditionalGeneration``).

A video is one run of placeholders between ``<|vision_start|>`` and ``<|vision_end|>``: a token for
each 2 x 2 patches of each pair of frames, by time, row and column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...engine.interface import VideoSpan
from ..grids import GridAdapter, one_run_each
from ..placeholders import Run


class Qwen2VLAdapter(GridAdapter):
    decoder_types = ("qwen2_vl_text",)

    def spans(
        self, runs: list[Run], lengths: list[int], inputs: Mapping[str, Any]
    ) -> list[tuple[int, VideoSpan]]:
        return one_run_each(runs, lengths, inputs)
