"""An evaluation that several processes share, and that survives the death of one of them.

Two processes are started by a launcher, one is killed from outside between two questions, and
another run, as users start it, does the rest. What is left has to be what a single process
writes: every question once, with the same answer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import datas_tree as tree
import pytest
from typer.testing import CliRunner

from prunevid_kernels.benchmarks.accuracy.evaluation import (
    EvaluationError,
    load_questions,
    require_complete,
)
from prunevid_kernels.benchmarks.accuracy.run_log import Record, read_run
from prunevid_kernels.benchmarks.cli import app

pytestmark = pytest.mark.one_version

QUESTIONS = 20
MISSING = "egocentric_navigation/0000"  # its video is not there
TIMEOUT_S = 600  # for what hangs; a busy machine takes minutes
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ACCELERATE = [
    "accelerate.commands.launch",
    "--multi_gpu",  # means several processes; that there is no GPU is no matter to the launcher
    "--num_machines=1",
    "--num_processes=2",
    "--main_process_port=0",
    "--mixed_precision=no",
    "--dynamo_backend=no",
]
COMMAND = ["-m", "prunevid_kernels.benchmarks.cli"]
# The same, but rank 1 waits for ever before its third question: however busy the machine is, it is
# killed with questions left.
STOPPING = """
import os, threading
from prunevid_kernels.benchmarks.accuracy import ask
from prunevid_kernels.benchmarks.cli import main

read, calls = ask.take_frames, []

def read_two(*arguments, **options):
    calls.append(arguments)
    if os.environ["RANK"] == "1" and len(calls) > 2:
        threading.Event().wait()
    return read(*arguments, **options)

ask.take_frames = read_two
main()
"""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> list[str]:
    """``eval mvbench`` on all twenty tasks, all but ``--out``."""
    root = tmp_path_factory.mktemp("DATAS")
    tree.mvbench_tree(root, tree.write_clip(root / "clip.mp4"))
    (root / "MVBench" / "video" / "vlnqa" / "egocentric_navigation_0.mp4").unlink()
    given = ["eval", "mvbench", "--data-root", root, "--model", checkpoint]
    return [*map(str, given), "--config", "layer=1", "--frames", "2", "--max-new-tokens", "4"]


@pytest.fixture(scope="module")
def alone(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run of one process."""
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path_factory.mktemp("alone"))])
    assert result.exit_code == 0, result.stderr
    return run_folder(result.stdout)


def run_folder(stdout: str) -> Path:
    (folder,) = json.loads(stdout.splitlines()[-1])["runs"]
    return Path(folder)


def timeless(folder: Path) -> dict[str, Record]:
    """The records of a run without what no two runs have in common."""
    return {
        name: Record(**{**vars(record), "seconds": {}, "first_token_ms": None})
        for name, record in read_run(folder).records.items()
    }


def lines(folder: Path) -> list[str]:
    """The questions of all lines of a run, with repeats."""
    files = sorted(folder.glob("samples.*.jsonl"))
    return [json.loads(line)["id"] for file in files for line in file.read_text().splitlines()]


def launch(
    launcher: list[str], program: list[str], arguments: list[str], out: Path
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *program, *arguments, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=out.parent,
        start_new_session=True,
    )


def process_of_rank(launcher: int, rank: int) -> int:
    """The child of a launcher that has this rank, from /proc."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                variables = (entry / "environ").read_bytes().split(b"\0")
            except (OSError, IndexError):  # ended while it was looked at
                continue
            if parent == launcher and f"RANK={rank}".encode() in variables:
                return int(entry.name)
    raise AssertionError(f"no child of {launcher} has rank {rank}")


def resume_here(arguments: list[str], out: Path) -> str:
    result = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def resume_by_accelerate(arguments: list[str], out: Path) -> str:
    resumed = launch(ACCELERATE, COMMAND, arguments, out)
    stdout, stderr = resumed.communicate(timeout=TIMEOUT_S)
    assert resumed.returncode == 0, stderr[-3000:]
    return stdout


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a rank through /proc")
@pytest.mark.parametrize(
    "resume",
    [
        pytest.param(resume_here, id="this-process-does-the-rest"),
        pytest.param(resume_by_accelerate, id="two-others-do-the-rest", marks=pytest.mark.full),
    ],
)
def test_a_killed_rank_loses_and_doubles_nothing(
    arguments, alone: Path, tmp_path: Path, resume: Callable[[list[str], Path], str]
) -> None:
    out = tmp_path / "runs"
    stopping = tmp_path / "stopping.py"
    stopping.write_text(STOPPING)
    launched = launch(TORCHRUN, [str(stopping)], arguments, out)
    shard = out / alone.name / "samples.1.jsonl"
    deadline = time.monotonic() + TIMEOUT_S
    while not shard.exists() or shard.read_bytes().count(b"\n") < 2:
        assert launched.poll() is None, launched.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process_of_rank(launched.pid, 1), signal.SIGKILL)
    stdout, _ = launched.communicate(timeout=TIMEOUT_S)
    assert launched.returncode != 0
    assert stdout == "", "no table of half a run"
    done = set(read_run(out / alone.name).records)
    assert 2 <= len(done) < QUESTIONS

    stdout = resume([*arguments, "--resume"], out)
    folder = run_folder(stdout)
    assert timeless(folder) == timeless(alone)
    answered = [name for name in lines(folder) if name != MISSING]
    assert len(answered) == len(set(answered)) == QUESTIONS - 1
    assert stdout.count("| Task |") == 1, "one process prints"
    (row,) = json.loads(stdout.splitlines()[-1])["rows"]
    assert (row["questions"], row["skipped"]) == (QUESTIONS - 1, 1)


def test_another_number_of_processes_goes_on(arguments, alone: Path, tmp_path: Path) -> None:
    """One process takes over what three have left: a file of each, the last line of one cut."""
    folder = tmp_path / alone.name
    folder.mkdir()
    (folder / "settings.json").write_bytes((alone / "settings.json").read_bytes())
    written = (alone / "samples.0.jsonl").read_text().splitlines(keepends=True)
    for rank in range(3):
        text = "".join(written[rank:12:3])
        (folder / f"samples.{rank}.jsonl").write_text(text[:-9] if rank == 2 else text)
    result = CliRunner().invoke(app, [*arguments, "--resume", "--out", str(tmp_path)])
    assert run_folder(result.stdout) == folder
    assert timeless(folder) == timeless(alone)
    assert (folder / "samples.0.jsonl").read_text().count("\n") == 4 + QUESTIONS - 11


def test_half_a_run_makes_no_table(arguments, alone: Path, tmp_path: Path) -> None:
    """As on two hosts whose disks are their own."""
    run = read_run(alone)
    questions = load_questions("mvbench", Path(arguments[arguments.index("--data-root") + 1]))
    require_complete(run, questions.samples)
    for name in sorted(run.records)[:3]:
        del run.records[name]
    with pytest.raises(EvaluationError, match="3 of 20 questions have no line; go on with"):
        require_complete(run, questions.samples)
