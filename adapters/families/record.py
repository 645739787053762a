"""The record of a model family: the one place that answers "which model is it?".

Commands, benchmarks and plugins ask the record and never compare names, so that another family is
one folder with its code and its record, and one row of the table in :mod:`..families`. What is
known of a family without running it (names, sizes, sampling, prompts) is data. What needs torch or
transformers is named by a :class:`Later`, so that the whole table is imported in a moment.

Where pruning attaches inside a loaded model is told by the adapter that the record names: the
decoder, the videos' places in a prompt, their positions after merging, the vision side's attention.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .shape import ModelShape, Size

if TYPE_CHECKING:
    from ..video.sampling import Rule


@dataclass(frozen=True)
class Later:
    """A callable that is imported when it is first called.

    Attributes:
        record: name of the module that holds the family's record.
        target: "module:name" or "module:Class.method" beside it.
    """

    record: str
    target: str

    def resolve(self) -> Any:
        """The callable itself.

        Raises:
            ImportError, AttributeError: there is no such thing.
        """
        return pkgutil.resolve_name(f"{self.record.rpartition('.')[0]}.{self.target}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.resolve()(*args, **kwargs)


@dataclass(frozen=True)
class Prompt:
    """The words around a video, before they are put into the family's template."""

    question: str
    system: str | None = None
    answer_prefix: str = ""


def bare_choice_prompt(question: str, instruction: str) -> Prompt:
    """Words around a multiple-choice question for families of which no evaluation is published: as
    the others have it, in the family's own template and without the benchmark's instruction."""
    return Prompt(f"{question}\nOnly give the best option.", None, "Best option:(")


# What methods need and a family lacks whose vision tower takes frames of any size: need -> why.
FRAMES_OF_ANY_SIZE = {
    "tower": "its tower takes frames of any size in one row. Methods that look at the tower do not"
    " run here; take one that looks at tokens, or into the decoder",
    "grid": "it differs from video to video. Where all have one size, give the option"
    " grid=[rows, columns] of tokens",
}


@dataclass(frozen=True)
class Evaluation:
    """Where the published evaluation on one benchmark differs from what the family does otherwise.

    Attributes:
        sampling: another rule for the frames.
        frames: another number of them.
        generation: options of ``generate``.
        options: of pruning methods, for those that know them.
        system: system message of a question without options.
    """

    sampling: Rule | None = None
    frames: int | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None


@dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
        name: in records, settings and results.
        title: in print.
        model_types: ``config.model_type`` of its loaded models.
        recognises: whether a checkpoint folder is of this family, from its config.json and, on
            demand, the keys of its tensors.
        adapter: () -> the :class:`~..engine.interface.ModelAdapter`.
        read_config: (folder) -> the transformers config; no weight is read.
        check: (checkpoint) -> :class:`~..checkpoint.loading.LoadReport`; reads headers only.
        load: (folder, dtype, device, and its options) -> the model in eval mode; strict.
        processor: (folder, and its options) -> the :class:`~.processor.FrameProcessor`.
        random_model: (decoder shape, processor to borrow words from, is_reduced) -> a model with
            random weights, drawn where torch's defaults say, and its processor.
        shape: (config) -> the :class:`~.shape.ModelShape`.
        sizes: what was published.
        num_frames: frames of a video that the sizes were published with.
        sampling: which frames those are.
        prompt_tokens: text tokens before and after the video in a prompt of usual length.
        choice_prompt: (question with options, the benchmark's instruction) -> the prompt of a
            multiple-choice question.
        evaluations: benchmark -> how its published evaluation differs.
        prunevid_share: visual tokens that the published PruneVid keeps of all; None: no number is
            published.
        prumerge_share: the same of LLaVA-PruMerge+.
        flops_text_tokens: text tokens that stand beside the visual ones in the paper's FLOPs.
        load_options: options of ``load`` that no other family has.
        processor_options: the same of ``processor``.
        needed_options: (keys of the tensors) -> those of ``load_options`` that these need.
        generation: (prompt length, options given) -> options of ``generate`` to add or replace.
        answer_end: text at which an answer is cut.
        selects: whether tokens can be dropped inside its decoder; if not, the merge is all there
            is.
        lacks: what some methods need (:data:`..methods.record.NEEDS`) and its models do not have ->
            why not, for an error.
    """

    name: str
    title: str
    model_types: tuple[str, ...]
    recognises: Callable[[Mapping[str, Any], Callable[[], Collection[str]]], bool]
    adapter: Later
    read_config: Later
    check: Later
    load: Later
    processor: Later
    random_model: Later
    shape: Callable[[Any], ModelShape]
    sizes: tuple[Size, ...]
    num_frames: int
    sampling: Rule
    prompt_tokens: tuple[int, int]
    choice_prompt: Callable[[str, str], Prompt]
    prunevid_share: float | None
    prumerge_share: float | None
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    flops_text_tokens: int = 12
    load_options: tuple[str, ...] = ()
    processor_options: tuple[str, ...] = ()
    needed_options: Later | None = None
    generation: Later | None = None
    answer_end: str | None = None
    selects: bool = True
    lacks: Mapping[str, str] = field(default_factory=dict)

    def evaluation(self, task: str) -> Evaluation:
        """How the benchmark that ``task`` belongs to is evaluated.

        Args:
            task: a benchmark's name, alone or before the name of one of its tasks.
        """
        for benchmark, evaluation in self.evaluations.items():
            if task == benchmark or task.startswith(f"{benchmark}_"):
                return evaluation
        return Evaluation()

    def sampling_of(self, task: str) -> Rule:
        """Which frames are taken for a question of ``task``; see :meth:`evaluation`."""
        return self.evaluation(task).sampling or self.sampling

    def frames_of(self, task: str) -> int | None:
        """How many; None: as many as the model was published with."""
        return self.evaluation(task).frames
