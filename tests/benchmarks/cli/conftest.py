"""One checkpoint folder, one small clip and one finished run for all tests of the command."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tiny_folders
from typer.testing import CliRunner

from prunevid_kernels.benchmarks.cli import app


@dataclass(frozen=True)
class Outcome:
    """What a call of the command left: exit code, streams, report folder."""

    exit_code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def record(self) -> dict[str, Any]:
        return json.loads(self.stdout.splitlines()[-1])

    @property
    def html(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")

    @property
    def error(self) -> str:
        """The one line that bad input ends in."""
        assert self.exit_code == 2, self.stderr
        assert self.stdout == ""
        (line,) = self.stderr.splitlines()
        assert line.startswith("prunevid: error: ")
        return line


@pytest.fixture
def prunevid(tmp_path: Path):
    """Calls ``prunevid run`` in this process, with its report under ``tmp_path``."""

    def call(*arguments: str | Path) -> Outcome:
        folder = tmp_path / "out"
        given = ["run", "--out", str(folder), *map(str, arguments)]
        result = CliRunner().invoke(app, given)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr, folder)

    return call


@pytest.fixture(scope="session")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """``prunevid run`` with nothing given, as a person types it, in a process of its own.

    The workers of pytest-xdist share one: the first that asks runs it, the others wait.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # each worker has a folder of its own in it
    home = shared / "default_run"
    home.mkdir(exist_ok=True)
    folder, result = home / "report", home / "result.json"
    with open(home / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            start = [sys.executable, "-m", "prunevid_kernels.benchmarks.cli"]
            command = [*start, "run", "--out", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=home, timeout=600)
            result.write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
    return Outcome(*json.loads(result.read_text()), folder)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA-OneVision, 16 tokens a frame; tests that damage it work on a copy."""
    return tiny_folders.write_llava_onevision(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight frames, 96 x 64 pixels, a hard cut in the middle and a square that moves."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(8):
            frame = np.full((64, 96, 3), (60, 140, 80) if index < 4 else (70, 60, 160), np.uint8)
            frame[20:44, 10 * index : 10 * index + 24] = (230, 60, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
