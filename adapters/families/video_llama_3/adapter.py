"""Where things live in VideoLLaMA3 (transformers' ``VideoLlama3ForConditionalGeneration``).

Frames stand apart: ``Time 1.0s:`` and a run of placeholders for each, with commas between. Its own
token compression drops tokens that look like those of the frame before, so that frames are no
longer equally long and no longer grids; it has to be off.

transformers' class takes no ``logits_to_keep``, which tells the candidates of assisted decoding
from the question; there, candidates count as part of the question where tokens are selected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ...engine.interface import PromptVisuals, VideoSpan
from ..grids import GridAdapter, one_run_a_frame
from ..placeholders import Run


class VideoLlama3Adapter(GridAdapter):
    positions = "renumber"
    position_axes = 1
    decoder_types = ("qwen2",)

    def locate(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[PromptVisuals]:
        kept = inputs.get("video_compression_mask")
        if kept is not None and not bool(kept.all()):
            raise ValueError(
                f"video_compression_mask drops {int((~kept).sum())} of {kept.numel()} video tokens "
                "before pruning sees them, and frames of unequal length cannot be merged; process "
                "videos with use_token_compression=False"
            )
        return super().locate(model, inputs)

    def lengths(self, config: Any, inputs: Mapping[str, Any]) -> list[int]:
        sizes, grid = inputs.get("video_merge_sizes"), inputs.get("video_grid_thw")
        if sizes is None or grid is None:
            return super().lengths(config, inputs)
        found: list[int] = (grid.prod(dim=-1) // sizes**2).tolist()
        return found

    def spans(
        self, runs: list[Run], lengths: list[int], inputs: Mapping[str, Any]
    ) -> list[tuple[int, VideoSpan]]:
        return one_run_a_frame(runs, lengths, inputs)
