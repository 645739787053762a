"""Qwen2.5-VL in vLLM, its videos merged after the vision tower's own patch merger.

A video's features are [T / 2, H * W / 4, C] then: the tower has already put two frames and two by
two patches together. A merged token keeps the three-dimensional position of its first source token
(positions.py), which comes out of the encoder with the features; vLLM asks for such positions
where its own pruning is on, so that is switched on here, whatever the share is. Images are not
merged, but bring their positions along, because vLLM then expects them of every embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.platforms import current_platform
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from .limits import SECONDS, check_positions
from .merging import merge_within
from .positions import (
    Grid,
    Media,
    append_positions,
    fill_positions,
    prompt_positions,
    split_positions,
)
from .processing import TOKENS_FIELD, PruningProcessor
from .settings import ENGINE_SWITCH

CPU_WORKER = "prunevid_kernels.adapters.vllm.cpu_worker.CPUWorker"


class PruneVidQwen2_5_VLProcessor(PruningProcessor, Qwen2_5_VLMultiModalProcessor):
    """Counts T / 2 frames of H * W / 4 tokens."""

    def video_shapes(self, data: Mapping[str, Any]) -> list[tuple[int, int]]:
        merge_size = self.info.get_hf_config().vision_config.spatial_merge_size
        grids = data["video_grid_thw"].tolist() if "video_grid_thw" in data else []
        return [(frames, rows * columns // merge_size**2) for frames, rows, columns in grids]

    def check(self, data: Mapping[str, Any], positions: int) -> None:
        super().check(data, positions)
        if (seconds := data.get(SECONDS)) is not None:
            check_positions(
                data["video_grid_thw"][:, 0].tolist(),
                torch.as_tensor(seconds, dtype=torch.float64).flatten().tolist(),
                getattr(self.info.get_hf_config().vision_config, "tokens_per_second", 1.0),
                positions,
            )


@MULTIMODAL_REGISTRY.register_processor(
    PruneVidQwen2_5_VLProcessor,
    info=Qwen2_5_VLProcessingInfo,
    dummy_inputs=Qwen2_5_VLDummyInputsBuilder,
)
class PruneVidQwen2_5_VLForConditionalGeneration(Qwen2_5_VLForConditionalGeneration):
    """vLLM's model, except for what becomes of a video's features and for positions.

    Raises:
        ValueError: on a CPU, another worker than the one that asks for positions.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        worker = vllm_config.parallel_config.worker_cls
        if (
            current_platform.is_cpu()
            and not vllm_config.use_v2_model_runner
            and worker != CPU_WORKER
        ):
            raise ValueError(
                "vLLM's CPU worker does not ask models that prune for positions: start it with "
                f"--worker-cls {CPU_WORKER}, got {worker}"
            )
        multimodal = vllm_config.model_config.get_multimodal_config()
        if not multimodal.is_multimodal_pruning_enabled():
            multimodal.video_pruning_rate = ENGINE_SWITCH
        super().__init__(vllm_config=vllm_config, prefix=prefix)

    # ---- features

    def _parse_and_validate_video_input(self, **kwargs: Any) -> Any:
        inputs = super()._parse_and_validate_video_input(**kwargs)
        if inputs is not None:
            inputs.prunevid_tokens = kwargs[TOKENS_FIELD]
        return inputs

    def _process_video_input(self, video_input: Any) -> tuple[Tensor, ...]:
        """Each video's merged tokens and their positions, [K, C + CHANNELS]; one video at a time,
        so that the tower's memory does not grow with the batch."""
        kind = video_input["type"]
        source = "video_embeds" if kind == "video_embeds" else "pixel_values_videos"
        grids = video_input["video_grid_thw"]  # in host memory, as the counts and seconds are
        sizes = grids.prod(dim=-1)
        if kind == "video_embeds":
            sizes = sizes // self.visual.spatial_merge_size**2
        seconds = video_input.get("second_per_grid_ts")
        outputs = []
        for index, part in enumerate(video_input[source].split(sizes.tolist())):
            one = {"type": kind, source: part, "video_grid_thw": grids[index : index + 1]}
            (features,) = super()._process_video_input(one)
            grid = self._grid(
                grids[index].tolist(), 1.0 if seconds is None else float(seconds[index])
            )
            tokens = int(video_input[TOKENS_FIELD][index])
            merged = merge_within(features.unflatten(0, (grid.frames, -1)), tokens)
            positions = grid.positions(merged.layout.merged_anchor)
            outputs.append(append_positions(merged.tokens, positions))
        return tuple(outputs)

    def _postprocess_video_embeds_evs(
        self, video_embeds_split: tuple[Tensor, ...], video_input: Any
    ) -> tuple[Tensor, ...]:
        return video_embeds_split  # merged already

    def _postprocess_image_embeds_evs(
        self, image_embeds_split: tuple[Tensor, ...], image_input: Any
    ) -> tuple[Tensor, ...]:
        grids = map(self._grid, image_input["image_grid_thw"].tolist())
        return tuple(
            append_positions(
                features, grid.positions(torch.arange(len(features), device=features.device))
            )
            for features, grid in zip(image_embeds_split, grids, strict=True)
        )

    def _grid(self, patches: Sequence[int], seconds_per_frame: float = 1.0) -> Grid:
        frames, rows, columns = patches
        vision = self.config.vision_config
        merge_size = vision.spatial_merge_size
        step = seconds_per_frame * getattr(vision, "tokens_per_second", 1.0)
        return Grid(frames, rows // merge_size, columns // merge_size, step)

    # ---- positions

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        ordered = sorted(mm_features, key=lambda feature: feature.mm_position.offset)
        media = [
            Media(feature.mm_position.offset, feature.mm_position.length, Grid(*grid))
            for feature, (_, *grid) in zip(ordered, self.iter_mm_grid_thw(ordered), strict=True)
        ]
        return prompt_positions(len(input_tokens), media)

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        split = [split_positions(item) for item in multimodal_embeddings]
        device = mrope_positions.device
        ids = torch.as_tensor(input_ids, device=device)
        is_media = (ids == self.config.image_token_id) | (ids == self.config.video_token_id)
        # One of vLLM's two runners keeps positions in host memory, and both want the offset there.
        with gpu_sync_allowed():
            if split:
                in_grid = torch.cat([positions for _, positions in split], dim=1).to(device)
                mrope_positions = fill_positions(
                    mrope_positions, is_media, num_computed_tokens, in_grid
                )
            offset = int(mrope_positions.max()) + 1 - len(ids)
        return [tokens for tokens, _ in split], mrope_positions, offset
