"""``prunevid app`` in a browser; ``scripts/test_app.sh`` has an environment with both.

Without Gradio and Playwright nothing here is collected, and the summary says so.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

HAS_BOTH = find_spec("gradio") is not None and find_spec("playwright") is not None
collect_ignore_glob = [] if HAS_BOTH else ["test_*.py"]


def pytest_report_header() -> str:
    if HAS_BOTH:
        return "app: with Gradio and Playwright"
    return "app: not collected, Gradio or Playwright is not installed here (scripts/test_app.sh)"


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """The command in a process of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prunevid_kernels.benchmarks.cli", "app"]
    log = folder / f"app-{port}.log"
    environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "uploads"), "OMP_NUM_THREADS": "1"}
    with (
        log.open("w") as stream,
        subprocess.Popen(
            [*command, "--port", str(port), *options], stdout=stream, stderr=stream, env=environment
        ) as process,
    ):
        try:
            until = time.monotonic() + 180
            while "ends with Ctrl-C" not in log.read_text():
                assert process.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/"
            assert process.poll() is None, log.read_text()
            assert "Traceback" not in log.read_text(), log.read_text()
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    return serving


@pytest.fixture(scope="session")
def address(tmp_path_factory) -> Iterator[str]:
    """The page with the embedded model."""
    with serving(tmp_path_factory.mktemp("app")) as found:
        yield found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser) -> Iterator[Callable[[str], Any]]:
    """Open a page as a user of one's own, who waits for up to a minute; every address that the page
    asks for is in its ``requested``."""
    contexts = []

    def open_page(url: str, width: int = 1280) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        page = contexts[-1].new_page()
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.set_default_timeout(60_000)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
