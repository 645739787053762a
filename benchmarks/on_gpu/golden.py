"""The golden cases as checks of the kernels: results of the reference implementation, by file.

They lie in ``tests/data/golden`` of a checkout, whose README describes them. A stable result is
compared with what is stored; whatever differs from it, and every result that is not stable, is held
against float64 (:mod:`.near_ties`), and so is every merged token.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunevid_kernels import (
    PruneVidConfig,
    TokenLayout,
    dpc_knn,
    merge_video,
    score_visual_tokens,
    select_tokens,
)

from ..cost.kernels.cases import DTYPES
from ..cost.kernels.near_ties import contradiction, examine, examine_tokens
from ..support.environment import ROOT
from .checks import Check, Outcome

FOLDER = ROOT / "tests" / "data" / "golden"


def require_data(folder: Path = FOLDER) -> None:
    """
    Raises:
        FileNotFoundError: the data are not there, as in an installed wheel.
    """
    if not (folder / "index.json").is_file():
        raise FileNotFoundError(
            f"the golden cases are not at {folder}: they come with a checkout of the repository, "
            "installed with pip install -e ."
        )


def golden_checks(device: torch.device, dtype_name: str, *, is_tiny: bool) -> Iterator[Check]:
    """Every golden case in one dtype; ``is_tiny``: a few small ones."""
    require_data()
    index = json.loads((FOLDER / "index.json").read_text())
    dtype = DTYPES[dtype_name]
    units = index["dpc_units"][:2] if is_tiny else index["dpc_units"]
    for unit in units:
        name = f"dpc_knn {unit['unit']} {unit['what']}"
        yield Check("golden", name, dtype_name, functools.partial(_unit, unit, device, dtype))
    for case in index["stage2"]:
        if is_tiny and case["S"] > 100:
            continue
        for mode in ("code", "paper"):
            check = functools.partial(_scores, case["file"], mode, device, dtype)
            yield Check("golden", f"scores {case['file']} {mode}", dtype_name, check)
    for case in index["stage1"]:
        if is_tiny and case["name"] not in ("frames8", "patches1"):
            continue
        for run in case["runs"][:1] if is_tiny else case["runs"]:
            name = f"merge {case['name']} {run['run']}"
            check = functools.partial(_merge, _Run.of(case, run), device, dtype)
            yield Check("golden", name, dtype_name, check)


@functools.cache
def _arrays(file: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / file) as archive:
        return {key: archive[key] for key in archive}


def _integers(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.int64)).to(device)


def _floats(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device)


@dataclass(frozen=True)
class _Run:
    """A stored merge. ``prefix`` leads to its arrays, those of the tie rule where there are any."""

    file: str
    prefix: str
    config: PruneVidConfig
    scale: float
    is_stable: bool

    @classmethod
    def of(cls, case: dict[str, Any], run: dict[str, Any]) -> _Run:
        data, name = _arrays(case["file"]), run["run"]
        ratios: dict[str, Any] = {}
        if name.startswith("seg"):  # seg<100 gamma>_cl<100 beta>
            segment, cluster = name.removeprefix("seg").split("_cl")
            ratios = {"segment_ratio": int(segment) / 100, "cluster_ratio": int(cluster) / 100}
        has_tie_rule = f"{name}_indextie_map" in data
        return cls(
            file=case["file"],
            prefix=f"{name}_indextie_" if has_tie_rule else f"{name}_",
            config=PruneVidConfig(tau=run["tau"], **ratios),
            scale=run["scale"],
            is_stable=run["stable_index" if has_tie_rule else "stable_numeric"],
        )

    def features(self, device: torch.device) -> Tensor:
        """[T, N, C] float32."""
        data = _arrays(self.file)
        if "x_f16" in data:
            return _floats(data["x_f16"], device) * self.scale
        return _floats(data["x_q"], device) * (float(data["x_scale"]) * self.scale)


def _merge(run: _Run, device: torch.device, dtype: torch.dtype) -> Outcome:
    exact = run.features(device)
    x = exact.to(dtype)
    if not bool(x.isfinite().all()):
        return Outcome.skipped("the scaled input does not fit the dtype")
    merged = merge_video(x, run.config, impl="triton")
    if run.is_stable and torch.equal(x.float(), exact):
        stored = _integers(_arrays(run.file)[f"{run.prefix}map"], device)
        if torch.equal(stored, merged.layout.source_to_merged):
            verdict = examine_tokens(x, merged)
            verdict.decisions = stored.numel()
            return Outcome.of_verdict(verdict)
    return Outcome.of_verdict(examine(x, run.config, merged))


def _unit(unit: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Outcome:
    data, name = _arrays("dpc_units.npz"), unit["unit"]
    exact = _floats(data[f"{name}_x_f16"], device)
    points = exact.to(dtype)
    clusters = dpc_knn(points[None], unit["K"], num_neighbors=unit["k"], impl="triton")
    labels = clusters.labels[0]
    stored = _integers(data[f"{name}_indextie_labels"], device)
    centers = _integers(data[f"{name}_indextie_centers"], device)
    is_same = torch.equal(labels, stored) and torch.equal(clusters.centers[0], centers)
    if is_same and unit["stable_index"]:
        return Outcome(decisions=len(labels))
    problem = contradiction(points.double(), labels, unit["K"], unit["k"], 0.0)
    if problem is not None:
        return Outcome.failed(problem)
    return Outcome(decisions=len(labels), near_ties=int((labels != stored).sum()))


def _scores(file: str, mode: str, device: torch.device, dtype: torch.dtype) -> Outcome:
    data = _arrays(file)
    first, last = data["span"].tolist()
    key = _floats(data["k_f16"], device)
    query = _floats(data["q_text_f16"], device)
    if mode == "paper":
        place = torch.arange(key.shape[1], device=device)
        key, query = _rotated(key, place), _rotated(query, place[last + 1 :])
    key, query = key[None].to(dtype), query[None].to(dtype)
    offset = last + 1 if mode == "paper" else None
    visual = slice(first, last + 1)
    scores = score_visual_tokens(query, key, visual, causal_offset=offset, impl="triton")
    stored = _floats(data[f"{mode}_score"], device)
    if dtype == torch.float32 or (dtype == torch.float16 and mode == "code"):
        error = ((scores[0] - stored).abs() / stored).max().item()
        if not error <= 1e-3:
            return Outcome.failed(f"a score is off by {error:.3g} of itself")
    # Rounded queries and keys: the truth is that of what the kernel was given.
    truth = score_visual_tokens(
        query.float(), key.float(), visual, causal_offset=offset, impl="reference"
    )
    error = (scores - truth).abs().max().item()
    if not error <= 1e-5:
        return Outcome.failed(f"a score is off by {error:.3g}")
    if dtype == torch.float32:
        kept = select_tokens(scores[0], _layout(data), PruneVidConfig())
        expected = _integers(data[f"{mode}_a040_topk"], device).sort().values
        if not torch.equal(kept, expected):
            return Outcome.failed("not the stored tokens are kept")
    return Outcome(decisions=len(stored), error=error, allowed_error=1e-5)


def _layout(data: dict[str, np.ndarray]) -> TokenLayout:
    """The layout that stored sizes describe; each merged token stands for itself alone."""
    cpu = torch.device("cpu")
    windows, static, dynamic = (
        _integers(data[name], cpu) for name in ("window_sizes", "static_sizes", "dynamic_sizes")
    )
    tokens = torch.arange(int(static.sum() + dynamic.sum()))
    return TokenLayout.from_sizes(
        windows,
        static,
        torch.repeat_interleave(dynamic // windows, windows),
        source_to_merged=tokens[None, :],
        merged_anchor=tokens,
        merged_count=torch.ones_like(tokens),
    )


def _rotated(x: Tensor, place: Tensor) -> Tensor:
    """Rotary embedding of x [H, S, D] at places [S]: half-split, base 10000."""
    half = x.shape[-1] // 2
    frequency = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = place[:, None] * frequency
    cosine, sine = angle.cos().float(), angle.sin().float()
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
