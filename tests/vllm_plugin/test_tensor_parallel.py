"""Two workers share each layer; every one of them encodes and merges the videos by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from vllm_engines import FAMILIES, RETAIN, answers, clip, engine, prompt
from vllm_oracle import Oracle


@pytest.mark.parametrize("family", FAMILIES)
def test_two_workers_say_what_transformers_says(family: str, checkpoints: dict[str, Path]) -> None:
    clips = [clip(frames) for frames in (8, 3)]
    with engine(checkpoints[family], tensor_parallel_size=2) as llm:
        said = answers(llm, [prompt(family, [video]) for video in clips])
    oracle = Oracle(checkpoints[family])
    expected = [oracle.answer(video, RETAIN) for video in clips]
    assert [(answer.prompt_tokens, answer.tokens) for answer in said] == expected
