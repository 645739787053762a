"""Block sizes by the model: what is chosen, what is left out, what is written."""

import json
from pathlib import Path

import pytest

from prunevid_kernels.benchmarks.cost.kernels import tune
from prunevid_kernels.benchmarks.cost.kernels.estimate import tune_by_model
from prunevid_kernels.benchmarks.cost.kernels.estimate.tune_by_model import Modelled, choose
from prunevid_kernels.kernels import _device


def test_every_kernel_of_the_table_is_known() -> None:
    assert set(tune_by_model.LAUNCHED_BY) == set(tune.GRIDS) == set(_device.config_table())


def test_the_fastest_that_fits_is_chosen() -> None:
    shipped = Modelled({"BLOCK": 1}, 10.0, None)
    spills = Modelled({"BLOCK": 2}, 1.0, "k spills")
    good, slow = Modelled({"BLOCK": 3}, 5.0, None), Modelled({"BLOCK": 4}, 20.0, None)
    assert choose(shipped, [spills, slow, good]) is good
    assert choose(shipped, [spills, slow]) is shipped


def test_a_small_gain_is_the_models_error_unless_what_is_shipped_has_a_fault() -> None:
    close = Modelled({"BLOCK": 2}, 9.6, None)
    assert choose(Modelled({"BLOCK": 1}, 10.0, None), [close]).config == {"BLOCK": 1}
    assert choose(Modelled({"BLOCK": 1}, 10.0, "k spills"), [close]) is close


@pytest.mark.parametrize("is_dry", [True, False])
def test_what_is_chosen_is_written_for_the_gpus_architecture(
    is_dry: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = json.loads(tune.CONFIGS.read_text())
    monkeypatch.setattr(_device, "config_table", lambda: table)

    def modelled(kernel: str, gpu: str, configs: list[dict[str, int]]) -> list[Modelled]:
        times = [1.0 if config["BLOCK_K"] == 64 else 2.0 for config in configs]
        return [Modelled(c, t, None) for c, t in zip(configs, times, strict=True)]

    monkeypatch.setattr(tune_by_model, "modelled", modelled)
    path = tmp_path / "configs.json"
    tune_by_model.tune_by_model("a100", ("compact",), path, is_dry=is_dry)
    assert table["compact"]["sm_80"]["BLOCK_K"] == 64
    assert path.exists() != is_dry
    if not is_dry:
        assert json.loads(path.read_text())["compact"]["sm_80"]["BLOCK_K"] == 64


@pytest.mark.parametrize(
    ("gpu", "kernel", "message"),
    [
        pytest.param("h100", "gramm", "unknown kernel 'gramm'", id="kernel"),
        pytest.param("v100", "gram", "unknown GPU 'v100'", id="gpu"),
    ],
)
def test_refuses_what_it_does_not_know(gpu: str, kernel: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tune_by_model.tune_by_model(gpu, (kernel,))
