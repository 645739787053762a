"""PruneVidConfig: the published defaults, the two presets, every refusal."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.config import scaled_count

RATIOS = ("tau", "segment_ratio", "cluster_ratio", "keep_ratio")
COUNTS = {"layer": 0, "num_neighbors": 1, "min_cluster_tokens": 1}


def test_defaults_are_the_published_ones() -> None:
    config = PruneVidConfig()
    assert (config.tau, config.segment_ratio, config.cluster_ratio) == (0.8, 0.25, 0.5)
    assert (config.keep_ratio, config.layer) == (0.4, 10)
    assert (config.num_neighbors, config.min_cluster_tokens) == (7, 14)
    assert config == PruneVidConfig.reference()


def test_presets() -> None:
    assert (PruneVidConfig.reference().score, PruneVidConfig.reference().selection) == (
        "nope",
        "grouped",
    )
    assert (PruneVidConfig.paper().score, PruneVidConfig.paper().selection) == ("rope", "global")
    assert PruneVidConfig.paper(score="nope", layer=1) == PruneVidConfig(
        score="nope", selection="global", layer=1
    )


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        PruneVidConfig().tau = 0.5  # type: ignore[misc]


@pytest.mark.parametrize("name", RATIOS)
@pytest.mark.parametrize("value", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_ratio_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be in \(0, 1\], got {value}"):
        PruneVidConfig(**{name: value})


@pytest.mark.parametrize("name", RATIOS)
@pytest.mark.parametrize("value", ["0.5", None, True], ids=repr)
def test_ratio_of_a_wrong_type(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name} must be a number in \(0, 1\], got {value!r}"):
        PruneVidConfig(**{name: value})


@pytest.mark.parametrize("name", RATIOS)
@pytest.mark.parametrize("value", [1, 1.0, 1e-9], ids=repr)
def test_ratio_at_its_ends(name: str, value: float) -> None:
    assert getattr(PruneVidConfig(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "minimum"), COUNTS.items())
def test_counts(name: str, minimum: int) -> None:
    assert getattr(PruneVidConfig(**{name: minimum}), name) == minimum
    expected = f"{name} must be an integer >= {minimum}, got "
    with pytest.raises(ValueError, match=f"{expected}{minimum - 1}"):
        PruneVidConfig(**{name: minimum - 1})
    for value in (2.0, "3", True, None):
        with pytest.raises(TypeError, match=f"{expected}{value!r}"):
            PruneVidConfig(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("score", "softmax"), ("selection", None)])
def test_choices(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of '.*', '.*', got {value!r}"):
        PruneVidConfig(**{name: value})


@pytest.mark.parametrize("name", ["merge", "select"])
def test_switches(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be True or False, got 1"):
        PruneVidConfig(**{name: 1})


def test_from_mapping() -> None:
    values = {"tau": 0.7, "layer": 3, "score": "rope"}
    config = PruneVidConfig.from_mapping(values)
    assert config == PruneVidConfig(tau=0.7, layer=3, score="rope")
    assert PruneVidConfig.from_mapping(asdict(config)) == config
    with pytest.raises(ValueError, match="unknown config key 'alpha'; known keys: tau, .*select"):
        PruneVidConfig.from_mapping({"alpha": 0.4})


def test_counts_are_scaled_in_double_precision_and_cut() -> None:
    assert scaled_count(100, 0.29) == 28  # 28.999999999999996
    assert scaled_count(5, 0.4) == 2
    assert scaled_count(3, 0.25) == 0
    assert scaled_count(7, 1.0) == 7


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        pytest.param("cluster_ratio", np.float32(0.29), float(np.float32(0.29)), id="float32"),
        pytest.param("tau", np.float64(0.5), 0.5, id="float64"),
        pytest.param("keep_ratio", np.float16(0.5), 0.5, id="float16"),
        pytest.param("num_neighbors", np.int64(5), 5, id="int64"),
        pytest.param("layer", np.uint8(3), 3, id="uint8"),
        pytest.param("budget", np.int32(40), 40, id="budget-count"),
        pytest.param("budget", np.float32(0.5), 0.5, id="budget-share"),
        pytest.param("merge", np.bool_(False), False, id="bool"),
        pytest.param("score", np.str_("rope"), "rope", id="str"),
        pytest.param("segment_ratio", 1, 1.0, id="int-for-a-ratio"),
    ],
)
def test_values_become_python_s_own(name: str, value: Any, expected: Any) -> None:
    found = getattr(PruneVidConfig(**{name: value}), name)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize("name", [*RATIOS, "budget"])
def test_fractions_are_refused_by_name(name: str) -> None:
    """Their product is cut elsewhere than the published method's."""
    with pytest.raises(TypeError, match=rf"{name} must be a number in .*got Fraction\(1, 3\)"):
        PruneVidConfig(**{name: Fraction(1, 3)})


@pytest.mark.parametrize("name", [*RATIOS, *COUNTS, "budget"])
@pytest.mark.parametrize("value", [10**400, -(10**400), 10**5000], ids=["large", "small", "huge"])
def test_integers_beyond_all_floats_are_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .*got an integer of [0-9]+ bits"):
        PruneVidConfig(**{name: value})


@pytest.mark.parametrize("name", [*RATIOS, "budget"])
def test_nan_is_refused_by_name(name: str) -> None:
    for nan in (float("nan"), np.float32("nan")):
        with pytest.raises(ValueError, match=rf"{name} must be in \(0, 1\], got .*nan"):
            PruneVidConfig(**{name: nan})
