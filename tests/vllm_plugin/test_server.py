"""The OpenAI-compatible server with the plugin, asked through the official client; and the
benchmark that measures it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from prunevid_kernels.benchmarks.sample_clip import SAMPLE_CLIP
from prunevid_kernels.benchmarks.serve import ServeCheckError, ServeRequest, bench_serve, check
from prunevid_kernels.benchmarks.serve_client import Client, RequestError
from prunevid_kernels.benchmarks.serve_server import ServerError, running_server

FRAMES, TOKENS_PER_FRAME, RETAIN = 8, 36, 0.25
START_LIMIT_S = 600.0
OPTIONS = [
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "4096"),
    *("--media-io-kwargs", json.dumps({"video": {"num_frames": FRAMES}})),
]
PRUNED = [
    *(
        "--hf-overrides",
        json.dumps(
            {
                "architectures": ["PruneVidLlavaOnevisionForConditionalGeneration"],
                "prunevid": {"retain": RETAIN},
            }
        ),
    ),
    "--trust-request-mm-kwargs",
]


@pytest.fixture(scope="module")
def url(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("server") / "server.log"
    model = checkpoints["llava_onevision"]
    with running_server(model, OPTIONS + PRUNED, log=log, start_limit_s=START_LIMIT_S) as base_url:
        yield base_url


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, SAMPLE_CLIP, max_tokens=8, request_limit_s=120.0)


def test_usage_falls_by_what_is_merged(client: Client) -> None:
    visual = FRAMES * TOKENS_PER_FRAME
    whole, quarter, tenth = (client.ask(retain=retain) for retain in (1.0, None, 0.1))
    assert whole.prompt_tokens - quarter.prompt_tokens == visual - visual // 4
    assert whole.prompt_tokens - tenth.prompt_tokens == visual - visual // 10
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


def test_the_check_accepts_this_server_and_no_other_share(client: Client) -> None:
    whole = client.ask(retain=1.0).prompt_tokens
    tokens = check(whole, client, RETAIN)
    assert (tokens.visual, tokens.merged) == (FRAMES * TOKENS_PER_FRAME, 72)
    with pytest.raises(ServeCheckError, match="retain 0.5 must leave 144 of 288"):
        check(whole, client, 0.5)
    with pytest.raises(ServeCheckError, match="must give the unpruned server's"):
        check(whole + 1, client, RETAIN)


def test_the_benchmark_measures_running_servers(
    client: Client, url: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    model = checkpoints["llava_onevision"]
    log = tmp_path / "unpruned.log"
    with running_server(model, OPTIONS, log=log, start_limit_s=START_LIMIT_S) as unpruned:
        results = bench_serve(
            ServeRequest(
                model,
                SAMPLE_CLIP,
                RETAIN,
                (1, 4),
                waves=2,
                max_tokens=4,
                unpruned_url=unpruned,
                pruned_url=url,
            ),
            out=tmp_path,
            progress=print,
        )
    assert results["prompt_tokens"]["merged"] == 72
    assert [load["requests"] for load in results["pruned"]] == [2, 8]
    assert "does not know on what" in (tmp_path / "serve.md").read_text()
    assert json.loads((tmp_path / "serve.json").read_text()) == results


def test_a_server_that_cannot_start_says_why(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    wrong = [*OPTIONS, *PRUNED, "--video-pruning-rate", "0.5"]
    with pytest.raises(ServerError, match="contradicts --video-pruning-rate"):
        with running_server(
            checkpoints["llava_onevision"],
            wrong,
            log=tmp_path / "log",
            start_limit_s=START_LIMIT_S,
        ):
            pytest.fail("it started")
