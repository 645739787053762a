"""Models are built once and shared: pruning must leave them as they were, each test proves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import tiny_models
import torch


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@cache
def _llava(kind: str, attention: str, dtype: torch.dtype) -> Any:
    return tiny_models.llava(kind, attention, dtype)


@cache
def _causal_lm(kind: str, attention: str) -> Any:
    return tiny_models.causal_lm(kind, attention)


def _hooks(model: torch.nn.Module) -> list[Any]:
    """The hooks that are ours; transformers leaves some of its own, to record hidden states."""
    return [
        hook
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if hook.__module__.startswith("prunevid_kernels")
    ]


@pytest.fixture
def build() -> Iterator[Callable[..., Any]]:
    """``build(kind="qwen2", attention="sdpa", dtype=torch.float32)``: a tiny LLaVA-OneVision."""
    used = []

    def get(
        kind: str = "qwen2", attention: str = "sdpa", dtype: torch.dtype = torch.float32
    ) -> Any:
        used.append(_llava(kind, attention, dtype))
        return used[-1]

    yield get
    assert not any(_hooks(model) for model in used), "the test left hooks on a model"


@pytest.fixture
def build_lm() -> Iterator[Callable[..., Any]]:
    """``build_lm(kind="llama", attention="sdpa")``: a tiny text decoder with head."""
    used = []

    def get(kind: str = "llama", attention: str = "sdpa") -> Any:
        used.append(_causal_lm(kind, attention))
        return used[-1]

    yield get
    assert not any(_hooks(model) for model in used), "the test left hooks on a model"


@pytest.fixture
def model(build: Callable[..., Any]) -> Any:
    return build()
