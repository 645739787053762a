"""Every kernel compiles for every supported GPU, within its registers and shared memory.

The compiler runs in processes of its own, for in this one the kernels are interpreted: one for the
kernels that ship, one for everything that is planted to be found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"
TARGETS = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942")
EACH_TARGET = pytest.mark.parametrize("target", TARGETS)


def compile_check(*arguments: str, program: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    start = program or "from prunevid_kernels.benchmarks import compile_check"
    code = f"import sys\n{start}\nsys.exit(compile_check.main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def checked() -> tuple[dict[str, Any], list[list[str]]]:
    """The summary of the whole check, and the words of each line before it."""
    result = compile_check()
    assert result.returncode == 0, result.stdout + result.stderr
    *lines, summary = result.stdout.splitlines()
    return json.loads(summary), [line.split() for line in lines]


@EACH_TARGET
def test_every_kernel_fits(target: str, checked: tuple[dict[str, Any], list[list[str]]]) -> None:
    summary, lines = checked
    assert target in summary["targets"]
    assert summary["faults"] == []
    variants = {words[0]: int(words[2]) for words in lines if words[1] == target}
    assert sum(variants.values()) >= 30  # specialisations of 12 kernels
    assert variants.keys() >= {"frame_mean", "segments", "static_split", "group_table"}
    assert variants.keys() >= {"group_gram", "group_clusters", "group_mean", "layout_mean"}
    assert variants.keys() >= {"log_sum", "max_probability", "compact"}


# ------------------------------------------------------------------------------------------------
# What is planted
# ------------------------------------------------------------------------------------------------

RACES = {
    "shared tile": "held by several threads",
    "shared tile, barrier": None,
    "own elements": None,
    "scalar": "held by several threads",
    "other layout": "held by other threads",
    "read back": "is stored at",
    "read back, barrier": None,
    "running total": "is stored at",
    "running total, barriers": None,
    "either branch": None,
    "after a branch": "is stored at",
}
OVERSIZED = {
    "one-warp-for-a-large-tile": {"BLOCK_M": 64, "BLOCK_S": 128, "num_warps": 1, "num_stages": 1},
    "too-many-stages": {"BLOCK_M": 16, "BLOCK_S": 256, "num_warps": 8, "num_stages": 8},
}
PLANTED = f"""
import io, json, sys
from contextlib import redirect_stdout
from functools import partial
import torch
sys.path.insert(0, {str(HELPERS)!r})
import planted_kernels
from prunevid_kernels.benchmarks import compile_check
from prunevid_kernels.kernels import _device

def summary(*arguments):
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = compile_check.main(list(arguments))
    return json.loads(printed.getvalue().splitlines()[-1]) | {{"code": code}}

found = {{}}
target = next(target for target in compile_check.TARGETS if target.name == "sm_90")
with compile_check.compiling_for(target) as compiled:
    for frames, tokens, channels in ((1, 1, 1), (2, 1, 64), (1, 50, 64)):
        compile_check.launch_merge(frames, tokens, channels, torch.bfloat16, budget_mode=False)
found["sizes of one"] = len(compiled)

case = "28 heads, 4 KV, dim 128, bf16"
compile_check.SELECTION_CASES = {{case: compile_check.SELECTION_CASES[case]}}
compile_check.MERGE_CASES = {{}}
table = _device.config_table()["token_score"]
for name, config in {OVERSIZED!r}.items():
    table["sm_90"] = config | {{"KEYS_PER_SPLIT": 512}}
    found[name] = summary("--target", "sm_90")

compile_check.SELECTION_CASES = {{}}
compile_check.MERGE_CASES = {{
    name: partial(planted_kernels.launch, name) for name in {list(RACES)!r}
}}
for target in {TARGETS!r}:
    found[target] = summary("--target", target)
print(json.dumps(found))
sys.exit(0)
"""


@pytest.fixture(scope="module")
def planted() -> dict[str, Any]:
    """What is found of each plant."""
    result = compile_check(program=PLANTED)
    assert result.returncode == 0, result.stdout + result.stderr
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_sizes_of_one_compile(planted: dict[str, Any]) -> None:
    """Triton turns an argument that is 1 into a constant, which not all code can take."""
    launches = 10 + 1 + 4  # of the merge, of other planes, of dpc_knn
    assert planted["sizes of one"] == 3 * launches


@pytest.mark.parametrize(
    ("name", "fault"), zip(OVERSIZED, ("spills", "bytes of shared memory"), strict=True)
)
def test_a_config_that_asks_too_much_is_a_fault(
    name: str, fault: str, planted: dict[str, Any]
) -> None:
    assert planted[name]["code"] == 1
    assert any(fault in found["fault"] for found in planted[name]["faults"])


@EACH_TARGET
def test_memory_read_and_written_without_a_barrier_is_a_fault(
    target: str, planted: dict[str, Any]
) -> None:
    """Kernels planted for it: those that race are found, those that do not are let be."""
    summary = planted[target]
    assert (summary["code"], summary["targets"]) == (1, [target])
    assert summary["kernels"] == len(RACES)
    faults = {found["case"]: found["fault"] for found in summary["faults"]}
    assert set(faults) == {name for name, part in RACES.items() if part}
    for name, fault in faults.items():
        assert RACES[name] in fault and "planted_kernels.py:" in fault


def test_refuses_to_compile_what_is_interpreted() -> None:
    interpreted = (
        "import os; os.environ['TRITON_INTERPRET'] = '1'\n"
        "from prunevid_kernels.benchmarks import compile_check"
    )
    result = compile_check(program=interpreted)
    assert result.returncode == 2
    assert "TRITON_INTERPRET" in result.stderr
