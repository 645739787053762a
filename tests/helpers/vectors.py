"""Reference vectors of other papers' methods (``tests/data/methods/README.md``), case by case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from paths import ROOT
from torch import Tensor

FOLDER = ROOT / "tests" / "data" / "methods"


class Case(dict[str, Any]):
    """The arrays of one case, by name; ``name`` is the case's."""

    def __init__(self, name: str, arrays: Mapping[str, Any]) -> None:
        super().__init__(arrays)
        self.name = name


def cases(method: str) -> list[Any]:
    """The cases of a method, as parameters of a test."""
    found: dict[str, dict[str, Any]] = {}
    with np.load(FOLDER / f"{method}.npz", allow_pickle=False) as file:
        for key in file.files:
            case, _, name = key.partition("/")
            found.setdefault(case, {})[name] = file[key]
    return [pytest.param(Case(name, arrays), id=name) for name, arrays in found.items()]


def features(case: Case) -> Tensor:
    """[T, N, C] float32."""
    return torch.from_numpy(case["tokens_i16"].astype(np.float32) * 2.0**-9)
