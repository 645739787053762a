"""Checkpoints with experts: only their decoder's MLP differs from the dense ones'."""

from __future__ import annotations

from pathlib import Path

import pytest
from vllm_engines import ARCHITECTURES, FAMILIES, RETAIN, answers, clip, engine, prompt
from vllm_oracle import Oracle

EXPERTS = [family for family in ARCHITECTURES if family not in FAMILIES]


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_say_what_transformers_says(family: str, checkpoints: dict[str, Path]) -> None:
    clips = [clip(frames, frames) for frames in (8, 5)]
    with engine(checkpoints[family]) as llm:
        said = answers(llm, [prompt(family, [video]) for video in clips])
    oracle = Oracle(checkpoints[family])
    expected = [oracle.answer(video, RETAIN) for video in clips]
    assert [(answer.prompt_tokens, answer.tokens) for answer in said] == expected
