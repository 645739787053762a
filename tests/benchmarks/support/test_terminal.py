"""What a command prints for programs, and when."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer

from prunevid_kernels.benchmarks.support.terminal import (
    fail,
    is_folder,
    print_summary,
    printable,
    require_out_folder,
    say,
    show_problems,
)


@pytest.mark.parametrize(
    ("is_terminal", "as_json", "is_printed"),
    [
        pytest.param(False, None, True, id="piped"),
        pytest.param(False, False, False, id="piped-without"),
        pytest.param(True, None, False, id="terminal"),
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


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        pytest.param("\x1b[2J\x1b]0;title\x07red", "[2J]0;titlered", id="escape-sequences"),
        pytest.param("red\r\x08\x7f\x9b31m", "red31m", id="carriage-return-and-C1"),
        pytest.param("one\n\ttwo ä 红", "one\n\ttwo ä 红", id="text"),
        pytest.param("gnp.\u202eexe", "gnp.exe", id="direction"),
        pytest.param("clip\udcff.mp4", "clip?.mp4", id="no-utf-8"),
    ],
)
def test_what_others_wrote_does_not_steer_the_terminal(capsys, text, printed) -> None:
    say(text)
    assert capsys.readouterr().out == printed + "\n"
    with pytest.raises(typer.Exit):
        fail(text)
    one_line = printable(" ".join(text.split()))
    assert capsys.readouterr().err == f"prunevid: error: {one_line}\n"
    show_problems("data", [text])
    assert capsys.readouterr().err == f"data: {printed}\n"


def test_an_out_that_no_file_system_takes_ends_in_one_line(capsys) -> None:
    with pytest.raises(typer.Exit):
        require_out_folder(Path("x" * 5000))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("prunevid: error: --out: xxx") and line.endswith("File name too long")
    assert not is_folder(Path("x" * 5000))
