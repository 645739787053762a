"""Every kernel compiles for every supported GPU, within its registers and shared memory.

The compiler runs in processes of its own: in this one the kernels are interpreted.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"


def compile_check(*arguments: str, program: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    start = program or "from prunevid_kernels.benchmarks import compile_check"
    code = f"import sys\n{start}\nsys.exit(compile_check.main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "sm_120", "gfx942"])
def test_every_kernel_fits(target: str) -> None:
    result = compile_check("--target", target)
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["targets"] == [target]
    assert summary["faults"] == []
    assert summary["kernels"] >= 30  # specialisations of 12 kernels
    for kernel in ("frame_mean", "segments", "static_split", "group_table", "group_gram"):
        assert f"\n{kernel} " in "\n" + result.stdout
    for kernel in ("group_clusters", "group_mean", "log_sum", "max_probability", "compact"):
        assert f"\n{kernel} " in "\n" + result.stdout


def test_sizes_of_one_compile() -> None:
    """Triton turns an argument that is 1 into a constant, which not all code can take."""
    program = """
import torch
from prunevid_kernels.benchmarks import compile_check
target = next(target for target in compile_check.TARGETS if target.name == "sm_90")
with compile_check.compiling_for(target) as compiled:
    for frames, tokens, channels in ((1, 1, 1), (2, 1, 64), (1, 50, 64)):
        compile_check.launch_merge(frames, tokens, channels, torch.bfloat16, budget_mode=False)
print(len(compiled))
sys.exit(0)
"""
    result = compile_check(program=program)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == 3 * 16  # of the merge twelve launches, of dpc_knn four


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        pytest.param(
            {"BLOCK_M": 64, "BLOCK_S": 128, "num_warps": 1, "num_stages": 1},
            "spills",
            id="one-warp-for-a-large-tile",
        ),
        pytest.param(
            {"BLOCK_M": 16, "BLOCK_S": 256, "num_warps": 8, "num_stages": 8},
            "bytes of shared memory",
            id="too-many-stages",
        ),
    ],
)
def test_a_config_that_asks_too_much_is_a_fault(config: dict[str, int], fault: str) -> None:
    oversized = f"""
from prunevid_kernels.kernels import _device
from prunevid_kernels.benchmarks import compile_check
_device.config_table()["token_score"]["sm_90"] = {config | {"KEYS_PER_SPLIT": 512}}
name = "28 heads, 4 KV, dim 128, bf16"
compile_check.SELECTION_CASES = {{name: compile_check.SELECTION_CASES[name]}}
compile_check.MERGE_CASES = {{}}
"""
    result = compile_check("--target", "sm_90", program=oversized)
    assert result.returncode == 1, result.stdout + result.stderr
    faults = json.loads(result.stdout.splitlines()[-1])["faults"]
    assert any(fault in found["fault"] for found in faults)


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


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "sm_120", "gfx942"])
def test_memory_read_and_written_without_a_barrier_is_a_fault(target: str) -> None:
    """Kernels planted for it: those that race are found, those that do not are let be."""
    program = f"""
sys.path.insert(0, {str(HELPERS)!r})
import json
from functools import partial
import planted_kernels
from prunevid_kernels.benchmarks import compile_check
compile_check.MERGE_CASES = {{
    name: partial(planted_kernels.launch, name) for name in {list(RACES)!r}
}}
compile_check.SELECTION_CASES = {{}}
"""
    result = compile_check("--target", target, program=program)
    assert result.returncode == 1, result.stdout + result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
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
