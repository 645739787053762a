"""Qwen3-VL in vLLM, dense and with experts, its videos merged after the vision tower's own patch
merger.

Frames stand apart in the prompt, each after its timestamp (apart.py). The tower gives, beside each
token's features, planes of its earlier layers, which the decoder adds after its first layers
(DeepStack): the features alone decide what is merged, and whole rows are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl_moe import (
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLMoeProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import PromptUpdateDetails
from vllm.utils.torch_utils import async_tensor_h2d

from prunevid_kernels import apply_layout

from .apart import Stretch
from .grids import GridProcessor, PruningGridModel
from .guard.limits import check_timestamps
from .merging import merge_within
from .positions import MediaRows, check_extent
from .processing import TOKENS_FIELD

TEXT_FIELD = "prunevid_text"


class PruneVidQwen3VLProcessor(GridProcessor, Qwen3VLMultiModalProcessor):
    """Counts T / 2 frames of H * W / 4 tokens, and sends the text between frames along, so that the
    worker has nothing to tokenize."""

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        data = super()._apply_hf_processor_main(mm_items, hf_kwargs)
        if grids := self.video_grids(data):
            check_timestamps(data.get("timestamps"), [frames for frames, _, _ in grids])
            texts = [self._text(timestamps) for timestamps in data["timestamps"]]
            config = self.info.get_hf_config()
            for text, grid in zip(texts, grids, strict=True):
                check_extent(_stretch(config, text, grid).extent)
            data[TEXT_FIELD] = texts
        return data

    def _text(self, timestamps: Any) -> Tensor:
        """[M] int64 the token ids of a video's text."""
        config = self.info.get_hf_config()
        text = self.get_video_repl(
            tokens_per_frame=[0] * len(timestamps),
            timestamps=timestamps,
            tokenizer=self.info.get_tokenizer(),
            vision_start_token_id=config.vision_start_token_id,
            vision_end_token_id=config.vision_end_token_id,
            video_token_id=config.video_token_id,
        )
        return torch.tensor(text.full)

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> dict[str, MultiModalFieldConfig]:
        fields = super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)
        return fields | {TEXT_FIELD: MultiModalFieldConfig.batched("video", keep_on_cpu=True)}

    def placeholders(self, update: Any, video: Any) -> PromptUpdateDetails[list[int]]:
        config = self.info.get_hf_config()
        data = {name: element.data for name, element in video.items()}
        stretch = stretch_of(config, data)
        ids = stretch.placeholders(int(data[TOKENS_FIELD]), config.video_token_id)
        return PromptUpdateDetails.from_seq(ids)


def stretch_of(config: Any, video: Mapping[str, Any]) -> Stretch:
    """A video's stretch of the prompt, from its fields."""
    merge_size = config.vision_config.spatial_merge_size
    frames, rows, columns = torch.as_tensor(video["video_grid_thw"]).tolist()
    grid = (frames, rows // merge_size, columns // merge_size)
    return _stretch(config, video[TEXT_FIELD], grid)


def _stretch(config: Any, text: Tensor, grid: tuple[int, int, int]) -> Stretch:
    start, end = config.vision_start_token_id, config.vision_end_token_id
    return Stretch.of_ids(text.tolist(), start, end, grid)


class FramesApart(PruningGridModel):
    """Goes before a model of vLLM's whose frames stand apart among the bases."""

    video_fields = ("video_grid_thw", TOKENS_FIELD, TEXT_FIELD)

    def embed_video(self, features: Tensor, video: Mapping[str, Any]) -> MediaRows:
        stretch = stretch_of(self.config, video)
        numbers = stretch.split_numbers(async_tensor_h2d(stretch.numbers(), features.device))
        rows = features.unflatten(0, (len(stretch.text), -1))  # [T, N, C and the planes]
        channels, planes = self.visual_dim, self.multiscale_dim
        merged = merge_within(rows[..., :channels], int(video[TOKENS_FIELD]))
        tokens = merged.tokens
        text = self.get_language_model().embed_input_ids(numbers.text)
        if planes:
            own = apply_layout(rows[..., channels:], merged.layout)
            tokens = torch.cat([tokens, own], dim=1)
            # The decoder adds nothing to text.
            text = torch.cat([text, text.new_zeros(len(text), planes)], dim=1)
        return stretch.arrange(tokens, merged.layout.merged_anchor, text, numbers)

    def video_extent(self, video: Mapping[str, Any]) -> int:
        return stretch_of(self.config, video).extent


@MULTIMODAL_REGISTRY.register_processor(
    PruneVidQwen3VLProcessor,
    info=Qwen3VLProcessingInfo,
    dummy_inputs=Qwen3VLDummyInputsBuilder,
)
class PruneVidQwen3VLForConditionalGeneration(FramesApart, Qwen3VLForConditionalGeneration):
    """vLLM's model, except for what becomes of a video's features and for positions."""


@MULTIMODAL_REGISTRY.register_processor(
    PruneVidQwen3VLProcessor,
    info=Qwen3VLMoeProcessingInfo,
    dummy_inputs=Qwen3VLDummyInputsBuilder,
)
class PruneVidQwen3VLMoeForConditionalGeneration(FramesApart, Qwen3VLMoeForConditionalGeneration):
    """The same with experts."""
