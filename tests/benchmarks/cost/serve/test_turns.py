"""Servers that die while they are measured, and those that only fail a request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from serve_stand_in import bench, stand_in

from prunevid_kernels.benchmarks.cost.serve import turns
from prunevid_kernels.benchmarks.cost.serve.client import Client, RequestError
from prunevid_kernels.benchmarks.cost.serve.server import cause_of_death
from prunevid_kernels.benchmarks.cost.serve.turns import Turns

LOG = """\
(APIServer pid=7) WARNING 11-26 13:58:10 [utils.py:255] It can cause `OSError: [Errno 24] Too many`
(EngineCore pid=8) ERROR 11-26 14:02:42 [core.py:1] Traceback (most recent call last):
(EngineCore pid=8) ERROR 11-26 14:02:42 [core.py:1]     raise IndexError("x")
(EngineCore pid=8) ERROR 11-26 14:02:42 [core.py:1] IndexError: index 98 is out of bounds
(EngineCore pid=8) RuntimeError: Engine core died
(APIServer pid=7) ERROR 11-26 14:02:43 [llm.py:9] vllm.v1.engine.exceptions.EngineDeadError: gone
"""
DEAD = "(APIServer pid=7) ERROR 11-26 14:02:43 [llm.py:9] vllm.exceptions.EngineDeadError: gone\n"


def test_a_server_that_dies_is_told_and_the_others_are_kept(tmp_path: Path) -> None:
    # One for the check, two and four for the first level; then it dies in the second.
    with (
        stand_in(1.0) as (unpruned, _),
        stand_in(0.2) as (pruned, _),
        stand_in(0.2, answers=1 + 2 + 4 + 5) as (evs, _),
    ):
        result = bench(
            tmp_path, unpruned, pruned, "--evs-url", evs, "--concurrency", "4", "--waves", "2"
        )
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "serve.json").read_text())
    assert {name: len(loads) for name, loads in written["servers"].items()} == {
        "unpruned": 2,
        "pruned": 2,
        "evs": 1,
    }
    death = written["deaths"]["evs"]
    assert death["concurrency"] == 4 and "InternalServerError" in death["error"]
    first, second = written["ratios"]
    assert first.keys() == {"concurrency", "unpruned", "evs"}
    assert second.keys() == {"concurrency", "unpruned"}
    assert f"| 4 | evs | died at 4 at once: `{death['error']}` |" in result.stdout
    assert (tmp_path / "serve.png").stat().st_size > 0


def test_a_server_that_dies_in_the_check_has_no_row_of_figures(tmp_path: Path) -> None:
    with (
        stand_in(1.0) as (unpruned, _),
        stand_in(0.2) as (pruned, _),
        stand_in(0.2, answers=0) as (evs, _),
    ):
        result = bench(tmp_path, unpruned, pruned, "--evs-url", evs, "--waves", "1")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "serve.json").read_text())
    assert written["servers"]["evs"] == [] and written["deaths"]["evs"]["concurrency"] == 1
    assert "evs" not in written["prompt_tokens"]


def test_a_pruned_server_that_dies_is_reported_and_fails_the_command(tmp_path: Path) -> None:
    with stand_in(1.0) as (unpruned, _), stand_in(0.2, answers=4) as (pruned, _):
        result = bench(tmp_path, unpruned, pruned, "--waves", "1")
    assert result.exit_code == 2
    assert "a server died, the figures of the others are kept: pruned: " in result.stderr
    written = json.loads((tmp_path / "serve.json").read_text())
    assert len(written["servers"]["unpruned"]) == 1
    assert written["ratios"] == [{"concurrency": 2}]


def test_the_log_says_why(tmp_path: Path) -> None:
    (tmp_path / "evs.log").write_text(LOG)
    (tmp_path / "video").write_bytes(b"not read by the stand-in")
    with stand_in(0.2, answers=0) as (url, _):
        client = Client(url, tmp_path / "video", max_tokens=2, request_limit_s=10)
        own = Turns({"evs": client}, {"evs": tmp_path / "evs.log"})
        assert own.ask("evs", lambda living: living.ask(), level=3) is None
    assert own.living == {}
    assert own.deaths["evs"] == turns.Death(3, "IndexError: index 98 is out of bounds")


def test_a_log_without_a_cause_says_none(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(DEAD)
    assert cause_of_death(tmp_path / "log") is None


def test_a_failed_request_of_a_living_server_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "DEATH_LIMIT_S", 0.5)
    (tmp_path / "video").write_bytes(b"not read by the stand-in")
    with stand_in(0.2, missing_tokens=1) as (url, _):
        client = Client(url, tmp_path / "video", max_tokens=2, request_limit_s=10)
        own = Turns({"evs": client}, {})
        with pytest.raises(RequestError, match="an answer must have 2 tokens, got 1"):
            own.ask("evs", lambda living: living.ask(), level=1)
    assert own.living == {"evs": client} and own.deaths == {}


def test_a_request_that_takes_too_long_is_an_error(tmp_path: Path) -> None:
    with stand_in(1.0) as (unpruned, _), stand_in(0.2) as (pruned, _):
        result = bench(tmp_path, unpruned, pruned, "--request-limit-s", "0.0001")
    assert result.exit_code == 2
    assert "a request failed" in result.stderr
