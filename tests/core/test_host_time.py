"""What an eager call does on the host, counted: it has to be little, since a launch takes less.

Launches are left out, and the calls of Python functions counted: they do not depend on the machine.
Triton's own arithmetic for the host costs 150 times Python's, so it must not be called at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.runtime.interpreter import GridExecutor

import prunevid_kernels
from prunevid_kernels import PruneVidConfig, compact, merge_video, score_visual_tokens

PACKAGE = str(Path(prunevid_kernels.__file__).parent)

KEYS = [torch.zeros(1, 2, 40, 16) for _ in range(46)]
INDEX = torch.arange(0, 40, 3)
X = torch.zeros(32, 20, 16)
QUERY = torch.zeros(1, 4, 5, 16)

CALLS: dict[str, Callable[[], Any]] = {
    "budget merge": lambda: merge_video(X, PruneVidConfig(budget=40), impl="triton"),
    "scoring": lambda: score_visual_tokens(QUERY, KEYS[0], slice(3, 30), impl="triton"),
    "compaction": lambda: compact(KEYS[:23], INDEX, dim=2, impl="triton"),
    "compaction of twice as many": lambda: compact(KEYS, INDEX, dim=2, impl="triton"),
}


def count(call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """The calls of the package's own functions, comprehensions of theirs included."""
    monkeypatch.setattr(GridExecutor, "__call__", lambda *args, **kwargs: None)
    call()
    count = 0

    def profiled(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    sys.setprofile(profiled)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    ("name", "most"),
    [("budget merge", 140), ("scoring", 31), ("compaction", 34)],
)
def test_a_call_is_few_calls(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count(CALLS[name], monkeypatch) <= most


def test_a_tensor_more_is_no_call_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for one more launch of every 32."""
    once, twice = (
        count(CALLS[f"compaction{more}"], monkeypatch) for more in ("", " of twice as many")
    )
    assert twice - once <= 5


@pytest.mark.parametrize("name", CALLS)
def test_triton_does_no_arithmetic_for_the_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> int:
        raise AssertionError("called on the host")

    monkeypatch.setattr(GridExecutor, "__call__", lambda *args, **kwargs: None)
    monkeypatch.setattr(triton, "cdiv", refuse)
    monkeypatch.setattr(triton, "next_power_of_2", refuse)
    CALLS[name]()
