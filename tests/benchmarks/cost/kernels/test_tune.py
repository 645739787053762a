"""Tuning: the table it starts from, what it chooses, what it writes, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from triton.runtime.errors import OutOfResources

from prunevid_kernels.benchmarks.cost.kernels import tune
from prunevid_kernels.benchmarks.cost.kernels.cases import REDUCED
from prunevid_kernels.kernels import _device


def test_every_kernel_of_the_table_can_be_tuned_and_its_default_is_a_possible_config() -> None:
    table = _device.config_table()
    assert set(table) == set(tune.GRIDS)
    for kernel, entry in table.items():
        assert {"default", "interpreter"} <= set(entry)
        names = set(entry["default"])
        assert names == set(tune.GRIDS[kernel])
        for config in tune.candidates(kernel):
            assert set(config) == names


@pytest.mark.parametrize("kernel", tune.GRIDS)
def test_every_config_that_ships_for_a_gpu_could_have_been_chosen(kernel: str) -> None:
    shipped = _device.config_table()[kernel]
    possible = list(tune.candidates(kernel))
    for architecture, config in shipped.items():
        assert architecture == "interpreter" or config in possible, architecture


def test_the_shipped_table_is_as_tuning_would_write_it(tmp_path: Path) -> None:
    table = json.loads(tune.CONFIGS.read_text())
    tune.write_table(table, tmp_path / "configs.json")
    assert (tmp_path / "configs.json").read_text() == tune.CONFIGS.read_text()
    assert not list(tmp_path.glob("*.part"))


def test_the_workloads_run() -> None:
    works = tune.workloads(REDUCED, torch.device("cpu"))
    assert set(works) == set(tune.GRIDS)
    for work in works.values():
        assert work() is not None


def test_ranks_by_time_and_leaves_out_what_does_not_launch() -> None:
    entry = {"default": {"WARP_TILE": 1}}

    def measure() -> float:
        config = entry["sm_90"]
        if config["WARP_TILE"] == 1024:
            raise OutOfResources(300_000, 232_448, "shared memory")
        return config["WARP_TILE"] / config["WARP_COLUMNS"]

    ranked = tune.fastest_first("segments", entry, "sm_90", measure)
    assert len(ranked) == 2 * 3
    assert ranked[0].config == {"MIN_BLOCK_N": 128, "WARP_COLUMNS": 64, "WARP_TILE": 256}
    assert [c.latency_ms for c in ranked] == sorted(c.latency_ms for c in ranked)
    assert entry == {"default": {"WARP_TILE": 1}}


def test_takes_the_fastest_without_a_fault() -> None:
    before = {"TILE": 7}
    entry = {"default": {"TILE": 1}, "sm_90": before}
    ranked = [tune.Candidate({"TILE": tile}, latency_ms=tile) for tile in (2, 3, 4)]
    best = tune.first_without_fault(ranked, entry, "sm_90", lambda: entry["sm_90"]["TILE"] < 3)
    assert best == ranked[1]
    assert tune.first_without_fault(ranked, entry, "sm_90", lambda: True) is None
    assert entry["sm_90"] is before


def test_refuses_an_unknown_kernel() -> None:
    with pytest.raises(ValueError, match="unknown kernel 'gramm'"):
        tune.tune(("gramm",))


def test_refuses_to_tune_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a GPU"):
        tune.tune()
