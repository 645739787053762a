"""The part of a request's preparation that pruning changes, for any of vLLM's video models.

How many tokens a video is merged into is decided here, once, when its frames are counted, and goes
two ways: into the prompt as that many placeholders, and with the pixels to the worker, in host
memory, so that nobody counts again or waits for a device.

What vLLM asks about the largest video (its profile run, its encoder's budget) is answered for
unpruned videos: a request may keep everything, and the vision tower's memory does not depend on
what is kept after it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from vllm.inputs import MultiModalInput
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import BaseMultiModalProcessor, ProcessorInputs, PromptReplacement

from prunevid_kernels import budget_tokens

from .guard.limits import (
    POSITIONS,
    ROWS_PER_POSITION,
    check_media,
    check_size,
    positions_of_a_video,
)
from .settings import REQUEST_SETTING, cache_salt, request_retain, server_retain

TOKENS_FIELD = "prunevid_tokens"
# How many positions each video of a prompt may take, from apply to what it calls.
POSITIONS_KEY = "prunevid_positions"


def configured_retain(model_config: Any) -> float:
    """The server's share, see :func:`~.settings.server_retain`, from a vLLM ``ModelConfig``."""
    multimodal = model_config.get_multimodal_config()
    return server_retain(
        getattr(model_config.hf_config, "prunevid", None),
        multimodal.video_pruning_rate,
        multimodal.video_pruning_method,
    )


class PruningProcessor(BaseMultiModalProcessor):
    """Goes before a model's own processor among the bases.

    Attributes:
        tokens_after_video: placeholders of a video that are not merged, such as a newline.
    """

    tokens_after_video = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._retain = configured_retain(self.info.ctx.model_config)
        server_kwargs = self.info.ctx.get_mm_config().mm_processor_kwargs or {}
        if REQUEST_SETTING in server_kwargs:
            raise ValueError(
                f"{REQUEST_SETTING} belongs to a request, not to --mm-processor-kwargs: the "
                'server\'s own share is hf_overrides["prunevid"]["retain"]'
            )

    @abstractmethod
    def video_shapes(self, data: Mapping[str, Any]) -> list[tuple[int, int]]:
        """(T, N) of each video in the processed data, as its features [T, N, C] will be."""

    def check(self, data: Mapping[str, Any], positions: int) -> None:
        """Refuse what the worker could not take, see :mod:`.guard.limits`.

        Args:
            data: processed.
            positions: that each of the videos may take at most.

        Raises:
            ValueError: names the field.
        """
        check_media(data, self.info.get_hf_config())

    def apply(self, inputs: ProcessorInputs, *args: Any, **kwargs: Any) -> MultiModalInput:
        videos = inputs.mm_data_items.get_count("video", strict=False)
        model_config = self.info.ctx.model_config
        rows = ROWS_PER_POSITION * model_config.hf_text_config.max_position_embeddings
        limit = positions_of_a_video(videos, rows, model_config.max_model_len)
        own = {**inputs.hf_processor_mm_kwargs, POSITIONS_KEY: limit}
        return super().apply(replace(inputs, hf_processor_mm_kwargs=own), *args, **kwargs)

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> ProcessorInputs:
        inputs = super().get_dummy_inputs(*args, **kwargs)
        inputs.hf_processor_mm_kwargs = {**inputs.hf_processor_mm_kwargs, REQUEST_SETTING: 1.0}
        return inputs

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        retain, positions, others = self._settings(hf_kwargs)
        data = super()._apply_hf_processor_main(mm_items, others)
        self.check(data, positions)
        if shapes := self.video_shapes(data):
            counts = [budget_tokens(*shape, retain) for shape in shapes]
            for (frames, tokens_per_frame), count in zip(shapes, counts, strict=True):
                if count < frames * tokens_per_frame:
                    check_size(frames, tokens_per_frame)
            data[TOKENS_FIELD] = torch.tensor(counts)
        return data

    def _settings(self, kwargs: Mapping[str, object]) -> tuple[float, int, dict[str, object]]:
        """A request's share, the positions a video may take, and its other arguments."""
        own, others = request_retain(kwargs)
        positions = others.pop(POSITIONS_KEY, POSITIONS)
        assert isinstance(positions, int)  # apply has put it there
        if (tensors := others.get("return_tensors", "pt")) != "pt":
            raise ValueError(f'mm_processor_kwargs["return_tensors"] must be "pt", got {tensors!r}')
        return self._retain if own is None else own, positions, others

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> dict[str, MultiModalFieldConfig]:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))
        return fields | {TOKENS_FIELD: MultiModalFieldConfig.batched("video", keep_on_cpu=True)}

    def _get_mm_hashes(self, inputs: ProcessorInputs) -> dict[str, list[str]]:
        retain, positions, others = self._settings(inputs.hf_processor_mm_kwargs)
        # A cached video is not looked at again, so it is cached with the limit it has passed.
        salt = cache_salt(retain) + ("" if positions == POSITIONS else f"-{positions}")
        hashes = super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=others))
        return {kind: [f"{item}-{salt}" for item in items] for kind, items in hashes.items()}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        _, _, others = self._settings(hf_processor_mm_kwargs)
        updates = super()._get_prompt_updates(mm_items, others, out_mm_kwargs)

        def shortened(update: PromptReplacement) -> PromptReplacement:
            def placeholders(index: int) -> Any:
                return self.placeholders(update, out_mm_kwargs["video"][index])

            return replace(update, replacement=placeholders)

        return [shortened(item) if item.modality == "video" else item for item in updates]

    def placeholders(self, update: PromptReplacement, video: Any) -> Any:
        """What stands in the prompt for a processed video."""
        tokens = int(video[TOKENS_FIELD].data)
        return list(update.target) * (tokens + self.tokens_after_video)
