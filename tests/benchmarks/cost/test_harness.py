"""The benchmark harness: it refuses what is wrong, measures only the closure, and reports all."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from doubling import BASELINE, CEILINGS, CPU, QUICK, check_doubled, doubling

from prunevid_kernels.benchmarks.cost import harness, timing
from prunevid_kernels.benchmarks.cost.harness import Settings, Variant, VariantResult, measure
from prunevid_kernels.benchmarks.cost.timing import Quantiles
from prunevid_kernels.benchmarks.support.environment import describe, stamp

# ------------------------------------------------------------------------------------------------
# The harness
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        pytest.param((replace(BASELINE, is_baseline=False),), "exactly one baseline", id="none"),
        pytest.param((BASELINE, replace(BASELINE, name="b")), "exactly one baseline", id="two"),
        pytest.param((BASELINE, BASELINE), "different names", id="same-name"),
    ],
)
def test_a_benchmark_has_one_baseline_and_named_variants(variants, message):
    with pytest.raises(ValueError, match=message):
        doubling(*variants)


def test_rows_have_times_floors_and_speedups_against_the_baseline_measured_first():
    slow = Variant("slow", lambda x: (torch.ones(10**6).sum(), x + x)[1], check_doubled)
    rows = list(measure(doubling(slow, BASELINE), CPU, QUICK, CEILINGS))
    assert [row.variant for row in rows] == ["add", "slow"]
    for row in rows:
        assert row.status == "ok" and row.runs == 5 and row.input_sets == 2
        assert row.latency_ms.p10 <= row.latency_ms.median <= row.latency_ms.p90
        assert row.floor_ms == pytest.approx(1000 * 32 / 1e9)
        assert row.over_floor == pytest.approx(row.best_ms / row.floor_ms)
        assert row.gigabytes_per_s == pytest.approx(32 / row.best_ms / 1e6)
        assert row.launches["torch"] == 1
    assert rows[0].speedup == 1.0
    assert rows[1].speedup == pytest.approx(rows[0].best_ms / rows[1].best_ms)
    assert rows[1].best_ms > rows[0].best_ms
    json.dumps([row.to_json() for row in rows])


def test_a_wrong_variant_is_not_timed():
    calls = []
    wrong = Variant("wrong", lambda x: (calls.append(1), x + 3)[1], check_doubled)
    row = list(measure(doubling(BASELINE, wrong), CPU, QUICK, CEILINGS))[1]
    assert (row.status, row.reason) == ("incorrect", "not doubled")
    assert row.latency_ms is row.replay_ms is row.best_ms is row.over_floor is row.cold_ms is None
    assert len(calls) == 1


def test_a_variant_that_cannot_run_says_why_and_the_others_run():
    def fail(x):
        raise RuntimeError("no compiler\nanywhere")

    rows = list(measure(doubling(BASELINE, Variant("c", fail, check_doubled)), CPU, QUICK, None))
    assert [row.status for row in rows] == ["ok", "failed"]
    assert rows[1].reason == "RuntimeError: no compiler anywhere"
    assert rows[0].floor_ms is None


def test_a_variant_that_needs_too_much_memory_is_not_run():
    def too_large(x):
        raise MemoryError("needs 180.0 GB, 139.0 GB are free")

    large = Variant("large", too_large, check_doubled)
    row = list(measure(doubling(BASELINE, large), CPU, QUICK, None))[1]
    assert (row.status, row.reason) == ("not run", "needs 180.0 GB, 139.0 GB are free")


def test_without_timing_the_check_still_runs_and_no_time_appears():
    wrong = Variant("wrong", lambda x: x, check_doubled)
    settings = replace(QUICK, is_timed=False)
    rows = list(measure(doubling(BASELINE, wrong), CPU, settings, None))
    assert [row.status for row in rows] == ["not timed", "incorrect"]
    assert all(row.best_ms is row.cold_ms is row.speedup is None for row in rows)


def test_a_slow_variant_gets_fewer_runs_but_not_fewer_than_five():
    settings = Settings(warmups=10, runs=50, seconds_per_variant=0.0)
    assert next(measure(doubling(BASELINE), CPU, settings, None)).runs == 5


class FakeEvent:
    """Events a millisecond apart."""

    count = 0

    def __init__(self, enable_timing=False):
        assert enable_timing

    def record(self):
        FakeEvent.count += 1
        self.at_ms = FakeEvent.count

    def elapsed_time(self, other):
        return float(other.at_ms - self.at_ms)


class FakeGraph:
    def replay(self):
        pass


@pytest.fixture
def fake_gpu(monkeypatch):
    """torch.cuda as far as the harness uses it; tensors stay where they are."""
    nothing = contextlib.nullcontext
    properties = SimpleNamespace(L2_cache_size=20)
    fakes = {
        "Event": FakeEvent,
        "CUDAGraph": FakeGraph,
        "Stream": lambda: SimpleNamespace(wait_stream=lambda other: None),
        "current_stream": lambda: SimpleNamespace(wait_stream=lambda other: None),
        "stream": lambda stream: nothing(),
        "graph": lambda graph: nothing(),
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda device: (1000, 2000),
        "get_device_properties": lambda device: properties,
        "reset_peak_memory_stats": lambda device: None,
        "memory_allocated": lambda device: 100,
        "max_memory_allocated": lambda device: 164,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    kernel = SimpleNamespace(
        name="_kernel",
        device_type=SimpleNamespace(name="CUDA"),
        is_user_annotation=False,
        time_range=SimpleNamespace(elapsed_us=lambda: 2.5),
    )
    region = SimpleNamespace(**{**vars(kernel), "is_user_annotation": True})
    on_host = SimpleNamespace(**{**vars(kernel), "device_type": SimpleNamespace(name="CPU")})
    profile = SimpleNamespace(events=lambda: [kernel, kernel, region, on_host] * 5)
    monkeypatch.setattr(torch.profiler, "profile", lambda activities: nothing(profile))
    monkeypatch.setattr(timing, "_keep_busy", lambda device: None)


@pytest.mark.usefixtures("fake_gpu")
def test_on_a_gpu_calls_replays_memory_and_kernels_are_measured():
    waits = replace(BASELINE, name="waits")
    replayed = Variant("replayed", lambda x: x + x, check_doubled, is_capturable=True)
    large = replace(replayed, name="large", working_bytes=1001)
    variants = (waits, replayed, large)
    rows = list(measure(doubling(*variants), torch.device("cuda"), QUICK, CEILINGS))
    assert [row.status for row in rows] == ["ok", "ok", "not run"]
    for row in rows[:2]:
        assert row.input_sets == 5  # four times the cache, by 16 bytes a set
        assert row.latency_ms == Quantiles(1.0, 1.0, 1.0)
        assert row.peak_memory_bytes == 64
        assert (row.kernel_launches, row.kernels_us) == (2, 5.0)
        assert row.kernels == [timing.KernelTime("_kernel", 2.0, 5.0)]
    assert rows[0].replay_ms is None and rows[0].replay_reason == "it waits for the device"
    assert rows[1].replay_ms.median == pytest.approx(1 / 5)  # one graph, five calls
    assert rows[1].speedup == pytest.approx(5)
    assert "needs" in rows[2].reason


@pytest.mark.usefixtures("fake_gpu")
def test_a_capture_that_fails_costs_the_replay_alone(monkeypatch):
    def refuse(works):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(harness, "capture", refuse)
    captured = replace(BASELINE, is_capturable=True)
    (row,) = measure(doubling(captured), torch.device("cuda"), QUICK, CEILINGS)
    assert row.status == "ok" and row.latency_ms is not None and row.replay_ms is None
    assert row.replay_reason.startswith("capture failed: RuntimeError: operation not permitted")


@pytest.mark.parametrize(
    ("outputs", "status", "reason"),
    [
        pytest.param([2.0, 4.0], "ok", None, id="right"),
        pytest.param([2.0, 0.0], "incorrect replay", "not doubled", id="wrong"),
    ],
)
def test_a_replay_is_checked_before_it_is_timed(monkeypatch, outputs, status, reason):
    made = [torch.full((4,), value) for value in outputs]
    monkeypatch.setattr(harness, "capture", lambda works: (FakeGraph(), made))
    monkeypatch.setattr(harness, "time_replays", lambda *a, **k: [1.0, 2.0, 3.0])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    row = VariantResult("merge", {}, "v", False, "cuda", status="ok")
    inputs = [torch.full((4,), value) for value in (1.0, 2.0)]
    harness._measure_replays(row, BASELINE, inputs, CPU, 1, 3)
    assert (row.status, row.reason) == (status, reason)
    assert row.replay_ms == (Quantiles.of([1.0, 2.0, 3.0]) if status == "ok" else None)


def test_quantiles():
    values = Quantiles.of([float(value) for value in range(101)])
    assert (values.median, values.p10, values.p90) == (50.0, 10.0, 90.0)


def test_stamp_names_date_device_and_commit():
    environment = describe(CPU, commit="0123456789abcdef")
    assert environment["packages"]["torch"] == torch.__version__
    date = environment["date"][:10].replace("-", "")
    assert stamp(environment).startswith(date)
    assert stamp(environment).endswith("-cpu-0123456789")
