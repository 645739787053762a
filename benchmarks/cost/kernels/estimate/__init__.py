"""The modelled time of every kernel launch, from compiled code, without a GPU.

    prunevid bench estimate --gpu h100 --model NAME

How it comes about, one file a step:

- ``__main__``, ``trace``, ``instrument``: a process under Triton's interpreter calls the public
  functions at a model's shape, and counts how often each statement of each kernel runs, and what it
  moves, for a sample of the programs of each launch.
- ``compiled``, ``sass``, ``blocks``: the same launches compiled for the target; the machine code
  as instructions, blocks and loops.
- ``counts``: the counts of statements become counts of blocks.
- ``lanes``: bank conflicts in shared memory, from the addresses of a warp's lanes.
- ``timing``: what a block occupies and what a warp waits for in it.
- ``model``: programs on multiprocessors, bytes from L2 and device memory; the launch's time.
- ``gpus``: the constants. ``report``: the tables. ``tune_by_model``: block sizes chosen by it.

It is a model: nothing here was measured, and its use is to compare two forms of a kernel and to say
where the time goes. ``on_gpu`` prints measured times beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import triton

from ....compile_check import TARGETS
from ...ceilings import Ceilings
from ..cases import Case
from ..costs import GroupTokens, compact_cost, merge_cost, score_cost
from .gpus import GPUS, Gpu
from .model import LEFT_OUT, LaunchEstimate

__all__ = [
    "GPUS",
    "LEFT_OUT",
    "WORKS",
    "LaunchEstimate",
    "WorkEstimate",
    "estimate",
    "estimate_configs",
    "launch_estimates",
]

WORKS = ("merge", "merge, budget", "score", "compact")

SAMPLE = 48  # programs of a launch that are traced at most


@dataclass(frozen=True)
class WorkEstimate:
    """The launches of one piece of work, in order.

    Attributes:
        floor_s: what the work needs at least: input and output once through device memory, or its
            products, by :mod:`ceilings`.
    """

    work: str
    case: str
    gpu: str
    launches: list[LaunchEstimate]
    floor_s: float

    @property
    def time_s(self) -> float:
        return sum(launch.time_s for launch in self.launches)


def estimate(
    case: Case,
    gpu: Gpu,
    works: Sequence[str] = WORKS,
    *,
    kernels: Sequence[str] | None = None,
    sample: int = SAMPLE,
) -> list[WorkEstimate]:
    """Model ``works`` of a case on ``gpu``.

    Args:
        case: a model's shape.
        gpu: one of :data:`GPUS`.
        works: names of :data:`WORKS`.
        kernels: only launches of kernels whose name has one of these words in it are modelled; the
            others are launched and left out.
        sample: programs of a launch that are traced at most.

    Raises:
        RuntimeError: the kernels are interpreted in this process, or tracing failed.
    """
    traced = traces(case, gpu, works, [{}], kernels, sample)
    return [
        WorkEstimate(
            name,
            case.name,
            gpu.name,
            launch_estimates(runs[0], gpu, kernels),
            _floor_s(case, name, gpu),
        )
        for name, runs in traced.items()
    ]


def estimate_configs(
    case: Case,
    gpu: Gpu,
    work: str,
    kernels: Sequence[str],
    configs: Sequence[Mapping[str, Mapping[str, int]]],
    *,
    sample: int = 12,
) -> list[list[LaunchEstimate]]:
    """The launches of ``kernels`` with each of ``configs``.

    Args:
        case: a model's shape.
        gpu: one of :data:`GPUS`.
        work: a name of :data:`WORKS`.
        kernels: words in the names of the kernels that are modelled.
        configs: each kernel of the config table -> block sizes instead of the shipped ones.
        sample: programs of a launch that are traced at most.

    Raises:
        RuntimeError: as :func:`estimate`.
    """
    (runs,) = traces(case, gpu, (work,), configs, kernels, sample).values()
    return [launch_estimates(launches, gpu, kernels) for launches in runs]


def traces(
    case: Case,
    gpu: Gpu,
    works: Sequence[str],
    configs: Sequence[Mapping[str, Mapping[str, int]]],
    kernels: Sequence[str] | None,
    sample: int,
) -> dict[str, list[list[dict[str, Any]]]]:
    """Work -> for each of ``configs`` its launches, from a process of its own: whether kernels are
    interpreted is decided when they are imported.

    Raises:
        RuntimeError: the kernels are interpreted in this process, or the other process failed; its
            own words are in the message.
    """
    if triton.knobs.runtime.interpret:
        raise RuntimeError("the kernels are interpreted (TRITON_INTERPRET is set): nothing to read")
    request = {
        "model": case.model.name,
        "frames": case.frames,
        "dtype": case.dtype_name,
        "works": list(works),
        "architecture": gpu.target,
        "configs": [{name: dict(config) for name, config in run.items()} for run in configs],
        "kernels": None if kernels is None else list(kernels),
        "sample": sample,
    }
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(request),
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"tracing failed: {done.stderr.strip()[-2000:]}")
    result: dict[str, list[list[dict[str, Any]]]] = json.loads(done.stdout.splitlines()[-1])
    return result


def launch_estimates(
    launches: Sequence[Mapping[str, Any]], gpu: Gpu, kernels: Sequence[str] | None = None
) -> list[LaunchEstimate]:
    """Model traced launches that follow each other; needs a process that compiles kernels.

    Args:
        launches: as :func:`traces` gives them.
        gpu: one of :data:`GPUS`.
        kernels: as for :func:`estimate`.
    """
    from .compiled import compile_launch
    from .model import Cache, estimate_launch
    from .timing import time_blocks
    from .trace import launch_from_json

    target = next(target for target in TARGETS if target.name == gpu.target)
    cache = Cache(gpu)
    found = []
    for record in launches:
        launch = launch_from_json(record)
        traffic = cache.launch(launch)
        if kernels is not None and not any(word in launch.kernel for word in kernels):
            continue
        compiled = compile_launch(launch, target)
        # Dependent loads wait as long as the mean of them does.
        wait = gpu.l2_latency + (1 - traffic.hit_share) * (gpu.hbm_latency - gpu.l2_latency)
        timing = time_blocks(compiled, gpu, wait)
        found.append(estimate_launch(launch, compiled, timing, traffic, gpu))
    return found


def _floor_s(case: Case, work: str, gpu: Gpu) -> float:
    ceilings = Ceilings(gpu.copy_bytes_per_s, gpu.tensor_flops_per_s, "data sheet")
    if work == "score":
        cost = score_cost(case)
    elif work == "compact":
        cost = compact_cost(case)
    else:
        cost = merge_cost(case, case.merged_tokens, GroupTokens.expected(case))
    return cost.floor_ms(ceilings) / 1000
