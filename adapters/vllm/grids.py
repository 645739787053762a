"""What pruned models with videos of any resolution and positions of three axes have in common.

vLLM asks for positions beside features where its own pruning is on, so that is switched on here,
whatever the share is. Images are not merged, but bring their positions along, because vLLM then
expects them of every embedding.

Videos go through the vision tower one after the other, and each is merged before the next starts:
vLLM sizes batches by placeholders, and a batch of pruned videos holds many more frames than it
takes a pruned video for. Where the tower runs as CUDA graphs, vLLM batches by unpruned tokens, and
the merge follows the replay (vLLM's own pruning switches those graphs off).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.platforms import current_platform
from vllm.utils.torch_utils import async_tensor_h2d

from .merging import CLOCK
from .positions import Grid, Media, MediaRows, fill_positions, prompt_positions
from .processing import TOKENS_FIELD, PruningProcessor
from .settings import ENGINE_SWITCH

CPU_WORKER = "prunevid_kernels.adapters.vllm.cpu_worker.CPUWorker"

if TYPE_CHECKING:
    # Any of vLLM's models with a vision tower of patch grids; which one is the subclass's choice.
    from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration as _Model
else:
    _Model = object


def token_grids(data: Mapping[str, Any], merge_size: int) -> list[tuple[int, int, int]]:
    """Frames, rows and columns of each processed video, in tokens."""
    grids = data["video_grid_thw"].tolist() if "video_grid_thw" in data else []
    return [(frames, rows // merge_size, columns // merge_size) for frames, rows, columns in grids]


class GridProcessor(PruningProcessor):
    """Counts T frames of H * W tokens, each of several patches and frames."""

    def video_grids(self, data: Mapping[str, Any]) -> list[tuple[int, int, int]]:
        """See :func:`token_grids`."""
        return token_grids(data, self.info.get_hf_config().vision_config.spatial_merge_size)

    def video_shapes(self, data: Mapping[str, Any]) -> list[tuple[int, int]]:
        return [(frames, rows * columns) for frames, rows, columns in self.video_grids(data)]


class PruningGridModel(_Model):
    """Goes before a model of vLLM's among the bases.

    Attributes:
        video_fields: what the processor sends of each video beside its pixels, in host memory.

    Raises:
        ValueError: on a CPU, another worker than the one that asks for positions.
    """

    video_fields: ClassVar[tuple[str, ...]] = ("video_grid_thw", TOKENS_FIELD)

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

    def get_model_state_cls(self) -> type[Any]:
        """What vLLM's newer runner keeps of requests."""
        from .model_state import PrunedModelState

        return PrunedModelState

    # ---- what families differ in

    @abstractmethod
    def embed_video(self, features: Tensor, video: Mapping[str, Any]) -> MediaRows:
        """Merge a video.

        Args:
            features: [T * N, C] as the tower gives them.
            video: its ``video_fields``.
        """

    @abstractmethod
    def video_extent(self, video: Mapping[str, Any]) -> int:
        """The positions that an unmerged video takes, from its ``video_fields``."""

    def token_grid(self, patches: Sequence[int] | Tensor, frame_step: float = 1.0) -> Grid:
        """The grid of tokens of a grid of patches in host memory."""
        frames, rows, columns = patches.tolist() if isinstance(patches, Tensor) else patches
        merge_size = self.config.vision_config.spatial_merge_size
        return Grid(frames, rows // merge_size, columns // merge_size, frame_step)

    # ---- features

    def _parse_and_validate_video_input(self, **kwargs: Any) -> Any:
        inputs = super()._parse_and_validate_video_input(**kwargs)
        if inputs is not None:
            for name in self.video_fields:
                setattr(inputs, name, kwargs.get(name))
        return inputs

    def _process_video_input(self, video_input: Any) -> tuple[Tensor, ...]:
        """Each video's merged tokens and where they belong, [R, C + CHANNELS]."""
        kind = video_input["type"]
        source = "video_embeds" if kind == "video_embeds" else "pixel_values_videos"
        grids = video_input["video_grid_thw"]  # in host memory, as all fields are
        sizes = grids.prod(dim=-1)
        if kind == "video_embeds":
            sizes = sizes // self.visual.spatial_merge_size**2
        outputs = []
        for index, part in enumerate(video_input[source].split(sizes.tolist())):
            one = {"type": kind, source: part, "video_grid_thw": grids[index : index + 1]}
            (features,) = super()._process_video_input(one)
            outputs.append(self._merged(features, self._video(video_input, index)))
        return tuple(outputs)

    def _merged(self, features: Tensor, video: Mapping[str, Any]) -> Tensor:
        with CLOCK.video(features.device):
            return self.embed_video(features, video).joined()

    def _video(self, batch: Any, index: int) -> dict[str, Any]:
        values = {name: batch[name] for name in self.video_fields}
        return {name: None if value is None else value[index] for name, value in values.items()}

    def _postprocess_video_embeds_evs(
        self, video_embeds_split: tuple[Tensor, ...], video_input: Any
    ) -> tuple[Tensor, ...]:
        return video_embeds_split  # merged already

    def _postprocess_image_embeds_evs(
        self, image_embeds_split: tuple[Tensor, ...], image_input: Any
    ) -> tuple[Tensor, ...]:
        grids = image_input["image_grid_thw"]
        return tuple(map(self._embed_image, image_embeds_split, grids))

    def _embed_image(self, features: Tensor, patches: Sequence[int] | Tensor) -> Tensor:
        index = torch.arange(len(features), device=features.device)
        return MediaRows.whole(features, self.token_grid(patches).positions(index)).joined()

    # ---- the tower as CUDA graphs

    def get_encoder_cudagraph_config(self) -> Any:
        config = super().get_encoder_cudagraph_config()
        if self.use_data_parallel:
            # Each worker encodes some of the items then, and they exchange tokens by their
            # unmerged numbers: there is no place for a merge after the replay.
            return config
        return replace(
            config,
            modalities=["image", "video"],
            max_frames_per_video=self.get_max_frames_per_video(),
        )

    def select_encoder_cudagraph_items(
        self, mm_kwargs: dict[str, Any], indices: list[int]
    ) -> dict[str, Any]:
        selected = super().select_encoder_cudagraph_items(mm_kwargs, indices)
        if self.get_input_modality(mm_kwargs) == "video":
            for name in set(self.video_fields) - set(selected):
                values = mm_kwargs.get(name)
                selected[name] = None if values is None else [values[index] for index in indices]
        return selected

    def postprocess_encoder_output(
        self,
        outputs: dict[str, Tensor],
        indices: list[int],
        per_item_out_tokens: list[int],
        dest: Any,
        clone: bool = False,
        batch_mm_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Merge what a replay has left in its buffer; nothing of that is kept."""
        assert batch_mm_kwargs is not None
        modality = self.get_input_modality(batch_mm_kwargs)
        sizes = [per_item_out_tokens[index] for index in indices]
        # The buffer is larger than what is in it.
        items = outputs["default"][: sum(sizes)].split(sizes)
        for number, (index, features) in enumerate(zip(indices, items, strict=True)):
            if modality == "video":
                dest[index] = self._merged(features, self._video(batch_mm_kwargs, number))
            else:
                dest[index] = self._embed_image(features, batch_mm_kwargs["image_grid_thw"][number])

    # ---- positions

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        ordered = sorted(mm_features, key=lambda feature: feature.mm_position.offset)
        return prompt_positions(len(input_tokens), [self._media(feature) for feature in ordered])

    def _media(self, feature: Any) -> Media:
        data = {name: element.data for name, element in feature.data.items()}
        extent = (
            self.token_grid(data["image_grid_thw"]).extent
            if feature.modality == "image"
            else self.video_extent(data)
        )
        return Media(feature.mm_position.offset, feature.mm_position.length, extent)

    def place(
        self, input_ids: Tensor, embeddings: Sequence[Tensor], positions: Tensor, first: int
    ) -> tuple[list[Tensor], Tensor]:
        """Take apart what came out of the encoder.

        Args:
            input_ids: [S] of a prompt.
            embeddings: of its stretch that begins at ``first``, each [R, C + CHANNELS].
            positions: [3, S] int64 of the prompt, on the ids' device.
            first: the first token that is computed.

        Returns:
            The features, each [R, C], and the prompt's positions with theirs filled in.
        """
        config = self.config
        is_placeholder = (input_ids == config.image_token_id) | (input_ids == config.video_token_id)
        media = [MediaRows.split(item) for item in embeddings]
        positions = fill_positions(positions, is_placeholder, first, media)
        return [rows.features for rows in media], positions

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """For vLLM's older runner, which keeps positions in host memory: there it waits itself.
        The newer one asks :meth:`place`, see model_state.py."""
        offset = int(mrope_positions.max()) + 1 - len(input_ids)
        if not multimodal_embeddings:
            return [], mrope_positions, offset
        device = multimodal_embeddings[0].device
        ids, positions = (
            value if value.device == device else async_tensor_h2d(value, device)
            for value in (torch.as_tensor(input_ids), mrope_positions)
        )
        return *self.place(ids, multimodal_embeddings, positions, num_computed_tokens), offset
