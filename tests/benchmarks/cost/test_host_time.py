"""The host's way to a launch: variants found past Triton's binder are those that it would find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

EXAMINED = """
import json
import torch
from prunevid_kernels import score_visual_tokens
from prunevid_kernels.benchmarks.cost import host_time
from prunevid_kernels.kernels import _launch
from prunevid_kernels.kernels.means import frame_mean
from torch.utils._python_dispatch import TorchDispatchMode

alike = frame_mean.alike

def counts(requests):
    report = host_time.examined(requests)
    return {"examined": report.examined, "wrong": report.wrong[:3]}

found = {"shipped": counts(25)}
frame_mean.alike = lambda x: (x.device, x.dtype)  # forgets the alignment
found["planted"] = counts(25)
frame_mean.alike = alike

class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

def operators(name):
    with host_time.launches_dropped():
        call = host_time.calls()[name]
        call()
        with Operators() as counted:
            call()
    return counted.names

found["operators"] = {name: operators(name) for name in ("merge", "merge, budget")}

def ways_past_the_binder():  # that are kept for prompts of one model
    with host_time.launches_dropped():
        for keys in range(50, 90):
            for rows in (3, 7):
                query = torch.zeros((1, 4, rows, 16), dtype=torch.bfloat16)
                key = torch.zeros((1, 2, keys, 16), dtype=torch.bfloat16)
                score_visual_tokens(query, key, slice(1, 40), impl="triton")
        return len(_launch._COMPILED)

found["ways"] = ways_past_the_binder()
found["variants"] = host_time.variants_of_one_model(30)
found["times"] = host_time.timed(repeats=1)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """In a process without the interpreter, whose launches take another way."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", EXAMINED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_every_launch_takes_the_variant_that_triton_would(found: dict[str, Any]) -> None:
    assert found["shipped"]["examined"] > 200
    assert found["shipped"]["wrong"] == []


def test_a_launcher_that_forgets_an_alignment_is_found(found: dict[str, Any]) -> None:
    wrong = found["planted"]["wrong"]
    assert wrong and all(line.startswith("_frame_mean_kernel: ") for line in wrong)


def test_every_call_is_timed(found: dict[str, Any]) -> None:
    assert set(found["times"]) == {"merge", "merge, budget", "score", "compact"}
    assert all(time_us > 0 for time_us in found["times"].values())


# The tool writes three times what a kernel would have written, for the copy to the host.
@pytest.mark.parametrize(("name", "others"), [("merge", 12), ("merge, budget", 1)])
def test_a_merge_asks_torch_for_little(name: str, others: int, found: dict[str, Any]) -> None:
    """An allocation a launch at most for what only kernels see, the results, and few views: each
    costs as much as a launch."""
    names = found["operators"][name]
    allocations = names.count("empty")
    assert allocations <= 8 + 6
    assert len(names) - allocations <= others, names


def test_requests_to_one_model_need_one_variant_of_each_kernel(found: dict[str, Any]) -> None:
    """But for the tile of a short video's distances, which has two sizes."""
    twice = {kernel: count for kernel, count in found["variants"].items() if count > 1}
    assert len(found["variants"]) == 13
    assert twice == {"_short_segments_kernel": 2}


def test_a_prompt_of_another_length_takes_the_same_way_to_a_launch(found: dict[str, Any]) -> None:
    """And none of its own, of which a server would gather ever more."""
    assert found["ways"] == 2
