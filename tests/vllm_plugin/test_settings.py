"""Engines with settings of their own: they start one after the other, and say what the settings
ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
from vllm_engines import ARCHITECTURES, FAMILIES, answers, clip, engine, prompt
from vllm_oracle import Oracle


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Path:
    return checkpoints[request.param]


def test_chunked_prefill_with_the_engines_own_rate(checkpoint: Path) -> None:
    """A rate is the share to drop; a video longer than a chunk of the prompt is prefilled in
    pieces, its features encoded and merged once."""
    overrides = {"architectures": [ARCHITECTURES[checkpoint.name]]}
    clips = [clip(frames, frames) for frames in (9, 13)]
    prompts = [prompt(checkpoint.name, [video]) for video in clips]
    with engine(
        checkpoint,
        hf_overrides=overrides,
        video_pruning_rate=0.2,
        max_num_batched_tokens=48,
        enable_prefix_caching=False,
    ) as llm:
        chunked = answers(llm, prompts)
        # A piece that ends right before the video; then, beside another prompt, none that does.
        start = 0 if checkpoint.name == "llava_onevision" else 1
        ahead = prompt(checkpoint.name, clips[:1])
        ahead["prompt"] = "a" * (48 - start) + ahead["prompt"]
        (alone,) = answers(llm, [ahead])
        _, beside = answers(llm, [{"prompt": "only text here"}, ahead])
    assert alone.tokens == beside.tokens
    assert all(answer.prompt_tokens > 48 for answer in chunked)
    oracle = Oracle(checkpoint)
    for answer, video in zip(chunked, clips, strict=True):
        oracle.confirm(answer, video, 0.8)


@pytest.mark.parametrize(
    ("prunevid", "options", "message"),
    [
        pytest.param(None, {}, "got neither", id="nothing-set"),
        pytest.param(
            {"retain": 0.2}, {"video_pruning_rate": 0.5}, "contradicts", id="contradiction"
        ),
        pytest.param({"retain": 2}, {}, "share in", id="out-of-range"),
        pytest.param({"keep": 0.2}, {}, "nothing else", id="unknown-key"),
        pytest.param(
            {"retain": 0.2},
            {"mm_processor_kwargs": {"prunevid_retain": 0.2}},
            "belongs to a request",
            id="request-setting-on-the-server",
        ),
    ],
)
def test_an_engine_with_wrong_settings_does_not_start(
    checkpoint: Path, prunevid: object, options: dict[str, object], message: str
) -> None:
    overrides: dict[str, object] = {"architectures": [ARCHITECTURES[checkpoint.name]]}
    if prunevid is not None:
        overrides["prunevid"] = prunevid
    with pytest.raises(ValueError, match=message):
        with engine(checkpoint, hf_overrides=overrides, **options):
            pytest.fail("it started")
