"""Stages of one ``generate`` on a stand-in GPU, whose events are a millisecond apart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prunevid_kernels.benchmarks.cost.latency.stages import StageClock

GPU = torch.device("cuda")


class FakeEvent:
    count = 0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        FakeEvent.count += 1
        self.at_ms = FakeEvent.count

    def elapsed_time(self, other: FakeEvent) -> float:
        return float(other.at_ms - self.at_ms)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.head = nn.Identity(), nn.Identity()

    def get_decoder(self) -> nn.Module:
        return self.decoder

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def generate(self, tokens: int) -> None:
        for _ in range(tokens):
            self.head(self.decoder(torch.zeros(1)))


@pytest.fixture
def waits(monkeypatch) -> list[int]:
    """The events recorded whenever the device is waited for."""
    found: list[int] = []
    FakeEvent.count = 0
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: found.append(FakeEvent.count))
    return found


CALL = SimpleNamespace(merge_seconds=1e-4, score_seconds=2e-4, gather_seconds=3e-4)


def test_a_prompt_is_split_at_the_decoder_and_the_head(waits) -> None:
    model = Model()
    clock = StageClock(model, GPU)
    with clock.hooked():
        clock.start()
        model.generate(1)
        times = clock.stop(CALL)
    assert times.stages == pytest.approx(
        {
            "vision": 1.0,
            "merge": 0.1,
            "prefill": 0.4,
            "scoring": 0.2,
            "gather": 0.3,
            "first_token": 1.0,
        }
    )
    assert times.first_token_ms == 3.0 and times.decode_ms == 0.0
    assert waits == [0, 4]  # before the first event and after the last, never between


def test_later_tokens_begin_with_the_second_call_of_the_decoder(waits) -> None:
    model = Model()
    clock = StageClock(model, GPU)
    with clock.hooked():
        clock.start()
        model.generate(5)
        times = clock.stop(None)
    assert times.first_token_ms == 3.0 and times.decode_ms == 8.0
    assert times.stages["prefill"] == 1.0 and times.stages["merge"] == 0.0


def test_nothing_is_noted_outside_a_run_and_no_hook_stays(waits) -> None:
    model = Model()
    clock = StageClock(model, GPU)
    with clock.hooked():
        model.generate(2)
        assert FakeEvent.count == 0
    model.generate(1)
    assert not model.decoder._forward_pre_hooks and not model.head._forward_pre_hooks
