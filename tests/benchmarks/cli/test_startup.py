"""What a command loads before it works: nothing that takes seconds, unless it is needed.

Commands run in a process of their own, which reports the heavy packages that it has loaded.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import datas_tree as tree
import pytest

pytestmark = pytest.mark.one_version

HEAVY = {
    "av",
    "decord",
    "gradio",
    "jinja2",
    "matplotlib",
    "numpy",
    "openai",
    "PIL",
    "pyarrow",
    "rich",
}
HEAVY |= {"scipy", "tokenizers", "torch", "tqdm", "transformers", "triton"}
# A judge, drawings, a format of one data set's official file. Not scipy: transformers imports it
# where it happens to be installed.
NOT_TO_ANSWER = {"openai", "matplotlib", "pyarrow"}
# Prints command -> what was loaded by its end, for the commands of a list, one after the other; of
# an empty one, for every command there is with --help.
REPORT = f"""
import json, sys
import typer
from prunevid_kernels.benchmarks.cli import app

def paths(command, path=()):
    yield path
    for name, child in getattr(command, "commands", {{}}).items():
        yield from paths(child, (*path, name))

given = json.loads(sys.argv[1]) or [
    (*path, "--help") for path in paths(typer.main.get_command(app))
]
loaded = {{}}
for arguments in given:
    app(arguments, standalone_mode=False)
    names = {{name.partition(".")[0] for name in sys.modules}}
    loaded[" ".join(arguments)] = sorted(names & {HEAVY!r})
print(json.dumps(loaded), file=sys.stderr)
"""


def loaded(*commands: list[str]) -> dict[str, list[str]]:
    command = [sys.executable, "-c", REPORT, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


def test_no_help_loads_anything_heavy() -> None:
    by_command = loaded()
    assert {"--help", "run --help", "eval mvbench --help", "bench kernels --help"} < {*by_command}
    assert {command: found for command, found in by_command.items() if found} == {}


def test_neither_a_check_nor_an_evaluation_loads_a_judge_or_drawings(
    tmp_path: Path, checkpoint: Path
) -> None:
    root = tree.all_benchmarks(tmp_path / "DATAS")
    evaluation = ["eval", "egoschema", "--data-root", str(root), "--out", str(tmp_path / "runs")]
    evaluation += ["--limit", "1", "--frames", "2", "--max-new-tokens", "1"]
    data = ["eval", "check", "--data-root", str(root)]
    commands = (data, ["models", "check", str(checkpoint)], evaluation)
    looked, check, answered = map(set, loaded(*commands).values())
    assert looked.isdisjoint({"torch", "transformers", "pyarrow"})
    assert "torch" in check and check.isdisjoint(NOT_TO_ANSWER | {"av", "decord"})
    assert "transformers" in answered and answered.isdisjoint(NOT_TO_ANSWER)


def test_without_typer_the_command_names_the_extra_that_brings_it() -> None:
    """The core installs the command as well."""
    code = (
        "import sys; sys.modules['typer'] = None; sys.argv = ['prunevid', 'run']\n"
        "from prunevid_kernels.benchmarks.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        'prunevid: error: the command needs the extra "benchmarks":'
        ' pip install ".[benchmarks]" in a checkout\n'
    )
