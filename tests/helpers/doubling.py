"""The smallest benchmark there is, to test what measures and reports benchmarks: doubling."""

from __future__ import annotations

from typing import Any

import torch

from prunevid_kernels.benchmarks.cost.ceilings import Ceilings, Cost
from prunevid_kernels.benchmarks.cost.harness import (
    Benchmark,
    IncorrectResultError,
    Settings,
    Variant,
)

CPU = torch.device("cpu")
QUICK = Settings(warmups=1, runs=5, seconds_per_variant=1.0)
CEILINGS = Ceilings(1e9, 1e9, "made up for a test")


def check_doubled(x: torch.Tensor, output: torch.Tensor) -> None:
    if not torch.equal(output, 2 * x):
        raise IncorrectResultError("not doubled")


BASELINE = Variant("add", lambda x: x + x, check_doubled, is_baseline=True)


def doubling(*variants: Variant, **overrides: Any) -> Benchmark:
    values: dict[str, Any] = {
        "name": "merge",
        "case": {"name": "case"},
        "make_inputs": lambda seed: torch.full((4,), float(seed + 1)),
        "input_bytes": 16,
        "variants": variants,
        "cost": Cost("merge", 32, 4),
    }
    return Benchmark(**{**values, **overrides})
