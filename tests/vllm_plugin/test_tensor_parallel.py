"""Two workers that share each layer say what one says; they are processes, so this one starts them
from a script of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from vllm_plugin.engines import ARCHITECTURES, answers, clip, engine, prompt

FRAMES = (8, 3)
LIMIT_S = 600


def main() -> None:
    """Print the answers for the checkpoint and the number of workers in ``sys.argv``."""
    checkpoint, workers = Path(sys.argv[1]), int(sys.argv[2])
    prompts = [prompt(checkpoint.name, [clip(frames)]) for frames in FRAMES]
    with engine(checkpoint, tensor_parallel_size=workers) as llm:
        tokens = [answer.tokens for answer in answers(llm, prompts)]
    print(json.dumps(tokens))


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_two_workers_say_what_one_says(family: str, checkpoints: dict[str, Path]) -> None:
    one, two = (_tokens(checkpoints[family], workers) for workers in (1, 2))
    assert two == one


def _tokens(checkpoint: Path, workers: int) -> list[list[int]]:
    process = subprocess.Popen(
        [sys.executable, __file__, str(checkpoint), str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    tokens: list[list[int]] = json.loads(output.splitlines()[-1])
    return tokens


if __name__ == "__main__":
    main()
