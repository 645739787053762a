"""Modelled times of kernels beside measured ones, so that the first GPU says how good the model is.

The model takes a minute or two of one CPU core, so its process is started first and asked last. It
compiles kernels for the GPU at hand, or for an H100 where there is none, in a dry run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from prunevid_kernels import PruneVidConfig, compact, merge_video, score_visual_tokens

from ..cost.kernels.cases import Case, attention_inputs, compaction_inputs, video_features
from ..cost.kernels.estimate import GPUS, WORKS
from ..cost.timing import profile_kernels

LONGEST_WAIT_S = 86_400.0  # a system call counts milliseconds in 32 bits

_PROGRAM = """
import json, sys
from dataclasses import asdict
from prunevid_kernels.benchmarks.cost.kernels.cases import MODELS, REDUCED, Case
from prunevid_kernels.benchmarks.cost.kernels.estimate import GPUS, estimate
request = json.load(sys.stdin)
for name, frames, dtype in request["cases"]:
    case = Case((MODELS | {REDUCED.name: REDUCED})[name], frames, dtype)
    found = estimate(case, GPUS[request["gpu"]], request["works"], sample=request["sample"])
    print(json.dumps({work.work: [asdict(one) for one in work.launches] for work in found}))
    sys.stdout.flush()
"""


def gpu_name(device: torch.device) -> str | None:
    """The model's name for a GPU, by its architecture and memory; None: it has no model."""
    if device.type != "cuda":
        return "h100"
    properties = torch.cuda.get_device_properties(device)
    if "H200" in properties.name:
        return "h200"
    target = f"sm_{properties.major}{properties.minor}"
    return next((gpu.name for gpu in GPUS.values() if gpu.target == target), None)


class Estimates:
    """A process that models ``cases`` one after the other while others are at work."""

    def __init__(
        self, cases: Sequence[Case], gpu: str, *, sample: int, works: Sequence[str] = WORKS
    ) -> None:
        self._cases = cases
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            env=environment | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        names = [(case.model.name, case.frames, case.dtype_name) for case in cases]
        request = {"cases": names, "gpu": gpu, "works": works, "sample": sample}
        self._process.stdin.write(json.dumps(request))
        self._process.stdin.close()
        self._process.stdin = None  # communicate() would flush it

    def rows(self, device: torch.device, left_s: Callable[[], float]) -> Iterator[dict[str, Any]]:
        """For each launch of each case: modelled, and measured by the profiler on a GPU.

        Args:
            device: where kernels are measured; on a CPU nothing is.
            left_s: seconds that may be waited for the model.

        Raises:
            RuntimeError: the process failed; its own words are in the message.
        """
        try:
            text, errors = self._process.communicate(
                timeout=min(max(1.0, left_s()), LONGEST_WAIT_S)
            )
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            yield {"status": "cut", "name": "modelled times", "reason": "the model took too long"}
            return
        if self._process.returncode:
            raise RuntimeError(f"the model failed: {errors.strip()[-1000:]}")
        for case, line in zip(self._cases, text.splitlines(), strict=True):
            for work, launches in json.loads(line).items():
                yield from _compare(case, work, launches, device)


def _compare(
    case: Case, work: str, launches: Sequence[dict[str, Any]], device: torch.device
) -> Iterator[dict[str, Any]]:
    """Launches of one kernel are added up: the profiler does not tell them apart."""
    measured: dict[str, float] = {}
    if device.type == "cuda":
        for kernel in profile_kernels(_work(case, work, device), device):
            name = kernel.name.strip("_").removesuffix("_kernel")
            measured[name] = measured.get(name, 0.0) + kernel.time_us
    for name in dict.fromkeys(launch["kernel"] for launch in launches):
        of_kernel = [launch for launch in launches if launch["kernel"] == name]
        modelled_us = 1e6 * sum(launch["time_s"] - launch["gap_s"] for launch in of_kernel)
        measured_us = measured.get(name)
        status = "ok" if measured_us is not None else "not timed"
        if device.type == "cuda" and measured_us is None:
            status = "failed"
        yield {
            "case": case.describe(),
            "work": work,
            "kernel": name,
            "status": status,
            "reason": None if status != "failed" else "the profiler saw no such kernel",
            "modelled_launches": len(of_kernel),
            "bound": of_kernel[0]["bound"],
            "modelled": round(modelled_us, 2),
            "measured_us": measured_us,
            "measured_over_modelled": None if not measured_us else measured_us / modelled_us,
        }


def _work(case: Case, work: str, device: torch.device) -> Callable[[], object]:
    """What the model's traces did, on the device."""
    if work == "score":
        inputs = attention_inputs(case, seed=0, device=device)
        query, key, visual = inputs.question_query, inputs.key, inputs.visual_slice
        return lambda: score_visual_tokens(query, key, visual, impl="triton")
    if work == "compact":
        cut = compaction_inputs(case, seed=0, device=device)
        return lambda: compact(cut.tensors, cut.index, dim=2, impl="triton")
    config = PruneVidConfig(budget=case.merged_tokens if work == "merge, budget" else None)
    model = case.model
    x = video_features(
        case.frames, model.tokens_per_frame, model.channels, seed=0, device=device, dtype=case.dtype
    )
    return lambda: merge_video(x, config, impl="triton")
