"""Where in time a merged token should stand: the first frame of its segment, the middle one, the
last, or the mean of its sources' positions.

    python -m prunevid_kernels.benchmarks.train_tiny.placement --checkpoints FOLDER

A static token is the mean of the same place over all frames of a segment, and a decoder that reads
time, in rotary positions or in the words between frames, has to be told one. Each way is measured
on trained models with positions of three axes (:mod:`.time_axis`) by what it changes: how far the
answer's distribution moves from the one without a merge, and whether answers stay and are right.
The same merge is read every time; only positions differ, and the order among the words for times.
The unmerged model with its time reversed shows whether it reads the time at all.

The models are taken from the folder, or trained first and written to it, which takes minutes of one
thread's time for each of the two. The results are a JSON file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunevid_kernels import MergedVideo, PruneVidConfig, TokenLayout
from prunevid_kernels.adapters import PromptVisuals, VideoSpan, prune_by
from prunevid_kernels.adapters.engine.prompt.pieces import MergedStretch
from prunevid_kernels.adapters.methods.prunevid import PruneVid

from ..datasets.clips import HeldOutQuestion
from ..datasets.synthetic import FRAMES, held_out_questions
from ..report.statistics import (
    macro_bootstrap_interval,
    macro_mean,
    macro_share_interval,
    paired_difference,
)
from ..support.environment import describe, stamp
from .batches import encode_question
from .time_axis import FORMATS, STEPS, TimedModel, begin, load, save, train

SCHEMA_VERSION = 1
SPACING = 2  # between frames: two frames a second, two positions a second, as published
UNMERGED = "unmerged"
BACKWARDS = "unmerged, time reversed"  # whether the model reads the time at all
DEFAULT = "first"  # what the adapters do
ABOUT_TIME = ("when", "scenes", "direction")  # types of questions that need to know the time


@dataclass(frozen=True)
class Placement:
    """A place for merged tokens.

    Attributes:
        frame: share of a segment's length after which its static tokens stand, rounded down.
        averaged: axes on which a position is the mean over all sources, fractions and all.
    """

    frame: float
    averaged: tuple[int, ...] = ()


PLACEMENTS = {
    "first": Placement(0.0),
    "middle": Placement(0.5),
    "last": Placement(1.0),
    "mean of time": Placement(0.5, (0,)),
    "mean": Placement(0.5, (0, 1, 2)),
}


class PlacedMerge(PruneVid):
    """PruneVid's merge with its static tokens at another frame of their segments.

    Attributes:
        layout: of the last video, as merged.
    """

    layout: TokenLayout

    def __init__(self, placement: Placement) -> None:
        super().__init__(PruneVidConfig(select=False), "merge_only")
        self.placement = placement

    def merge(self, features: Tensor, frames: Sequence[int]) -> list[MergedVideo]:
        (video,) = super().merge(features, frames)
        self.layout = video.layout
        return [replace(video, layout=moved(video.layout, self.placement.frame))]


def moved(layout: TokenLayout, share: float) -> TokenLayout:
    """The layout with static tokens' anchors in another frame of their segments.

    Args:
        layout: with every anchor at its token's first source.
        share: of a segment's length, from its first frame (0) to its last (1).
    """
    groups = layout.merged_groups()
    lengths = layout.segment_lengths[layout.group_segment[groups]]
    steps = ((lengths - 1) * share).long() * layout.group_is_static[groups]
    shift = steps.to(layout.merged_anchor.device) * layout.tokens_per_frame
    return replace(layout, merged_anchor=layout.merged_anchor + shift)


def mean_positions(layout: TokenLayout, positions: Tensor) -> Tensor:
    """[axes, L] float32, the mean position of each merged token's sources.

    Args:
        layout: of the merge.
        positions: [axes, T * N] of the sources.
    """
    sums = torch.zeros((len(positions), layout.num_merged), dtype=torch.float64)
    sums.index_add_(1, layout.source_to_merged.flatten(), positions.double())
    return (sums / layout.merged_count).float()


@contextmanager
def averaging(timed: TimedModel, method: PlacedMerge, asked: Asked) -> Iterator[None]:
    """Inside it, the decoder's rotary positions of merged tokens are means on the method's axes.

    Args:
        timed: a pruned model.
        method: that prunes it.
        asked: its next prompt.
    """
    span = asked.span
    axes = list(method.placement.averaged)

    def average(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, positions = args
        layout = method.layout
        places = span.places(torch.arange(span.num_tokens))
        rows = MergedStretch.build(span, moved(layout, method.placement.frame)).rows
        rows = torch.arange(layout.num_merged) if rows is None else rows
        positions = positions.float()
        for axis, mean in zip(
            axes, mean_positions(layout, asked.positions[axes][:, places]), strict=True
        ):
            positions[axis, 0, span.start + rows] = mean
        return hidden, positions

    hook = timed.model.model.language_model.rotary_emb.register_forward_pre_hook(average)
    try:
        yield
    finally:
        hook.remove()


@dataclass(frozen=True)
class Asked:
    """A question as the decoder gets it.

    Attributes:
        span: of its video.
        embeds: [1, S, C] with the video's tokens in place.
        positions: [3, S].
    """

    span: VideoSpan
    embeds: Tensor
    positions: Tensor

    @classmethod
    def of(cls, timed: TimedModel, item: HeldOutQuestion, told: Sequence[int]) -> Asked:
        """A prompt that ends where the answer begins.

        Args:
            timed: the model.
            item: what is asked.
            told: what the prompt says of each frame, in their order: its number in time.
        """
        question, _ = encode_question(timed.tokenizer, item.question)
        before, span = timed.prompt(told, SPACING)
        ids = [*before, *question[:-1]]
        embeds = timed.embed(torch.tensor([ids]), span, timed.see([item.clip]))
        return cls(span, embeds, timed.positions(ids, told, SPACING))


@torch.inference_mode()
def answer_logits(timed: TimedModel, asked: Asked, method: PlacedMerge | None) -> Tensor:
    """[V] logits of the answer under a method; None: of the plain model."""
    inputs = {
        "inputs_embeds": asked.embeds,
        "position_ids": asked.positions[:, None],
        "use_cache": False,
        "logits_to_keep": 1,
    }
    with ExitStack() as stack:
        if method is not None:
            handle = stack.enter_context(prune_by(timed.model, method))
            stack.enter_context(handle.videos([PromptVisuals((asked.span,))]))
            if method.placement.averaged:
                stack.enter_context(averaging(timed, method, asked))
        return timed.model(**inputs).logits[0, -1]


@dataclass(frozen=True)
class Answer:
    """One question's answer under one placement, beside the one without a merge.

    Attributes:
        kl: of the distribution without a merge from this one, in nats.
        drift: length of the logits' difference by that of the logits without a merge, both with
            their mean taken off.
        is_same, is_right: of the most likely word.
    """

    kl: float
    drift: float
    is_same: bool
    is_right: bool

    @classmethod
    def of(cls, logits: Tensor, unmerged: Tensor, expected: int) -> Answer:
        """Of logits [V] and the id of the right answer."""
        one, other = (values.double().log_softmax(dim=-1) for values in (unmerged, logits))
        centred = [values.double() - values.double().mean() for values in (unmerged, logits)]
        return cls(
            kl=float(F.kl_div(other, one, log_target=True, reduction="sum")),
            drift=float((centred[1] - centred[0]).norm() / centred[0].norm()),
            is_same=bool(logits.argmax() == unmerged.argmax()),
            is_right=int(logits.argmax()) == expected,
        )


def measure(
    timed: TimedModel,
    questions: Iterable[HeldOutQuestion],
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """All placements on the same questions.

    Args:
        timed: a trained model.
        questions: what to ask.
        progress: called after each question.

    Returns:
        ``merged_share`` and ``static_share`` (of the video's tokens, those that are left, and those
        that were averaged over time), and ``rows``, one for each placement, the unmerged model
        first; see ``results/README.md``.
    """
    methods = {name: PlacedMerge(placement) for name, placement in PLACEMENTS.items()}
    # placement -> type -> question -> answer
    found: dict[str, dict[str, dict[str, Answer]]] = {
        name: defaultdict(dict) for name in (UNMERGED, BACKWARDS, *methods)
    }
    merged, static = [], []
    for item in questions:
        kind = item.question.type
        expected = timed.tokenizer.convert_tokens_to_ids(item.question.answer)
        asked = Asked.of(timed, item, range(FRAMES))
        unmerged = answer_logits(timed, asked, None)
        found[UNMERGED][kind][item.id] = Answer.of(unmerged, unmerged, expected)
        backwards = answer_logits(timed, Asked.of(timed, item, range(FRAMES)[::-1]), None)
        found[BACKWARDS][kind][item.id] = Answer.of(backwards, unmerged, expected)
        for name, method in methods.items():
            logits = answer_logits(timed, asked, method)
            found[name][kind][item.id] = Answer.of(logits, unmerged, expected)
        layout = methods[DEFAULT].layout
        merged.append(layout.num_merged / layout.source_to_merged.numel())
        static.append(float(layout.static_mask().float().mean()))
        progress()
    rows = [_row(name, answers, found[DEFAULT]) for name, answers in found.items()]
    shares = {"merged_share": merged, "static_share": static}
    return {key: sum(values) / len(values) for key, values in shares.items()} | {"rows": rows}


Answers = dict[str, dict[str, Answer]]


def _row(name: str, answers: Answers, default: Answers) -> dict[str, Any]:
    kl, default_kl = (_values(each, "kl") for each in (answers, default))
    right = {kind: list(each.values()) for kind, each in _values(answers, "is_right").items()}
    row: dict[str, Any] = {
        "placement": name,
        "accuracy": macro_mean(right),
        "accuracy_interval": macro_share_interval(right),
        "accuracy_by_type": {kind: sum(values) / len(values) for kind, values in right.items()},
    }
    if name == UNMERGED:
        return row
    more, interval = paired_difference(default_kl, kl)
    listed = {kind: list(each.values()) for kind, each in kl.items()}
    of_time = {kind: values for kind, values in listed.items() if kind in ABOUT_TIME}
    return row | {
        "kl": macro_mean(listed),
        "kl_interval": macro_bootstrap_interval(listed),
        "kl_more_than_default": more,
        "kl_more_than_default_interval": interval,
        "kl_about_time": macro_mean(of_time) if of_time else None,
        "kl_by_type": {kind: sum(values) / len(values) for kind, values in listed.items()},
        "drift": macro_mean({k: list(v.values()) for k, v in _values(answers, "drift").items()}),
        "same_answers": macro_mean(
            {k: list(v.values()) for k, v in _values(answers, "is_same").items()}
        ),
    }


def _values(answers: Answers, name: str) -> dict[str, dict[str, float]]:
    return {
        kind: {key: float(getattr(answer, name)) for key, answer in each.items()}
        for kind, each in answers.items()
    }


def run(
    folder: Path,
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    steps: int = STEPS,
    questions: int = 1000,
    progress: Callable[[str], object] = print,
) -> Path:
    """Take or train the models, measure, and write the results file after each of them; its path.

    Args:
        folder: of the models, in a folder each; those that are missing are trained.
        out: folder for the results.
        formats: names of :data:`.time_axis.FORMATS`.
        steps: of a training; a model that is there is taken however long it was trained.
        questions: held-out ones.
        progress: gets a line now and then.

    Raises:
        CheckpointError: a model that cannot be loaded.
        OSError: a folder that cannot be written.
    """
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "placement",
        "environment": describe(torch.device("cpu")),
        "questions": questions,
        "models": [],
    }
    path = out / f"placement-{stamp(results['environment'])}.json"
    out.mkdir(parents=True, exist_ok=True)
    for name in formats:
        place = folder / name.replace(" ", "-")
        if not place.is_dir():
            timed = begin(name)
            for step, (loss, right) in enumerate(train(timed, steps)):
                if step % 20 == 0 or step + 1 == steps:
                    progress(f"{name}, step {step}: loss {loss:.3f}, right {right:.0%}")
            save(timed, place, steps)
        timed, trained = load(name, place)
        done = iter(range(1, questions + 1))

        def tell(name: str = name, done: Iterator[int] = done) -> None:
            if (count := next(done)) % 100 == 0:
                progress(f"{name}: {count} questions")

        measured = measure(timed, held_out_questions(questions), tell)
        results["models"].append({"format": name, "steps": trained, **measured})
        for row in measured["rows"]:
            progress(f"{name}, {row['placement']}: " + _summary(row))
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def _summary(row: dict[str, Any]) -> str:
    text = f"accuracy {row['accuracy']:.1%}"
    return text if "kl" not in row else f"{text}, KL {row['kl']:.4f}, drift {row['drift']:.3f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument(
        "--checkpoints", type=Path, required=True, help="folder of the models, trained if missing"
    )
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the results file")
    parser.add_argument("--format", choices=FORMATS, action="append", help="default: both")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a training")
    parser.add_argument("--questions", type=int, default=1000, help="held-out questions")
    given = parser.parse_args(arguments)
    path = run(
        given.checkpoints,
        given.out,
        formats=given.format or FORMATS,
        steps=given.steps,
        questions=given.questions,
    )
    print(json.dumps({"results": str(path)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
