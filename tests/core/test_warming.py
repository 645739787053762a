"""After ``warm_up`` no request compiles: counted with a compiler that makes nothing, without a GPU.

In a process of its own, whose kernels are not interpreted. Triton's own path is real up to the
compiler, so that every specialisation of an argument counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from prunevid_kernels import PruneVidConfig, warm_up

SCRIPT = """
import json
import random
from collections import Counter
from types import SimpleNamespace
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

import prunevid_kernels.kernels
from prunevid_kernels import *
from prunevid_kernels.kernels import _device

N, C = 196, 64
compiled = Counter()
run = JITFunction.run


class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return "none"

    def get_current_stream(self, device):
        return 0


def without_launch(self, *args, grid, warmup, **kwargs):
    return run(self, *args, grid=grid, warmup=True, **kwargs)


def counted(self, key, signature, device, *rest):
    compiled[self.fn.__name__] += 1
    self.device_caches[device][0][key] = made = SimpleNamespace()
    return made


def request(generator, budget, videos):
    frames = [generator.randint(4, 64) for _ in range(videos)]
    x = torch.empty((sum(frames), N, C), dtype=torch.bfloat16)
    for merged in merge_videos(x, frames, PruneVidConfig(budget=budget), impl="triton"):
        if videos == 1:
            apply_layout(x, merged.layout, impl="triton")
        rows, length = generator.randint(1, 60), len(merged.tokens)
        key = torch.empty((1, 4, 14 + length + rows, 128), dtype=torch.bfloat16)
        query = torch.empty((1, 28, rows, 128), dtype=torch.bfloat16)
        offset = generator.choice([None, 14 + length])
        visual = slice(14, 14 + length)
        score_visual_tokens(query, key, visual, causal_offset=offset, impl="triton")
        index = torch.arange(0, key.shape[2], generator.randint(1, 3))
        compact([key] * generator.choice([1, 22, 56]), index, dim=2, impl="triton")


active = "_active" if hasattr(triton.runtime.driver, "_active") else "active"
with (
    mock.patch.object(triton.runtime.driver, active, Driver()),
    mock.patch.object(JITFunction, "run", without_launch),
    mock.patch.object(JITFunction, "_do_compile", counted),
    mock.patch.object(prunevid_kernels.kernels, "is_interpreted", lambda: True),
    mock.patch.object(_device, "architecture", lambda device: "sm_90"),
):
    config = PruneVidConfig(budget=0.25)
    shapes = [(frames, N, C) for frames in (4, 8, 16, 32, 64)]
    warm_up(shapes, config, videos=4, attention=[(28, 4, 128)], device="cpu")
    warmed = dict(compiled)
    compiled.clear()
    generator = random.Random(0)
    for number in range(400):
        request(generator, generator.choice([0.1, 0.25, 0.4, 700]), 1 + number % 4)
print(json.dumps([warmed, compiled]))
"""


def run(script: str) -> list[dict[str, int]]:
    """Kernel -> variants that were compiled: by the warm-up, and by the requests after it."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    finished = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    counted: list[dict[str, int]] = json.loads(finished.stdout.splitlines()[-1])
    return counted


def test_no_request_compiles_after_it() -> None:
    warmed, later = run(SCRIPT)
    assert not later
    assert len(warmed) >= 12  # kernels
    of_masks = sum(warmed[name] - 1 for name in ("_log_sum_kernel", "_max_probability_kernel"))
    of_batches = sum(warmed[name] - 1 for name in ("_group_table_kernel", "_group_clusters_kernel"))
    assert of_masks == 6
    assert sum(warmed.values()) - of_masks - of_batches <= len(warmed) + 6, warmed


def test_batches_hold_videos_that_a_number_of_tokens_leaves_no_room_for() -> None:
    """A short video would be left as it is, and the batch of two be a batch of one."""
    warmed, later = run(
        SCRIPT.replace("PruneVidConfig(budget=0.25)", "PruneVidConfig(budget=300)")
        .replace("generator.choice([0.1, 0.25, 0.4, 700])", "300")
        .replace("range(400)", "range(40)")
    )
    assert not later
    assert warmed["_group_mean_kernel"] == 3  # one, two and four videos


def test_it_runs_what_it_compiles() -> None:
    """Under the interpreter: every call that it makes is a right one."""
    for config in (PruneVidConfig(), PruneVidConfig(budget=0.5)):
        warm_up(
            [(3, 17, 8)],
            config,
            videos=2,
            attention=[(4, 2, 16)],
            dtype=torch.float16,
            device="cpu",
        )


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        pytest.param({"config": None}, TypeError, "config must be a PruneVidConfig", id="config"),
        pytest.param({"dtype": torch.int8}, TypeError, "dtype .*got torch.int8", id="dtype"),
        pytest.param({"shapes": [(4, 8)]}, ValueError, "shapes must have 3 entries", id="shape"),
        pytest.param({"shapes": [(4, 0, 8)]}, ValueError, "shapes .*got 0", id="no-token"),
        pytest.param({"attention": [(4, 2)]}, ValueError, "attention must have 3", id="attention"),
        pytest.param({"videos": 0}, ValueError, "videos .*got 0", id="videos"),
        pytest.param({"device": "meta"}, ValueError, "device must be a GPU", id="meta"),
        pytest.param({"device": "gpu"}, ValueError, "device .*got 'gpu'", id="no-device"),
        pytest.param(
            {"device": "cuda:99"}, ValueError, "'cuda:99' was asked for; GPUs", id="no-gpu"
        ),
        pytest.param({"videos": 1.5}, TypeError, "videos .*got 1.5", id="half-a-video"),
    ],
)
def test_refused(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"shapes": [(2, 4, 8)], "config": PruneVidConfig(), "device": "cpu", **changed}
    with pytest.raises(error, match=message):
        warm_up(**arguments)


def test_a_number_of_numpy_is_a_number_of_videos() -> None:
    warm_up([(1, 2, 4)], PruneVidConfig(), videos=np.int64(1), device="cpu")
