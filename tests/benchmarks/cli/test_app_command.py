"""``prunevid app`` before a browser comes: what it refuses, and what an address means."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from prunevid_kernels.benchmarks.cli import app

pytestmark = pytest.mark.one_version
command = sys.modules["prunevid_kernels.benchmarks.cli.app"]


def error_of(*options: str) -> str:
    result = CliRunner().invoke(app, ["app", *options])
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    line = error_of()
    assert 'the extra "app": pip install ".[app]"' in line


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("box.example", False),
    ],
)
def test_which_addresses_others_reach(host, expected):
    assert command.is_loopback(host) is expected
