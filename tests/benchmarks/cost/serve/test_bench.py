"""``prunevid bench serve`` against a stand-in server on the loopback interface, which counts tokens
as a vLLM server with the plugin would, or wrongly. The real one: scripts/test_vllm.sh."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from serve_stand_in import TEXT, VISUAL, bench, stand_in

from prunevid_kernels.benchmarks.cost.serve.bench import ServeRequest
from prunevid_kernels.benchmarks.cost.serve.client import (
    Client,
    Load,
    Reply,
    RequestError,
    percentile,
)
from prunevid_kernels.benchmarks.cost.serve.server import ServerError, running_server
from prunevid_kernels.benchmarks.cost.serve.subjects import (
    CPU_WORKER,
    architecture_of,
    device_options,
    memory_share,
    options_of,
)
from prunevid_kernels.benchmarks.cost.serve.table import table


def test_measures_two_servers(tmp_path: Path) -> None:
    with stand_in(1.0) as (unpruned, _), stand_in(0.2) as (pruned, requests):
        result = bench(tmp_path, unpruned, pruned, "--waves", "3")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "serve.json").read_text())
    assert written["prompt_tokens"] == {
        "unpruned": TEXT + VISUAL,
        "pruned": TEXT + 57,
        "visual": VISUAL,
        "merged": 57,
    }
    assert [load["requests"] for load in written["servers"]["pruned"]] == [6]
    (ratios,) = written["ratios"]
    unpruned_ratio = ratios["unpruned"]
    assert 0 < unpruned_ratio["lowest"] <= unpruned_ratio["median"] <= unpruned_ratio["highest"]
    assert written["device"] is written["engine"] is written["server_options"] is None
    assert "does not know on what" in result.stdout
    with Image.open(tmp_path / "serve.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 400
    assert json.loads(result.stdout.splitlines()[-1])["kind"] == "serve"
    parts = [request["messages"][0]["content"] for request in requests]
    assert {tuple(part["type"] for part in own) for own in parts} == {("text", "video_url")}
    names = {video["uuid"] for _, video in parts}
    assert len(names) == len(requests) == 3 + 2 + 6  # check, warm-up, measured


def test_measures_the_engines_own_pruning_as_well(tmp_path: Path) -> None:
    with stand_in(1.0) as (unpruned, _), stand_in(0.2) as (pruned, _), stand_in(0.2) as (evs, _):
        result = bench(tmp_path, unpruned, pruned, "--evs-url", evs, "--waves", "2")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "serve.json").read_text())
    assert list(written["servers"]) == ["unpruned", "pruned", "evs"]
    assert written["prompt_tokens"]["evs"] == TEXT + 57
    (load,) = written["servers"]["evs"]
    assert load["tokens_per_s"] == pytest.approx(16 * load["requests_per_s"])
    assert written["ratios"][0].keys() == {"concurrency", "unpruned", "evs"}
    assert result.stdout.count("| 2 |") == 3


def test_servers_take_turns_and_begin_in_turn(tmp_path: Path) -> None:
    order: list[str] = []
    with stand_in(1.0, seen=order) as (unpruned, _), stand_in(0.2, seen=order) as (pruned, _):
        result = bench(tmp_path, unpruned, pruned, "--concurrency", "1", "--waves", "2")
    assert result.exit_code == 0, result.output
    names = {unpruned: "u", pruned: "p"}
    turns = "".join(names[url] for url in order)
    # The check, then both levels: a warm wave of each, and two waves, the second in reverse.
    assert turns == "uppp" + "uupp" + "uupp" + "ppuu" + "up" + "up" + "pu"


def test_a_wave_has_as_many_requests_as_asked_for(tmp_path: Path) -> None:
    with stand_in(1.0) as (unpruned, _), stand_in(0.2) as (pruned, requests):
        options = ["--wave-requests", "3", "--waves", "2", "--concurrency", "5"]
        result = bench(tmp_path, unpruned, pruned, *options)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "serve.json").read_text())
    assert [load["requests"] for load in written["servers"]["pruned"]] == [2 * 3, 2 * 5]
    assert len(requests) == 3 + 3 * (3 + 5)


def test_an_engine_that_keeps_more_is_not_compared(tmp_path: Path) -> None:
    with stand_in(1.0) as (unpruned, _), stand_in(0.2) as (pruned, _), stand_in(0.25) as (evs, _):
        result = bench(tmp_path, unpruned, pruned, "--evs-url", evs)
    assert result.exit_code == 2
    expected = f"evs must keep as many tokens as PruneVid, a prompt of {TEXT + 57} tokens, got 102"
    assert expected in result.stderr
    assert not (tmp_path / "serve.json").exists()


def test_engine_options_keep_the_same_share() -> None:
    pruned = options_of("pruned", "Qwen2_5_VLForConditionalGeneration", 0.2)
    overrides = json.loads(pruned[pruned.index("--hf-overrides") + 1])
    assert overrides["prunevid"] == {"retain": 0.2}
    assert overrides["architectures"] == ["PruneVidQwen2_5_VLForConditionalGeneration"]
    evs = options_of("evs", "Qwen2_5_VLForConditionalGeneration", 0.2)
    assert evs == ["--video-pruning-rate", "0.8", "--video-pruning-method", "evs"]
    assert options_of("unpruned", "Qwen2_5_VLForConditionalGeneration", 0.2) == []


@pytest.mark.parametrize(
    ("free", "total", "servers", "share"),
    [
        pytest.param(100, 100, 1, 0.9, id="all-free"),
        pytest.param(50, 100, 1, 0.45, id="half-free"),
        pytest.param(88, 100, 3, 0.26, id="three-servers"),
    ],
)
def test_servers_share_the_memory_that_is_free(
    free: int, total: int, servers: int, share: float
) -> None:
    assert memory_share(free, total, servers) == share
    assert share * servers <= free / total


def test_no_memory_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 servers need memory, got 1 bytes free of 100"):
        memory_share(1, 100, 2)


def test_given_options_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    where = "prunevid_kernels.benchmarks.cost.serve.subjects"
    monkeypatch.setattr(f"{where}.free_memory", lambda: (60, 100))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_options([], "unpruned", 2) == ["--gpu-memory-utilization", "0.27"]
    own = ["--gpu-memory-utilization=0.5", "--worker-cls", "mine"]
    assert device_options(own, "pruned", 2) == []
    assert device_options(own[:1], "evs", 2) == ["--worker-cls", CPU_WORKER]


@pytest.mark.parametrize("wrong_by", [1, -1, VISUAL], ids="{:+d}".format)
def test_reports_nothing_when_the_budget_is_missed(tmp_path: Path, wrong_by: int) -> None:
    with stand_in(1.0) as (unpruned, _), stand_in(0.2, wrong_by=wrong_by) as (pruned, _):
        result = bench(tmp_path, unpruned, pruned)
    assert result.exit_code == 2
    assert "retain 0.2 must leave 57 of 288 visual tokens" in result.stderr
    assert not (tmp_path / "serve.json").exists()


def test_an_answer_of_another_length_is_an_error(tmp_path: Path) -> None:
    with stand_in(1.0, missing_tokens=1) as (url, _):
        result = bench(tmp_path, url, url)
    assert result.exit_code == 2
    assert "an answer must have 16 tokens, got 15" in result.stderr


def test_a_server_that_refuses_is_an_error(tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"not read by the stand-in")
    with stand_in(1.0, status=500) as (url, _):
        client = Client(url, video, max_tokens=2, request_limit_s=10)
        with pytest.raises(RequestError, match="a request failed: InternalServerError"):
            client.ask()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--concurrency", "65"], "between 1 and 64, got 65", id="concurrency"),
        pytest.param(["--waves", "0"], "waves must be between 1 and 256", id="waves"),
        pytest.param(["--wave-requests", "65"], "wave_requests must be between", id="requests"),
        pytest.param(["--warm-waves", "-1"], "warm_waves must be between 0 and 256", id="warm"),
        pytest.param(["--retain", "1"], r"retain must be in (0, 1), got 1.0", id="retain"),
        pytest.param(["--max-tokens", "0"], "max_tokens must be at least 1", id="max-tokens"),
        pytest.param(["--video", "no.mp4"], "video must be a file, got no.mp4", id="video"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: list[str], message: str) -> None:
    result = bench(tmp_path, "http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_one_url_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be given together"):
        ServeRequest(
            tmp_path, Path(__file__), 0.2, (1,), urls={"unpruned": "http://127.0.0.1:9/v1"}
        )


def test_the_plugins_architecture_for_a_checkpoint(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    with pytest.raises(ValueError, match="checkpoint folder with a config.json"):
        architecture_of(tmp_path)
    config.write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ValueError, match="must be one of Llava.*, Qwen.*, got LlamaForCausalLM"):
        architecture_of(tmp_path)
    config.write_text(json.dumps({"architectures": ["Qwen2_5_VLForConditionalGeneration"]}))
    assert architecture_of(tmp_path) == "Qwen2_5_VLForConditionalGeneration"


def write_engine(folder: Path, code: str) -> dict[str, str]:
    """A stand-in for the module that is run as a server; returns the environment to find it in."""
    package = folder / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for parent in (package, *list(package.parents)[:2]):
        (parent / "__init__.py").touch()
    (package / "api_server.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    environment = write_engine(tmp_path, "raise ValueError('no such model')")
    started = running_server(
        tmp_path, [], log=tmp_path / "log", start_limit_s=600, environment=environment
    )
    with pytest.raises(ServerError, match="ended with code 1: ValueError: no such model"):
        with started:
            pytest.fail("it started")


def test_a_server_and_its_workers_end_with_a_terminated_owner(tmp_path: Path) -> None:
    worker = '[sys.executable, "-c", "import time; time.sleep(600)"]'
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(600)
        # Server and worker hold a connection; it closes when both are gone.
        environment = write_engine(
            tmp_path,
            "import socket, subprocess, sys, time\n"
            f"held = socket.create_connection({listener.getsockname()})\n"
            f"subprocess.Popen({worker}, pass_fds=[held.fileno()])\n"
            "held.sendall(b'up')\n"
            "time.sleep(600)\n",
        )
        owner = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from pathlib import Path\n"
                "from prunevid_kernels.benchmarks.cost.serve.server import running_server\n"
                "with running_server(Path(), [], log=Path('log'), start_limit_s=600): pass",
            ],
            cwd=tmp_path,
            env=os.environ | environment,
        )
        try:
            held, _ = listener.accept()
            held.settimeout(600)
            assert held.recv(2) == b"up"
        finally:
            owner.terminate()
        assert held.recv(1) == b""
        assert owner.wait(600) != 0


def test_a_table_has_a_row_for_each_level() -> None:
    replies = [Reply("a", 10, 2, seconds, 1.0) for seconds in (0.4, 0.1, 0.2, 0.3)]
    load = Load.of(2, replies, wall_s=2.0)
    assert (load.requests_per_s, load.first_token_p50_ms, load.first_token_p99_ms) == (2, 200, 400)
    results = {
        "model": "m",
        "video": "v",
        "max_tokens": 2,
        "note": "CPU figures",
        "prompt_tokens": {"unpruned": 40, "pruned": 20, "visual": 30, "merged": 10},
        "servers": {"unpruned": [vars(load)], "pruned": [vars(load)]},
        "ratios": [{"concurrency": 2, "unpruned": {"median": 1.5, "lowest": 1.25, "highest": 2}}],
        "merging": [{"concurrency": 2, "videos": 4, "ms_per_video": 3.14, "share": 0.0123}],
    }
    assert "| 2 | unpruned | 2.00 | 4.0 | 200 | 400 | 1.50 (1.25 to 2.00) |" in table(results)
    assert "| 2 | pruned | 2.00 | 4.0 | 200 | 400 | - |" in table(results)
    assert "own clock: 3.1 ms a video and 1.2% of the time at 2." in table(results)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 3), (61, 4), (99, 5), (100, 5)]
)
def test_percentiles_are_values_that_were_seen(percent: float, expected: int) -> None:
    assert percentile([5, 3, 1, 4, 2], percent) == expected
