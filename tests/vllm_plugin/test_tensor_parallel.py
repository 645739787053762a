"""Two workers that share each layer say what one says; they are processes, so this one starts them
from a script of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from vllm_plugin.engines import ARCHITECTURES, answers, clip, engine, prompt

from prunevid_kernels.benchmarks.serve_server import process_group

FRAMES = (8, 3)
LIMIT_S = 600


def main() -> None:
    """Write the answers: ``sys.argv`` has the checkpoint, the number of workers and the file."""
    checkpoint, workers, output = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    prompts = [prompt(checkpoint.name, [clip(frames)]) for frames in FRAMES]
    with engine(checkpoint, tensor_parallel_size=workers) as llm:
        tokens = [answer.tokens for answer in answers(llm, prompts)]
    output.write_text(json.dumps(tokens))


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_two_workers_say_what_one_says(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    one, two = (_tokens(checkpoints[family], workers, tmp_path) for workers in (1, 2))
    assert two == one


def _tokens(checkpoint: Path, workers: int, folder: Path) -> list[list[int]]:
    output = folder / f"{workers}.json"
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        # By itself each worker takes a NUMA node, and most machines have one.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    command = [sys.executable, __file__, str(checkpoint), str(workers), str(output)]
    with process_group(command, environment=environment) as process:
        assert process.wait(LIMIT_S) == 0
    tokens: list[list[int]] = json.loads(output.read_text())
    return tokens


if __name__ == "__main__":
    main()
