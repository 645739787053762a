"""The vLLM plugin on a GPU: no wait for the device while it serves, the tower as CUDA graphs.

vLLM's CPU engine shows all the rest. What it cannot show is in one file of the plugin's tests,
which runs here in a process of its own, with vLLM's check for waits set to raise.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[2] / "tests/vllm_plugin/test_on_gpu.py"


def run_serving(seconds: float, tests: Path = TESTS) -> dict[str, Any]:
    """Run the plugin's tests for GPUs, for at most ``seconds``.

    Raises:
        ImportError: vLLM is not installed.
        FileNotFoundError: no checkout, so no tests.
    """
    if find_spec("vllm") is None:
        raise ImportError("vllm is not installed")
    if not tests.exists():
        raise FileNotFoundError(f"{tests} belongs to a checkout and is not there")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    environment = {**os.environ, "VLLM_GPU_SYNC_CHECK": "error"}
    row = {"name": "the vLLM plugin without waits, the tower as graphs"}
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=max(1.0, seconds), env=environment
        )
    except subprocess.TimeoutExpired:
        return {**row, "status": "cut", "reason": f"not done in {seconds:.0f} s"}
    is_passed = result.returncode == 0 and "skipped" not in result.stdout
    reason = None if is_passed else (result.stdout + result.stderr)[-3000:]
    return {**row, "status": "passed" if is_passed else "failed", "reason": reason}
