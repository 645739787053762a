"""What a command prints for programs, and when."""

from __future__ import annotations

import json
import sys

import pytest

from prunevid_kernels.benchmarks.support.terminal import print_summary


@pytest.mark.parametrize(
    ("is_terminal", "as_json", "is_printed"),
    [
        pytest.param(False, False, True, id="piped"),
        pytest.param(True, False, False, id="terminal"),
        pytest.param(True, True, True, id="terminal-with-json"),
    ],
)
def test_json_is_for_pipes_and_for_who_asks(
    capsys, monkeypatch: pytest.MonkeyPatch, is_terminal, as_json, is_printed
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    print_summary({"score": 1.5}, as_json)
    printed = capsys.readouterr().out
    assert (json.loads(printed) == {"score": 1.5}) if is_printed else (printed == "")
