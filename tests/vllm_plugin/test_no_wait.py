"""From the tower's output to positions, a worker never waits for its device; vLLM's newer runner
included, as far as pruning goes through it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from no_wait import pretended_device
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.v1.worker.gpu.model_states.mm_pruning import MultiModalPruner

from prunevid_kernels import budget_tokens
from prunevid_kernels.adapters.vllm.grids import PruningGridModel
from prunevid_kernels.adapters.vllm.model_state import keep_shifts
from prunevid_kernels.adapters.vllm.positions import CHANNELS
from prunevid_kernels.adapters.vllm.processing import TOKENS_FIELD
from prunevid_kernels.adapters.vllm.qwen2_5_vl import PruneVidQwen2_5_VLForConditionalGeneration
from prunevid_kernels.adapters.vllm.qwen3_vl import TEXT_FIELD, FramesApart

CHANNELS_OF_TOKENS, PLANES = 16, 2
START, END, IMAGE, VIDEO = 90, 91, 92, 93
FRAMES, ROWS, COLUMNS = 5, 2, 4
MERGED = budget_tokens(FRAMES, ROWS * COLUMNS, 0.3)
# In host memory, as vLLM's processor sends it.
FIELDS = {
    "video_grid_thw": torch.tensor([FRAMES, 2 * ROWS, 2 * COLUMNS]),
    TOKENS_FIELD: torch.tensor(MERGED),
    TEXT_FIELD: torch.tensor([11, 12, START, END] * FRAMES),
    "second_per_grid_ts": torch.tensor(0.5),
}


def model(family: type[PruningGridModel], planes: int) -> Any:
    """A model without weights, as far as merging and placing know it."""
    config = SimpleNamespace(
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        vision_config=SimpleNamespace(spatial_merge_size=2, tokens_per_second=2),
    )
    made = object.__new__(family)
    torch.nn.Module.__init__(made)
    decoder = SimpleNamespace(
        embed_input_ids=lambda ids: torch.empty(len(ids), CHANNELS_OF_TOKENS, device=ids.device)
    )
    values = {"config": config, "visual_dim": CHANNELS_OF_TOKENS}
    values |= {"multiscale_dim": CHANNELS_OF_TOKENS * planes, "get_language_model": lambda: decoder}
    for name, value in values.items():
        setattr(made, name, value)
    return made


class Apart(FramesApart, torch.nn.Module):  # type: ignore[misc]
    """Without the tower and the decoder of one of vLLM's models."""


@pytest.mark.parametrize(
    ("family", "planes", "text"),
    [
        pytest.param(Apart, PLANES, 4 * FRAMES, id="frames-apart-with-planes"),
        pytest.param(Apart, 0, 4 * FRAMES, id="frames-apart"),
        pytest.param(PruneVidQwen2_5_VLForConditionalGeneration, 0, 0, id="one-run"),
    ],
)
def test_merged_and_placed(
    monkeypatch: pytest.MonkeyPatch, family: Any, planes: int, text: int
) -> None:
    made = model(family, planes)
    width = CHANNELS_OF_TOKENS * (1 + planes)
    shifts = np.array([7, -31], dtype=np.int32)
    with pretended_device(monkeypatch) as device:
        features = torch.empty(FRAMES * ROWS * COLUMNS, width, device=device)
        embeddings = made.embed_video(features, FIELDS).joined()
        assert embeddings.shape == (MERGED + text, width + CHANNELS)
        # vLLM's own bookkeeping of a prompt of two videos, the first of them begun before.
        length = 2 * len(embeddings) + 9
        stored: list[torch.Tensor] = []

        def update(slot: int, positions: torch.Tensor, shift: int) -> None:
            stored.append(positions)
            assert (slot, shift) == (1, -31)  # as it was counted when the request came

        state = SimpleNamespace(
            prefill_delta=SimpleNamespace(np=shifts),
            read_prefill_positions=lambda slot, length: torch.empty(
                3, length, dtype=torch.int32, device=device
            ),
            update_prefill_positions=update,
        )
        places = [PlaceholderRange(start, len(embeddings)) for start in (2, 5 + len(embeddings))]
        videos = [MultiModalFeatureSpec(None, "video", str(place), place) for place in places]
        cache = SimpleNamespace(mm_features={"a": videos})
        pruner = MultiModalPruner(made, state, cache, width)
        keep_shifts(SimpleNamespace(mm_pruner=pruner))
        batch = SimpleNamespace(
            req_ids=["a"],
            idx_mapping_np=np.array([1]),
            prefill_len_np=np.array([length]),
            num_computed_prefill_tokens_np=np.array([4]),
            num_scheduled_tokens=np.array([length - 4]),
        )
        ids = torch.empty(2, length + 3, dtype=torch.int32, device=device)
        requests = SimpleNamespace(all_token_ids=SimpleNamespace(gpu=ids))
        cleaned = pruner.recompute([embeddings[2:], embeddings], batch, requests)
    assert [item.shape for item in cleaned] == [
        (len(embeddings) - 2, width),
        (len(embeddings), width),
    ]
    assert [item.shape for item in stored] == [(3, length)]
