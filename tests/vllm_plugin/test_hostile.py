"""A hundred requests that a server must refuse, good ones among them: the good ones are answered as
before, each of the others gets its own error, and memory stays where it was."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from vllm_engines import FAMILIES, START_LIMIT_S, pruned_server
from vllm_hostile import WIDTH, embeddings_part, hostile_requests, send, video_part

from prunevid_kernels.benchmarks.cost.serve.server import running_server

HOSTILE = 120  # every kind of request comes three times
TOGETHER = 4  # hostile requests beside a good one
# The cache counts as memory once its blocks have been used, so it is small.
CACHE_BYTES = 48 << 20
# What allocators keep, about 30 MiB. A leaked video of each request, 3.4 MiB of decoded frames,
# would be 90 and more.
GROWTH_BYTES = 64 << 20


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def url(
    family: str, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    log = tmp_path_factory.mktemp("hostile") / "server.log"
    options = [*pruned_server(family), "--enable-mm-embeds"]
    options += ["--kv-cache-memory-bytes", str(CACHE_BYTES)]
    started = running_server(checkpoints[family], options, log=log, start_limit_s=START_LIMIT_S)
    with started as base:
        yield base


def resident_bytes() -> int:
    """Of everything that this process has started: the server and its engine."""
    children = psutil.Process().children(recursive=True)
    return sum(child.memory_info().rss for child in children)


def good(url: str) -> tuple[int, str]:
    return send(url, (video_part(),), {})


def test_a_hundred_hostile_requests(url: str, family: str) -> None:
    expected = good(url)
    assert expected[0] == 200 and expected[1]
    cases = hostile_requests(family)
    assert len({case.name for case in cases}) == len(cases) >= 20
    order = itertools.islice(itertools.cycle(cases), HOSTILE)
    memory: list[int] = []
    with ThreadPoolExecutor(TOGETHER + 1) as pool:
        while group := list(itertools.islice(order, TOGETHER)):
            said = pool.submit(good, url)
            got = list(pool.map(lambda case: send(url, case.parts, case.arguments), group))
            for case, (status, message) in zip(group, got, strict=True):
                assert status == case.status, f"{case.name}: {status} {message}"
                assert case.says in message, f"{case.name}: {message}"
            assert said.result() == expected
            memory.append(resident_bytes())
    once = -(-len(cases) // TOGETHER)  # groups in which every kind of request comes once
    assert len(memory) >= 3 * once
    # The front end gives back what a large request took a few requests later, so the lowest of a
    # round counts, and not where a run happens to end. The first round fills caches.
    growth = min(memory[-once:]) - min(memory[once : 2 * once])
    assert growth < GROWTH_BYTES, memory


def test_a_video_of_nine_hours_is_answered(url: str, family: str) -> None:
    if family != "qwen2_5_vl":
        pytest.skip("its positions do not depend on seconds")
    part = embeddings_part(torch.zeros(64, WIDTH), second_per_grid_ts=torch.tensor(10800.0))
    status, text = send(url, (part,), {})
    assert status == 200 and text
