"""The vLLM plugin inside a real engine; ``scripts/test_vllm.sh`` has an environment with vLLM.

Without vLLM, or where it was not asked for, nothing here is collected and the summary says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

# Read by vLLM on import: no process of the engine's own (it would double the start-up), 1 GiB of
# cache, threads unbound (each worker would take a NUMA node, and most machines have one).
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault(
    "VLLM_GPU_SYNC_CHECK", "error"
)  # on a GPU: a wait that vLLM has not asked for

HAS_VLLM = find_spec("vllm") is not None
collect_ignore_glob = [] if HAS_VLLM else ["test_*.py"]


def pytest_report_header() -> str:
    if HAS_VLLM:
        return "vllm_plugin: with vLLM"
    return "vllm_plugin: not collected, vllm is not installed here (scripts/test_vllm.sh)"


@pytest.fixture(scope="session", autouse=True)
def unpoisoned_memory() -> Iterator[None]:
    """vLLM pads buffers that it never reads; NaN in them would reach its own checks."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(False)
    yield


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from vllm_checkpoints import WRITERS

    folder = tmp_path_factory.mktemp("checkpoints")
    for family, write in WRITERS.items():
        write(folder / family)
    return {path.name: path for path in folder.iterdir()}
