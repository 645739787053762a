"""What each model family is told for each benchmark, and how it answers: the evaluation protocol.

A multiple-choice question is its text, its options under letters, and "Only give the best option.";
the answer is begun with "Best option:(", so that a letter comes next. The sentences and the
blanks between them are those the published numbers were made with, for the two families whose
prompts are published. LLaVA-OneVision gets the same question in its own chat template, without a
system message, and ST-LLM gets PLLaVA's sentence for Video-MME: both are choices made here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prunevid_kernels.adapters.video.sampling import Rule

from ..datasets.sample import LETTERS, Sample

_WATCH = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail"
    " and movement of objects, and the action and pose of persons. Based on your observations, "
)
_SELECT_OPTION = _WATCH + "select the best option that accurately addresses the question.\n"
_SELECT_LETTER = (
    "Select the best answer to the following multiple-choice question based on the video. Respond"
    " with only the letter (A, B, C, or D) of the correct option.\n"
)
_DESCRIBE = (
    "You are Video-ChatGPT, a large vision-language assistant. You are able to understand the video"
    " content that the user provides, and assist the user with a variety of tasks using natural"
    " language.Follow the instructions carefully and explain your answers in detail based on the"
    " provided video."
)
_BEST_OPTION = "Best option:("
_CHOICE_SYSTEM = {
    "mvbench": _SELECT_OPTION,
    "videomme": _SELECT_LETTER,
    "egoschema": _SELECT_OPTION,
}


@dataclass(frozen=True)
class Prompt:
    """What ``VideoModel.encode`` gets besides the frames."""

    question: str
    system: str | None = None
    answer_prefix: str = ""


@dataclass(frozen=True)
class Protocol:
    """How a family is evaluated on a benchmark.

    Attributes:
        sampling: which frames it sees.
        frames: how many; None: as many as the model was published with.
        generation: options of ``generate``.
        options: what the authors set otherwise than by default here, for methods that know it.
    """

    sampling: Rule
    frames: int | None = None
    generation: dict[str, Any] = field(default_factory=lambda: {"max_new_tokens": 100})
    options: dict[str, Any] = field(default_factory=dict)


_PROTOCOLS = {
    ("pllava", "vcgbench"): Protocol("pllava", options={"layer": 5}),
    ("st_llm", "mvbench"): Protocol("pllava"),
    ("st_llm", "vcgbench"): Protocol(
        "st_llm",
        frames=64,
        generation={"max_new_tokens": 300, "num_beams": 5, "repetition_penalty": 1.5},
    ),
}
_SAMPLING: dict[str, Rule] = {
    "llava_onevision": "linspace",
    "pllava": "pllava",
    "st_llm": "st_llm",
}


def protocol(family: str, benchmark: str) -> Protocol:
    """The protocol of one family on one benchmark; answers to generated clips are a single word."""
    if benchmark == "synthetic":
        return Protocol(_SAMPLING[family], generation={"max_new_tokens": 4})
    return _PROTOCOLS.get((family, benchmark), Protocol(_SAMPLING[family]))


def question_text(sample: Sample) -> str:
    """A multiple-choice question with its options under letters."""
    lines = [f"Question: {sample.question}", "Options:"]
    lines += [f"({letter}) {text}" for letter, text in zip(LETTERS, sample.options, strict=False)]
    return "\n".join(lines)


def prompt(family: str, benchmark: str, sample: Sample) -> Prompt:
    """The words of one question.

    A question without options is asked as it is; on VCG-Bench, PLLaVA has a system message for it.
    """
    if not sample.options:
        describes = family == "pllava" and benchmark == "vcgbench"
        return Prompt(sample.question, system=_DESCRIBE if describes else None)
    text = question_text(sample)
    system = _CHOICE_SYSTEM[benchmark]
    if family == "pllava":
        return Prompt(f"{text} \nOnly give the best option.", system, _BEST_OPTION)
    if family == "st_llm":  # the sentence is part of what the human says
        return Prompt(f"{system}{text}\nOnly give the best option.\n", None, _BEST_OPTION)
    return Prompt(f"{text}\nOnly give the best option.", None, _BEST_OPTION)
