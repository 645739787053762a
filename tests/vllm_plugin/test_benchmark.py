"""Servers that the benchmark starts: measured with and without pruning, or unable to start."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import vllm
from typer.testing import CliRunner
from vllm_engines import RETAIN, SERVER_OPTIONS, START_LIMIT_S, pruned_server

from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.cost.serve.bench import CPU_FIGURES
from prunevid_kernels.benchmarks.cost.serve.server import ServerError, running_server


def test_the_benchmark_measures_a_server_with_and_without_pruning(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """``prunevid bench serve`` as it is typed, with its own servers."""
    command = ["bench", "serve", "--model", str(checkpoints["llava_onevision"])]
    command += ["--retain", str(RETAIN), "--out", str(tmp_path)]
    command += ["--concurrency", "1", "--concurrency", "4", "--waves", "2", "--max-tokens", "4"]
    result = CliRunner().invoke(app, [*command, "--server-options", shlex.join(SERVER_OPTIONS)])
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "serve.json").read_text())
    assert results["prompt_tokens"]["visual"] == 288  # 8 frames of 36
    assert results["prompt_tokens"]["merged"] == 72
    assert list(results["servers"]) == ["unpruned", "pruned"]  # the engine prunes no such model
    for loads in results["servers"].values():
        assert [load["requests"] for load in loads] == [8, 8]
    assert results["server_options"] == list(SERVER_OPTIONS)
    assert vllm.__version__ in results["engine"].values()
    assert CPU_FIGURES in result.stdout
    for merges, waves_of in zip(results["merging"], (8, 8), strict=True):
        assert merges["videos"] == waves_of
        assert 0 < merges["share"] < 1


@pytest.mark.parametrize(
    ("family", "methods"),
    [("qwen2_5_vl", ["evs"]), ("qwen3_vl", ["evs", "vidcom2"])],
    ids=["qwen2_5_vl", "qwen3_vl"],
)
def test_the_benchmark_measures_the_engines_own_pruning(
    checkpoints: dict[str, Path], tmp_path: Path, family: str, methods: list[str]
) -> None:
    """All methods that the engine has for a model, though none was named."""
    command = ["bench", "serve", "--model", str(checkpoints[family]), "--out", str(tmp_path)]
    command += ["--concurrency", "2", "--waves", "1", "--max-tokens", "4"]
    result = CliRunner().invoke(app, [*command, "--server-options", shlex.join(SERVER_OPTIONS)])
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "serve.json").read_text())
    assert results["deaths"] == {}
    assert list(results["servers"]) == ["unpruned", "pruned", *methods]
    for method in methods:
        assert results["prompt_tokens"][method] == results["prompt_tokens"]["pruned"]
        (load,) = results["servers"][method]
        assert f"| 2 | {method} | {load['requests_per_s']:.2f} |" in result.stdout
    assert [merges["videos"] for merges in results["merging"]] == [4]


def test_a_server_that_cannot_start_says_why(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    started = running_server(
        checkpoints["llava_onevision"],
        [*pruned_server("llava_onevision"), "--video-pruning-rate", "0.5"],
        log=tmp_path / "log",
        start_limit_s=START_LIMIT_S,
    )
    with pytest.raises(ServerError, match="contradicts --video-pruning-rate"):
        with started:
            pytest.fail("it started")
