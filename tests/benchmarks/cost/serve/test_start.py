"""Servers that ``prunevid bench serve`` starts itself, and one that does not come up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serve_stand_in import stand_in

from prunevid_kernels.benchmarks.cost.serve import bench
from prunevid_kernels.benchmarks.cost.serve.bench import ServeRequest, bench_serve
from prunevid_kernels.benchmarks.cost.serve.server import ServerError

# Nothing here asks for the memory that is free, nor for the merges' clock.
OPTIONS = ("--kv-cache-memory-bytes", "1", "--worker-cls", "own", "--worker-extension-cls", "own")
RAISED = "AttributeError: 'Model' object has no attribute 'video_pruning_method'"


def measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unable: str
) -> tuple[dict[str, Any], list[str]]:
    """Three stand-ins in place of vLLM's servers, of which one is unable to start."""

    @contextmanager
    def started(_: Path, options: Sequence[str], *, log: Path, **__: Any) -> Iterator[str]:
        log.write_text(f"(EngineCore pid=8) ERROR 11-26 14:02:42 [core.py:1] {RAISED}\n")
        if log.stem == unable:
            raise ServerError("the server ended with code 1")
        with stand_in(1.0 if log.stem == "unpruned" else 0.2) as (url, _):
            yield url

    monkeypatch.setattr(bench, "running_server", started)
    monkeypatch.setattr(bench, "_engine", lambda: {"vllm": "0"})
    model = tmp_path / "model"
    model.mkdir()
    named = {"architectures": ["Qwen2_5_VLForConditionalGeneration"]}
    (model / "config.json").write_text(json.dumps(named))
    (tmp_path / "video").write_bytes(b"not read by the stand-in")
    request = ServeRequest(
        model,
        tmp_path / "video",
        0.2,
        (2,),
        waves=1,
        methods=("evs",),
        server_options=OPTIONS,
    )
    said: list[str] = []
    return bench_serve(request, out=tmp_path / "out", progress=said.append), said


def test_a_method_of_the_engines_that_does_not_start_is_told_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, said = measure(tmp_path, monkeypatch, "evs")
    assert results["deaths"] == {"evs": {"concurrency": 0, "error": RAISED}}
    loads = {name: len(each) for name, each in results["servers"].items()}
    assert loads == {"unpruned": 1, "pruned": 1, "evs": 0}
    assert f"evs: did not start ({RAISED})" in said
    rows = (tmp_path / "out" / "serve.md").read_text()
    assert f"| 2 | evs | did not start: `{RAISED}` |" in rows
    assert json.loads((tmp_path / "out" / "serve.json").read_text())["deaths"] == results["deaths"]


@pytest.mark.parametrize("unable", ["unpruned", "pruned"])
def test_nothing_is_measured_without_what_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unable: str
) -> None:
    with pytest.raises(ServerError, match="ended with code 1"):
        measure(tmp_path, monkeypatch, unable)
    assert not (tmp_path / "out" / "serve.json").exists()
