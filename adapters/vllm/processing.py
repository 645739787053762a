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
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import BaseMultiModalProcessor, ProcessorInputs, PromptReplacement

from prunevid_kernels import budget_tokens

from .settings import REQUEST_SETTING, cache_salt, request_retain, server_retain

TOKENS_FIELD = "prunevid_tokens"


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

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> ProcessorInputs:
        inputs = super().get_dummy_inputs(*args, **kwargs)
        inputs.hf_processor_mm_kwargs = {**inputs.hf_processor_mm_kwargs, REQUEST_SETTING: 1.0}
        return inputs

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        own, others = request_retain(hf_kwargs)
        retain = self._retain if own is None else own
        data = super()._apply_hf_processor_main(mm_items, others)
        if shapes := self.video_shapes(data):
            data[TOKENS_FIELD] = torch.tensor([budget_tokens(*shape, retain) for shape in shapes])
        return data

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> dict[str, MultiModalFieldConfig]:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))
        return fields | {TOKENS_FIELD: MultiModalFieldConfig.batched("video", keep_on_cpu=True)}

    def _get_mm_hashes(self, inputs: ProcessorInputs) -> dict[str, list[str]]:
        own, others = request_retain(inputs.hf_processor_mm_kwargs)
        salt = cache_salt(self._retain if own is None else own)
        hashes = super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=others))
        return {kind: [f"{item}-{salt}" for item in items] for kind, items in hashes.items()}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        _, others = request_retain(hf_processor_mm_kwargs)
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
