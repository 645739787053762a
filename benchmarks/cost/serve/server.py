"""A vLLM server that lives as long as a ``with`` block, on the loopback interface only.

It is started as a module: the console script ``vllm`` looks its own version up under a name that
builds for other devices do not carry. Its worker processes stay in its process group, so that
leaving the block stops all of them, whatever happened inside; SIGTERM, too, leaves the block.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

HOST = "127.0.0.1"
# A traceback's last line: bare, or as vLLM's processes log it.
_RAISED = re.compile(
    r"(?:\(.*?pid=\d+\) )?(?:ERROR [^\[]*\[[^\]]*\] )?(?:\w+\.)*"
    r"(?P<error>(?P<kind>[A-Z]\w*(?:Error|Exception))(?:: .*)?)"
)
STOP_LIMIT_S = 5.0


class ServerError(RuntimeError):
    """A server that did not come up."""


@contextmanager
def running_server(
    model: Path,
    options: Sequence[str],
    *,
    log: Path,
    start_limit_s: float,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Start a server, wait until it answers, yield its base URL, stop it.

    Args:
        model: checkpoint folder.
        options: further arguments of vLLM's API server.
        log: file for its output.
        start_limit_s: how long it may take to come up.
        environment: variables beside this process's own.

    Raises:
        ServerError: it ended or did not answer in time; names the log and its last lines.
    """
    port = _free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(model), "--host", HOST, "--port", str(port), *options]
    with log.open("wb") as output, process_group(command, output, environment) as process:
        _wait_until_healthy(process, f"http://{HOST}:{port}/health", log, start_limit_s)
        yield f"http://{HOST}:{port}/v1"


@contextmanager
def process_group(
    command: Sequence[str],
    output: IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own, and stop the group after the block.

    Inside the block SIGTERM raises KeyboardInterrupt, as Ctrl-C does: by itself it would end this
    process without a way out of the block. For the main thread only, as all of Python's signals.

    Args:
        command: program and arguments.
        output: file for both output streams; None leaves them where this process's own go.
        environment: variables beside this process's own.
    """
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _stop(process)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(
    process: subprocess.Popen[bytes], url: str, log: Path, limit_s: float
) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(f"the server ended with code {process.returncode}: {_tail(log)}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)  # not up yet
    raise ServerError(f"the server did not answer within {limit_s:.0f} s: {_tail(log)}")


def cause_of_death(log: Path) -> str | None:
    """The line of a log that says why the engine ended: the first error that is one of its worker
    or engine, and not of who noticed that they were gone. None if no line does."""
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _RAISED.fullmatch(line.strip())
        if found is not None and found["kind"] != "EngineDeadError":
            return found["error"]
    return None


def _tail(log: Path, lines: int = 5) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    # The cause of a failed start stands before the traces of the processes that waited for it.
    causes = [line for line in text.splitlines() if "Error: " in line]
    return " | ".join((causes or text.splitlines())[-lines:]) + f" (see {log})"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server's process group: asked first, then killed, workers that were left behind
    included."""
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_LIMIT_S)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # nobody was left
