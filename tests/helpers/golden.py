"""The reference implementation's results in ``tests/data/golden`` (described in its README.md).

Where a run's result depends on how ties are broken, the data hold it a second time under
``<run>_indextie_*`` with ties going to the lower index. That is this library's rule, so those keys
are taken where they exist.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from paths import GOLDEN as FOLDER
from torch import Tensor

from prunevid_kernels import PruneVidConfig, TokenLayout


@functools.cache
def index() -> dict[str, Any]:
    """The table of contents: what each case is, and how stable each of its results."""
    contents: dict[str, Any] = json.loads((FOLDER / "index.json").read_text())
    return contents


@functools.cache
def arrays(file: str) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    with np.load(FOLDER / file) as archive:
        return {key: archive[key] for key in archive}


def tensor(values: np.ndarray) -> Tensor:
    """Integers as int64, float16 as float32: everything stored is exact in them."""
    return torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))


@dataclass(frozen=True)
class Run:
    """One set of parameters on one case."""

    case: str
    name: str
    config: PruneVidConfig
    scale: float
    tie_rule_matters: bool
    is_clip: bool

    def __str__(self) -> str:
        return f"{self.case}-{self.name}"

    @property
    def is_stable(self) -> bool:
        """Whether the result survives small changes of the distances."""
        return bool(self._record["stable_index" if self.tie_rule_matters else "stable_numeric"])

    @property
    def _record(self) -> dict[str, Any]:
        runs = stage1_record(self.case)["runs"]
        return next(run for run in runs if run["run"] == self.name)

    def features(self) -> Tensor:
        """[T, N, C] float32."""
        return features(self.case) * self.scale

    def array(self, key: str) -> Tensor:
        """A result of this run, e.g. ``map``: int64."""
        tied = "_indextie" if self.tie_rule_matters else ""
        return tensor(self._arrays[f"{self.name}{tied}_{key}"])

    def temporal(self, key: str) -> Tensor:
        """``labels_before``, ``labels_after`` or ``window_sizes``; the runs over tau share them."""
        tied = f"{self.name}_indextie_{key}"
        if tied in self._arrays:
            return tensor(self._arrays[tied])
        own = f"{self.name}_{key}"
        return tensor(self._arrays[own if own in self._arrays else key])

    def static_mask(self) -> Tensor:
        """[S, N] bool."""
        tokens_per_frame = stage1_record(self.case)["N"]
        bits = self._arrays[f"{self.name}_static_mask"]
        return torch.from_numpy(np.unpackbits(bits, axis=1)[:, :tokens_per_frame].astype(bool))

    def has(self, key: str) -> bool:
        """Whether the case holds this array for the run."""
        return f"{self.name}_{key}" in self._arrays

    @property
    def _arrays(self) -> dict[str, np.ndarray]:
        return arrays(stage1_record(self.case)["file"])


def stage1_record(case: str) -> dict[str, Any]:
    record: dict[str, Any] = next(r for r in index()["stage1"] if r["name"] == case)
    return record


def stage1_cases() -> list[str]:
    return [record["name"] for record in index()["stage1"]]


@functools.cache
def features(case: str) -> Tensor:
    """The input [T, N, C] of a case, float32."""
    data = arrays(stage1_record(case)["file"])
    if "x_f16" in data:
        return tensor(data["x_f16"])
    return tensor(data["x_q"]).float() * float(data["x_scale"])


def stage1_runs() -> list[Run]:
    """Every run of every case that was computed without noise."""
    runs = []
    for record in index()["stage1"]:
        data = arrays(record["file"])
        for run in record["runs"]:
            ratios = {}
            if run["run"].startswith("seg"):  # seg<100 gamma>_cl<100 beta>
                segment, cluster = run["run"].removeprefix("seg").split("_cl")
                ratios = {"segment_ratio": int(segment) / 100, "cluster_ratio": int(cluster) / 100}
            runs.append(
                Run(
                    case=record["name"],
                    name=run["run"],
                    config=PruneVidConfig(tau=run["tau"], **ratios),
                    scale=run["scale"],
                    tie_rule_matters=f"{run['run']}_indextie_map" in data,
                    is_clip=record["kind"] != "synthetic",
                )
            )
    return runs


def layout_of_sizes(
    window_sizes: Tensor, static_sizes: Tensor, dynamic_sizes: Tensor
) -> TokenLayout:
    """The layout that stored sizes describe; each merged token stands for itself alone."""
    num_merged = int(static_sizes.sum() + dynamic_sizes.sum())
    tokens = torch.arange(num_merged)
    return TokenLayout.from_sizes(
        window_sizes,
        static_sizes,
        torch.repeat_interleave(dynamic_sizes // window_sizes, window_sizes),
        source_to_merged=tokens[None, :],
        merged_anchor=tokens,
        merged_count=torch.ones_like(tokens),
    )


def same_cell(a: Tensor, b: Tensor) -> float:
    """The share of source tokens that are merged with exactly the same others in both maps."""
    a, b = a.flatten(), b.flatten()
    agrees = (a[:, None] == a[None, :]) == (b[:, None] == b[None, :])
    return agrees.all(dim=1).float().mean().item()
