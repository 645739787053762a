"""What the command says of itself: whole summaries in a useful order, only options that apply."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.cli.evaluate import DATASETS as HELP
from prunevid_kernels.benchmarks.datasets.registry import DATASETS

pytestmark = pytest.mark.one_version


def help_of(*command: str) -> str:
    result = CliRunner().invoke(app, [*command, "--help"], terminal_width=80)
    assert result.exit_code == 0
    return result.stdout


def summaries(*command: str) -> dict[str, str]:
    """Command -> its line in the list of commands."""
    lines = help_of(*command).partition("Commands:\n")[2].splitlines()
    return {name: " ".join(text) for name, *text in map(str.split, lines)}


def groups() -> list[tuple[str, ...]]:
    def below(group: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        found = [path]
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                found += below(command, (*path, name))
        return found

    return below(typer.main.get_command(app))


def test_a_newcomer_s_command_comes_first() -> None:
    assert list(summaries())[0] == "run"
    assert list(summaries("eval"))[:2] == ["check", "prepare"], "what is needed before the others"


@pytest.mark.parametrize("group", groups(), ids=lambda path: " ".join(path) or "prunevid")
def test_every_summary_is_one_whole_line(group: tuple[str, ...]) -> None:
    for name, text in summaries(*group).items():
        assert text.endswith("."), f"{name}: {text}"
        assert not text.endswith("..") and len(text.split()) >= 4, f"{name}: {text}"


OPTIONS = {
    "--judge-url": {"vcgbench"},
    "--judge-model": {"vcgbench"},
    "--export": {"egoschema"},
    "--extractor": {"mvbench", "videomme", "egoschema"},
    "--data-root": {"mvbench", "videomme", "egoschema", "vcgbench"},
    "--reader": {"mvbench", "videomme", "egoschema", "vcgbench"},
    "--model": {*DATASETS},
}


def test_a_data_set_shows_the_options_that_it_has_a_use_for() -> None:
    assert HELP.keys() == DATASETS.keys()
    shown = {name: help_of("eval", name) for name in DATASETS}
    for option, expected in OPTIONS.items():
        assert {name for name, text in shown.items() if f"\n  {option} " in text} == expected


def test_an_option_of_another_data_set_says_whose_it_is() -> None:
    result = CliRunner().invoke(app, ["eval", "mvbench", "--export", "x.csv"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--export belongs to egoschema" in result.stderr


GET_IT = "`hf download Qwen/Qwen2.5-VL-7B --local-dir MODELS/Qwen2.5-VL-7B`"


@pytest.mark.parametrize(
    "command",
    [
        ("run",),
        ("models", "check"),
        ("flops",),
        ("bench", "latency"),
    ],
    ids=" ".join,
)
def test_the_name_of_a_published_checkpoint_is_answered_by_how_to_get_it(
    command: tuple[str, ...],
) -> None:
    option = [] if command == ("models", "check") else ["--model"]
    result = CliRunner().invoke(app, [*command, *option, "Qwen/Qwen2.5-VL-7B"])
    assert result.exit_code != 0
    assert GET_IT in result.stderr + result.stdout


def test_a_folder_that_is_nearly_there_is_named(tmp_path) -> None:
    (tmp_path / "pllava-7b").mkdir()
    result = CliRunner().invoke(app, ["run", "--model", str(tmp_path / "plava-7b")])
    assert result.exit_code == 2
    assert f"plava-7b: no such model folder; did you mean {tmp_path / 'pllava-7b'}?" in (
        result.stderr
    )


def test_the_folder_that_the_pages_name_is_no_repository(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["run", "--model", "MODELS/pllava-7b"])
    assert result.exit_code == 2 and "hf download" not in result.stderr
    assert "MODELS/pllava-7b: no such model folder; docs/families.md has the command" in (
        result.stderr
    )
