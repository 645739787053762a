"""Two engines behind one server, two workers in each: all four merge to the same bits."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

import vllm_digests
from vllm_engines import START_LIMIT_S, pruned_server

from prunevid_kernels.benchmarks.cost.serve.client import Client
from prunevid_kernels.benchmarks.cost.serve.server import running_server
from prunevid_kernels.benchmarks.embedded.sample_clip import SAMPLE_CLIP

FAMILY = "qwen3_vl"
ENGINES, WORKERS = 2, 2


def test_every_worker_of_every_engine_merges_alike(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    digests = tmp_path / "digests"
    digests.mkdir()
    options = [*pruned_server(FAMILY), "--data-parallel-size", str(ENGINES)]
    options += ["--tensor-parallel-size", str(WORKERS)]
    options += ["--worker-extension-cls", "vllm_digests.Digests"]
    path = os.pathsep.join(
        [str(Path(vllm_digests.__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    started = running_server(
        checkpoints[FAMILY],
        options,
        log=tmp_path / "server.log",
        start_limit_s=START_LIMIT_S,
        environment={"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": path},
    )
    with started as url:
        client = Client(url, SAMPLE_CLIP, max_tokens=4, request_limit_s=300.0)
        client.load(concurrency=8, requests=8)
        request = urllib.request.Request(
            url.removesuffix("/v1") + "/collective_rpc",
            json.dumps({"method": "write_digests", "args": [str(digests)]}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=60).close()
    seen = [path.read_text().splitlines() for path in digests.iterdir()]
    assert len(seen) == ENGINES * WORKERS
    assert all(seen)  # every worker has merged, and always the same video
    assert sum(map(len, seen)) == WORKERS * 8
    assert len({digest for own in seen for digest in own}) == 1
