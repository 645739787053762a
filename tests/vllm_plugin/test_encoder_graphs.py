"""The vision tower behind vLLM's manager of its CUDA graphs: the merge follows the replay.

There is no graph on a CPU, so a replay is pretended: the tower runs into one buffer, which the next
replay overwrites, with NaN behind what the batch fills. Batches, slices and budgets are vLLM's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from vllm import LLM
from vllm.multimodal.utils import group_and_batch_mm_kwargs
from vllm.v1.worker import gpu_model_runner
from vllm.v1.worker.encoder_cudagraph import EncoderCudaGraphManager
from vllm_engines import IMAGE_PLACEHOLDERS, answers, clip, engine, prompt

BUDGETS = [128, 512]


class PretendedGraphs(EncoderCudaGraphManager):
    def __init__(self, runner: Any) -> None:
        compilation = runner.vllm_config.compilation_config
        compilation.encoder_cudagraph_token_budgets = BUDGETS
        compilation.encoder_cudagraph_max_vision_items_per_batch = 2
        compilation.encoder_cudagraph_max_frames_per_batch = 32
        super().__init__(runner.vllm_config, runner.device, runner.dtype, runner.model)
        self.buffer = torch.empty(0)

    def _run_budget_graph(
        self,
        mm_kwargs: dict[str, Any],
        token_budget: int,
        path: str = "default",
        axis_keys: tuple[Any, ...] = (),
    ) -> Tensor:
        replay = self.model.prepare_encoder_cudagraph_replay_buffers(
            mm_kwargs, self.max_batch_size, self.max_frames_per_batch, path
        )
        assert set(replay.values) <= {*self.config.buffer_keys}
        features = self.model.encoder_eager_forward(mm_kwargs)
        if not len(self.buffer):
            self.buffer = features.new_empty(BUDGETS[-1], features.shape[1])
        self.buffer.fill_(float("nan"))[: len(features)] = features
        self.graph_hits += len(self._get_item_specs(mm_kwargs))
        return self.buffer[:token_budget]


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def llm(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Iterator[LLM]:
    with engine(checkpoints[request.param]) as running:
        running.family = request.param  # type: ignore[attr-defined]
        yield running


@pytest.fixture
def runner(llm: LLM) -> Any:
    executor: Any = llm.llm_engine.engine_core.engine_core.model_executor  # type: ignore[attr-defined]
    return executor.driver_worker.worker.model_runner


def questions(family: str) -> list[dict[str, Any]]:
    """About videos that were not asked about before, and one with an image."""
    videos = [prompt(family, [clip(frames, 40 + frames)]) for frames in (8, 3)]
    both = prompt(family, [clip(5, 45)])
    both["prompt"] = IMAGE_PLACEHOLDERS[family] + both["prompt"]
    both["multi_modal_data"]["image"] = Image.fromarray(clip(1, 46)[0])
    return [*videos, both]


def test_a_replay_gives_the_tokens_of_the_tower(
    llm: LLM, runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    family: str = llm.family  # type: ignore[attr-defined]
    plain = [answers(llm, [one])[0] for one in questions(family)]
    graphs = PretendedGraphs(runner)
    assert graphs.config.modalities == ["image", "video"]
    monkeypatch.setattr(runner, "encoder_cudagraph_manager", graphs)
    runner.encoder_cache.clear()
    llm.llm_engine.reset_encoder_cache()
    llm.reset_mm_cache()
    assert llm.reset_prefix_cache()
    replayed = [answers(llm, [one])[0] for one in questions(family)]
    assert [a.tokens for a in replayed] == [a.tokens for a in plain]
    assert (graphs.graph_hits, graphs.graph_misses) == (4, 0)


def test_a_batch_in_one_replay_is_merged_item_by_item(
    llm: LLM, runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    family: str = llm.family  # type: ignore[attr-defined]
    items: list[Any] = []

    def recorded(mm_kwargs: Any, **options: Any) -> Any:
        items.extend(mm_kwargs)
        return group_and_batch_mm_kwargs(mm_kwargs, **options)

    monkeypatch.setattr(gpu_model_runner, "group_and_batch_mm_kwargs", recorded)
    for frames in (8, 3, 25):  # the last has more tokens than the largest graph
        answers(llm, [prompt(family, [clip(frames, 50 + frames)], retain=0.3)])
    ((_, _, batch),) = group_and_batch_mm_kwargs(items, device=runner.device)
    graphs = PretendedGraphs(runner)
    merged = graphs.execute(batch)
    assert graphs.graph_hits >= 2
    for own, expected in zip(merged, runner.model.embed_multimodal(**batch), strict=True):
        assert torch.isfinite(own).all()
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
