"""The plugin's clock: what it counts, and that it does not wait for a GPU."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from prunevid_kernels.adapters.vllm.merging import MergeClock

pytestmark = pytest.mark.one_version
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_nothing_is_counted_before_the_start() -> None:
    clock = MergeClock()
    with clock.video(CPU):
        time.sleep(0.002)
    assert clock.read() == (0, 0.0)


def test_videos_and_seconds_are_counted_from_the_start() -> None:
    clock = MergeClock()
    clock.start()
    for _ in range(3):
        with clock.video(CPU):
            time.sleep(0.002)
    videos, seconds = clock.read()
    assert videos == 3 and seconds >= 0.006
    assert clock.read() == (videos, seconds)
    clock.start()
    assert clock.read() == (0, 0.0)


def test_on_a_gpu_only_reading_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []

    class PretendedEvent:
        """Of a device on which each event comes 250 ms after the one before."""

        made = 0

        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            self.at_ms: Any = None

        def record(self) -> None:
            PretendedEvent.made += 1
            self.at_ms = 250.0 * PretendedEvent.made

        def synchronize(self) -> None:
            waits.append(self.at_ms)

        def elapsed_time(self, end: PretendedEvent) -> float:
            return float(end.at_ms - self.at_ms)

    monkeypatch.setattr(torch.cuda, "Event", PretendedEvent)
    clock = MergeClock()
    clock.start()
    for _ in range(2):
        with clock.video(GPU):
            pass
    assert waits == []
    assert clock.read() == (2, 0.5)
    assert waits == [1000.0]
    assert clock.read() == (2, 0.5)
