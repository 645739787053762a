"""What a model is told for each benchmark, and how it answers: the evaluation protocol.

A multiple-choice question is its text, its options under letters, and an instruction; how a family
puts them together, and begins the answer so that a letter comes next, its record says, as it says
where a published evaluation differs from what the family does otherwise. The sentences and the
blanks between them are those that the published numbers were made with, for the families whose
prompts are published; the records name what was chosen here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prunevid_kernels.adapters.families import Family, Prompt
from prunevid_kernels.adapters.video.sampling import Rule

from ..datasets.registry import DATASETS
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
_CHOICE_INSTRUCTION = {
    "mvbench": _SELECT_OPTION,
    "videomme": _SELECT_LETTER,
    "egoschema": _SELECT_OPTION,
}


@dataclass(frozen=True)
class Protocol:
    """How a family is evaluated on a benchmark.

    Attributes:
        sampling: which frames it sees.
        frames: how many: all of a generated clip; None: as many as the model was published with.
        generation: options of ``generate``.
        options: what the authors set otherwise than by default here, for methods that know it.
    """

    sampling: Rule
    frames: int | None
    generation: dict[str, Any]
    options: dict[str, Any]


def protocol(family: Family, benchmark: str) -> Protocol:
    """The protocol of one family on one benchmark; answers to generated clips are a single word."""
    evaluation = family.evaluation(benchmark)
    longest = 4 if DATASETS[benchmark].scoring == "word" else 100
    return Protocol(
        sampling=family.sampling_of(benchmark),
        frames=family.frames_of(benchmark) or DATASETS[benchmark].frames,
        generation={"max_new_tokens": longest, **evaluation.generation},
        options=dict(evaluation.options),
    )


def question_text(sample: Sample) -> str:
    """A multiple-choice question with its options under letters."""
    lines = [f"Question: {sample.question}", "Options:"]
    lines += [f"({letter}) {text}" for letter, text in zip(LETTERS, sample.options, strict=False)]
    return "\n".join(lines)


def prompt(family: Family, benchmark: str, sample: Sample) -> Prompt:
    """The words of one question.

    A question without options is asked as it is, after the system message that the family's
    published evaluation has for the benchmark, if any.
    """
    if not sample.options:
        return Prompt(sample.question, system=family.evaluation(benchmark).system)
    return family.choice_prompt(question_text(sample), _CHOICE_INSTRUCTION[benchmark])
