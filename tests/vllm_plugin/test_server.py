"""The OpenAI-compatible server with the plugin, asked through the official client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from vllm_engines import FAMILIES, RETAIN, START_LIMIT_S, pruned_server

from prunevid_kernels.benchmarks.cost.serve.bench import ServeCheckError, check
from prunevid_kernels.benchmarks.cost.serve.client import Client, RequestError
from prunevid_kernels.benchmarks.cost.serve.server import running_server
from prunevid_kernels.benchmarks.embedded.sample_clip import SAMPLE_CLIP

# Of the sample clip, eight seconds long: of eight frames 36 tokens each; of two frames a second, as
# vLLM samples for Qwen2.5-VL, 49 tokens for every two.
VISUAL = {"llava_onevision": 288, "qwen2_5_vl": 392}
KEPT = {"llava_onevision": 72, "qwen2_5_vl": 98}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(
    family: str, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    log = tmp_path_factory.mktemp("server") / "server.log"
    started = running_server(
        checkpoints[family], pruned_server(family), log=log, start_limit_s=START_LIMIT_S
    )
    with started as url:
        yield Client(url, SAMPLE_CLIP, max_tokens=8, request_limit_s=120.0)


def test_usage_falls_by_what_is_merged(client: Client, family: str) -> None:
    whole, quarter, tenth = (client.ask(retain=retain) for retain in (1.0, None, 0.1))
    assert whole.prompt_tokens - quarter.prompt_tokens == VISUAL[family] - KEPT[family]
    assert whole.prompt_tokens - tenth.prompt_tokens == VISUAL[family] - VISUAL[family] // 10
    assert quarter.text and quarter.completion_tokens == 8


def test_thirty_two_requests_at_once_all_answer(client: Client) -> None:
    load = client.load(concurrency=32, requests=32)
    assert load.requests == 32
    assert 0 < load.first_token_p50_ms <= load.first_token_p99_ms


def test_a_wrong_share_is_the_clients_error_and_names_the_setting(client: Client) -> None:
    with pytest.raises(RequestError, match="prunevid_retain") as caught:
        client.ask(retain=1.5)
    assert isinstance(caught.value.__cause__, openai.BadRequestError)
    assert client.ask().text  # the server lives


def test_the_check_accepts_this_server_and_no_other_share(client: Client, family: str) -> None:
    whole = client.ask(retain=1.0).prompt_tokens
    tokens = check(whole, client, RETAIN)
    assert (tokens.visual, tokens.merged) == (VISUAL[family], KEPT[family])
    half = f"retain 0.5 must leave {VISUAL[family] // 2} of {VISUAL[family]}"
    with pytest.raises(ServeCheckError, match=half):
        check(whole, client, 0.5)
    with pytest.raises(ServeCheckError, match="must give the unpruned server's"):
        check(whole + 1, client, RETAIN)
