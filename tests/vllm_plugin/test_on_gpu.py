"""What only a GPU shows: ``python -m prunevid_kernels.benchmarks.on_gpu`` runs this file.

vLLM raises here where a worker waits for its device unasked (``VLLM_GPU_SYNC_CHECK=error``, set in
conftest.py before vLLM is imported).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from vllm_engines import FAMILIES, GRIDS, Answer, answers, clip, engine, prompt

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def served(checkpoint: Path, *, with_graphs: bool) -> tuple[list[Answer], Any]:
    """Answers about two videos, and the manager of the tower's graphs."""
    family = checkpoint.name
    options: dict[str, Any] = {"dtype": "bfloat16", "max_num_batched_tokens": 1024}
    if with_graphs:
        options |= {
            "enforce_eager": False,
            "compilation_config": {"cudagraph_mm_encoder": True},
        }
    with engine(checkpoint, **options) as llm:
        core: Any = llm.llm_engine.engine_core
        runner = core.engine_core.model_executor.driver_worker.worker.model_runner
        said = answers(llm, [prompt(family, [clip(frames, frames)]) for frames in (8, 3)])
        state = getattr(runner, "model_state", None)  # of vLLM's newer runner, a GPU's default
        assert state is not None
        return said, state.encoder_runner.cudagraph_manager


@pytest.mark.parametrize("family", FAMILIES)
def test_serving_waits_for_nothing(family: str, checkpoints: dict[str, Path]) -> None:
    said, _ = served(checkpoints[family], with_graphs=False)
    assert all(len(answer.tokens) for answer in said)


@pytest.mark.parametrize("family", GRIDS)
def test_the_tower_runs_as_graphs(family: str, checkpoints: dict[str, Path]) -> None:
    said, manager = served(checkpoints[family], with_graphs=True)
    assert manager.graph_hits == 2 and manager.graph_misses == 0
    plain, _ = served(checkpoints[family], with_graphs=False)
    assert [answer.prompt_tokens for answer in said] == [answer.prompt_tokens for answer in plain]
    assert [answer.tokens[0] for answer in said] == [answer.tokens[0] for answer in plain]
