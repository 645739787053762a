"""The plugin's tests for GPUs, run by the command in a process of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunevid_kernels.benchmarks.on_gpu import serving


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param("import os; assert os.environ['VLLM_GPU_SYNC_CHECK'] == 'error'", "passed"),
        pytest.param("raise RuntimeError('GPU<->CPU sync detected')", "failed"),
        pytest.param("import pytest; pytest.skip('needs a GPU')", "failed"),
        pytest.param("import time; time.sleep(60)", "cut"),
    ],
    ids=["passed", "waits", "nothing-ran", "too-slow"],
)
def test_it_passes_only_when_the_tests_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, status: str
) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: object())
    tests = tmp_path / "test_it.py"
    tests.write_text(f"def test_it():\n    {body}\n")
    row = serving.run_serving(1.0 if status == "cut" else 60.0, tests)
    assert row["status"] == status
    assert (row.get("reason") is None) == (status == "passed")


def test_without_vllm_or_a_checkout_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="vllm is not installed"):
        serving.run_serving(1.0)
    monkeypatch.setattr(serving, "find_spec", lambda name: object())
    with pytest.raises(FileNotFoundError, match="belongs to a checkout"):
        serving.run_serving(1.0, tmp_path / "none.py")


def test_the_tests_are_there() -> None:
    assert serving.TESTS.exists()
