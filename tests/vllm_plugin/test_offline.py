"""``LLM.generate`` with the plugin: right tokens, whatever the scheduler does with the prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor
from vllm import LLM
from vllm_engines import (
    APART,
    FAMILIES,
    FPS,
    IMAGE_PLACEHOLDERS,
    MAX_TOKENS,
    RETAIN,
    answers,
    clip,
    engine,
    prompt,
)
from vllm_oracle import Oracle

from prunevid_kernels import MergedVideo, PruneVidConfig, budget_tokens, merge_video
from prunevid_kernels.adapters.vllm import merging


def lengths(family: str) -> tuple[int, ...]:
    """Frames of the clips that are asked about together; the processor of models whose frames stand
    apart takes no single one."""
    return (8, 3, 13, 2) if family in APART else (8, 1, 13, 2)


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Path:
    return checkpoints[request.param]


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[LLM]:
    with engine(checkpoint) as running:
        yield running


@pytest.fixture(scope="module")
def oracle(checkpoint: Path) -> Oracle:
    return Oracle(checkpoint)


@pytest.mark.parametrize("retain", [None, 0.1, 0.5, 1.0])
def test_same_tokens_as_transformers_with_the_same_merge(
    llm: LLM, oracle: Oracle, retain: float | None
) -> None:
    (answer,) = answers(llm, [prompt(oracle.family, [clip(8)], retain=retain)])
    assert (answer.prompt_tokens, answer.tokens) == oracle.answer(clip(8), retain or RETAIN)


def test_a_prompt_holds_the_budget(llm: LLM, checkpoint: Path) -> None:
    family = checkpoint.name
    (text,) = answers(llm, [{"prompt": "what?"}])
    for frames in lengths(family):
        (answer,) = answers(llm, [prompt(family, [clip(frames)], text="what?")])
        # The Qwen models put two frames into a token, and mark start and end of a video.
        pairs = (frames + 1) // 2
        shape = {"llava_onevision": (frames, 36), "qwen2_5_vl": (pairs, 16)}.get(
            family, (pairs, 49)
        )
        others = 1 if family == "llava_onevision" else 2
        if family in APART:
            # A token a character of the mean of a pair's times, and both marks.
            seconds = [min(2 * i + 0.5, frames - 1) / FPS for i in range(pairs)]
            others += sum(len(f"<{time:.1f} seconds>") + 2 for time in seconds)
        assert answer.prompt_tokens == text.prompt_tokens + others + budget_tokens(*shape, RETAIN)


def test_videos_of_different_length_together_are_as_one_by_one(llm: LLM, checkpoint: Path) -> None:
    frames = lengths(checkpoint.name)
    prompts = [prompt(checkpoint.name, [clip(count, count)]) for count in frames]
    alone = [answers(llm, [one])[0].tokens for one in prompts]
    assert llm.reset_prefix_cache()
    together = [answer.tokens for answer in answers(llm, prompts)]
    assert together == alone
    assert len(set(alone)) == len(alone)  # the video decides the answer


def test_two_videos_in_a_prompt(llm: LLM, checkpoint: Path) -> None:
    videos = [clip(4, 1), clip(7, 2)]
    (pair,) = answers(llm, [prompt(checkpoint.name, videos, text="what?")])
    first, second = answers(
        llm, [prompt(checkpoint.name, [video], text="what?") for video in videos]
    )
    (text,) = answers(llm, [{"prompt": "what?"}])
    assert pair.prompt_tokens == first.prompt_tokens + second.prompt_tokens - text.prompt_tokens


def test_images_are_not_pruned(llm: LLM, oracle: Oracle) -> None:
    picture, video, text = clip(1, 4)[0], clip(5), "what?"
    about_image: dict[str, Any] = {
        "prompt": IMAGE_PLACEHOLDERS[oracle.family] + text,
        "multi_modal_data": {"image": Image.fromarray(picture)},
    }
    (image,) = answers(llm, [about_image])
    assert (image.prompt_tokens, image.tokens) == oracle.answer_about_image(picture, text)
    about_video = prompt(oracle.family, [video], text=text)
    both = {
        "prompt": IMAGE_PLACEHOLDERS[oracle.family] + about_video["prompt"],
        "multi_modal_data": about_image["multi_modal_data"] | about_video["multi_modal_data"],
    }
    alone, together, none = answers(llm, [about_video, both, {"prompt": text}])
    expected = image.prompt_tokens + alone.prompt_tokens - none.prompt_tokens
    assert together.prompt_tokens == expected


def test_thirty_two_requests_at_once(llm: LLM, checkpoint: Path) -> None:
    prompts = [prompt(checkpoint.name, [clip(2 + i % 5, i)]) for i in range(32)]
    first = answers(llm, prompts)
    assert llm.reset_prefix_cache()
    again = answers(llm, prompts[::-1])[::-1]
    assert [answer.tokens for answer in first] == [answer.tokens for answer in again]


def test_a_warm_prefix_cache_gives_the_cold_answer(llm: LLM, checkpoint: Path) -> None:
    family = checkpoint.name
    question = prompt(family, [clip(25, 5)], retain=0.9)  # more than a block, of 128 tokens
    assert llm.reset_prefix_cache()
    (cold,) = answers(llm, [question])
    (warm,) = answers(llm, [question])
    assert cold.cached == 0
    assert warm.cached >= 128
    assert warm.tokens == cold.tokens
    # Another share of the same video is another prefix.
    (other,) = answers(llm, [prompt(family, [clip(25, 5)], retain=0.8)])
    assert other.cached == 0


def test_text_and_other_shares_in_one_batch(llm: LLM, checkpoint: Path) -> None:
    prompts = [prompt(checkpoint.name, [clip(8)], retain=r) for r in (0.1, 1.0, None)]
    prompts.append({"prompt": "only text here"})
    alone = [answers(llm, [one])[0].tokens for one in prompts]
    assert llm.reset_prefix_cache()
    assert [answer.tokens for answer in answers(llm, prompts)] == alone


@pytest.mark.parametrize("retain", [0.0, 1.5, "much", float("nan")], ids=str)
def test_a_request_with_a_share_out_of_range_is_refused(
    llm: LLM, checkpoint: Path, retain: object
) -> None:
    with pytest.raises(ValueError, match=r'mm_processor_kwargs\["prunevid_retain"\] must be a'):
        answers(llm, [prompt(checkpoint.name, [clip(2)], retain=retain)])
    assert len(answers(llm, [prompt(checkpoint.name, [clip(2)])])[0].tokens) == MAX_TOKENS


def test_another_question_about_a_video_does_not_merge_it_again(
    llm: LLM, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged: list[int] = []

    def counted(features: Tensor, config: PruneVidConfig) -> MergedVideo:
        merged.append(len(features))
        return merge_video(features, config)

    monkeypatch.setattr(merging, "merge_video", counted)
    video = clip(6, 99)
    questions = [
        prompt(checkpoint.name, [video], text=text) for text in ("a?", "b?", "c?", "much longer?")
    ]
    first = answers(llm, questions[:2])
    assert len(merged) == 1
    for question in questions[2:]:
        assert llm.reset_prefix_cache()  # so that the video is prefilled anew
        (answer,) = answers(llm, [question])
        assert answer.cached == 0
    assert len(merged) == 1
    assert llm.reset_prefix_cache()
    (again,) = answers(llm, questions[:1])
    assert again.tokens == first[0].tokens
    # Another share is another merge.
    answers(llm, [prompt(checkpoint.name, [video], retain=0.6)])
    assert len(merged) == 2
