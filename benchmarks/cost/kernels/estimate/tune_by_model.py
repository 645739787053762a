"""Block sizes chosen by the model of kernel times, for a GPU that is not here.

Every candidate of a kernel's grid is compiled for the target and modelled at the shape that
``tune`` measures; those that spill or do not fit are left out. What the model prefers is a start
and no measurement: a candidate has to be 5 % faster than the shipped entry to replace it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prunevid_kernels.kernels import _device

from ..cases import MODELS, Case
from ..tune import CONFIGS, GRIDS, LONG, Config, Table, candidates, write_table
from . import GPUS, estimate_configs

# Kernel of the config table -> the work that launches it, words in the names of its kernels.
LAUNCHED_BY: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "frame_mean": ("merge", ("frame_mean:",)),
    "gram": ("merge", (":_gram_kernel",)),
    "static_split": ("merge", ("static_split:",)),
    "group_gram": ("merge", (":_group_gram_kernel",)),
    "cluster_rows": ("merge", ("dpc_knn:",)),
    "short_segments": ("merge", (":_short_segments_kernel",)),
    "segments": ("merge", (":_segments_kernel",)),
    "group_clusters": ("merge", ("group_clusters:",)),
    "group_mean": ("merge", ("group_mean:",)),
    "token_score": ("score", ("token_score:",)),
    "compact": ("compact", ("compact:",)),
}

# Below this a difference between two candidates is the model's error.
LEAST_GAIN = 0.05


@dataclass(frozen=True)
class Modelled:
    """A config and the time of its kernel's launches; ``fault``: why it cannot be taken."""

    config: Config
    time_s: float
    fault: str | None


def modelled(kernel: str, gpu: str, configs: list[Config]) -> list[Modelled]:
    """Model ``kernel`` with each of ``configs``, in their order.

    Raises:
        RuntimeError: no launch of the kernel was found, or the model could not run.
    """
    work, words = LAUNCHED_BY[kernel]
    model = next(iter(MODELS.values()))
    case = Case(model, LONG if kernel == "segments" else model.frames, "bf16")
    runs = estimate_configs(case, GPUS[gpu], work, words, [{kernel: config} for config in configs])
    found = []
    for config, launches in zip(configs, runs, strict=True):
        if not launches:
            raise RuntimeError(f"{work} launches nothing named {' or '.join(words)}")
        faults = [f"{one.kernel} spills" for one in launches if one.spill_bytes]
        faults += [f"{one.kernel} does not fit" for one in launches if not one.at_once]
        time_s = sum(one.time_s for one in launches)
        found.append(Modelled(config, time_s, "; ".join(faults) or None))
    return found


def choose(shipped: Modelled, others: list[Modelled]) -> Modelled:
    """The fastest without a fault, if it is faster than ``shipped`` by more than the model's
    error."""
    possible = [one for one in others if one.fault is None]
    best = min(possible, key=lambda one: one.time_s, default=shipped)
    if shipped.fault is None and best.time_s > (1 - LEAST_GAIN) * shipped.time_s:
        return shipped
    return best


def tune_by_model(
    gpu: str,
    kernels: tuple[str, ...] = tuple(GRIDS),
    path: Path = CONFIGS,
    *,
    is_dry: bool = False,
) -> Table:
    """Choose block sizes of ``kernels`` for ``gpu``; ``path`` is rewritten after each kernel.

    Args:
        gpu: a name of ``estimate.GPUS``.
        kernels: names of the config table.
        path: the table's file.
        is_dry: write nothing.

    Raises:
        ValueError: an unknown kernel or GPU.
        RuntimeError: as :func:`modelled`.
    """
    unknown = sorted(set(kernels) - set(GRIDS))
    if unknown:
        raise ValueError(f"unknown kernel {unknown[0]!r}; known: {', '.join(GRIDS)}")
    if gpu not in GPUS:
        raise ValueError(f"unknown GPU {gpu!r}; known: {', '.join(GPUS)}")
    architecture = GPUS[gpu].target
    table = _device.config_table()
    for kernel in kernels:
        entry = table[kernel]
        before = entry.get(architecture, entry["default"])
        configs = [config for config in candidates(kernel) if config != before]
        shipped, *others = modelled(kernel, gpu, [before, *configs])
        best = choose(shipped, others)
        was = f"{kernel} on {architecture}, modelled: {1e6 * shipped.time_s:.1f} us"
        if shipped.fault:
            was += f" ({shipped.fault})"
        if best is shipped:
            print(f"{was}, no candidate is faster by {LEAST_GAIN:.0%}", file=sys.stderr)
            continue
        print(f"{was} -> {1e6 * best.time_s:.1f} us {best.config}", file=sys.stderr)
        entry[architecture] = best.config
        if not is_dry:
            write_table(table, path)
    return table
