"""The model card of the embedded model: what it is, how it was trained, what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..embedded.model import SELECTION_LAYER
from .measure import BLIND, Accuracy
from .tasks import PLAIN, Task

_FRONT = """---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
tags: [video, visual-question-answering, token-pruning, llava-onevision]
---

# {title}

A `LlavaOnevisionForConditionalGeneration` with {millions:.2f} million parameters that answers
questions about generated clips with one word. It exists so that token pruning can be tested on a
model whose answers mean something, without downloading one. It knows nothing else: it has a
vocabulary of {words} words and was never shown a real picture.

The folder is complete for transformers: `AutoProcessor` and its chat template make this model's
inputs, for which transformers wants torchvision; `load_video_model` of prunevid-kernels does not.
"""

_PLAIN = """
## How it was trained

`prunevid train-tiny --seed {seed}` trains it from random weights, in {steps} steps. What comes out
depends on seed, device and number of threads. This one: {where}.

{stages}

The clips have 96 x 96 pixels and, in the last stage, four, six or eight frames; scenes with hard
cuts, textured backgrounds, shapes that stand still, one that moves, a star that flashes in a single
frame. The questions are of ten types. Clips that it was trained on and clips that it is measured on
come from different random streams.

**What it was and was not exposed to.** In half of the clips the *positions* of the visual tokens
were compressed at random, frame by frame, without dropping or changing a token. It has never seen
pruned or merged content. In `see`, features of the same content in the same cell were drawn
together, whatever else was in the frame, and those of a cell with and without its shape were pushed
apart. A merge by similarity relies on such features, and how strongly they were pushed was chosen
so that what shows in one frame only is not taken for static at PruneVid's default threshold.
"""

_HARD = """
## How it was trained

`prunevid train-tiny --task hard --seed {seed}` trains it in {steps} steps, from the weights of
`tiny_video_qa`, whose vocabulary it extends. What comes out depends on seed, device and number of
threads. This one: {where}.

{stages}

The clips are those of `prunevid eval synthetic_hard`: 96 x 96 pixels, up to five scenes, two or
three movers, small shapes and such that show briefly, stars in single frames. Those of training
have 4, 8 or 16 frames, few have 32. Clips that it was trained on and clips that it is measured on
come from different random streams.

**What was fixed when.** Clips and questions first, then architecture and losses, then the number of
steps by the time there was; weights were judged by what the unpruned model answers. Pruning methods
were run on the finished checkpoint only, and nothing was changed after that.

**What it was and was not exposed to.** In half of the clips the *positions* of the visual tokens
were compressed at random, frame by frame, or stretched, without dropping or changing a token. It
has never seen pruned or merged content. In `see` the tower learned two things that methods read, by
an objective each that no method's threshold or budget entered:

* Features of the same content in the same cell were drawn together, whatever else was in the frame,
  and those of a cell with and without its shape were pushed until they are unrelated (cosine 0).
* The attention of the tower's last layer, by which some methods rank tokens, was drawn to the cells
  that show a shape, to all of them alike: a tower has to learn where to look, and answers teach it
  nothing here, since it is frozen before questions are asked.
"""
_MEASURED = """
## What was measured

{questions} held-out questions, each answered by `generate`; macro accuracy over the types with 95%
intervals. Methods run at their defaults, selecting after layer {layer} (`layer={layer}`).
"""

_DROP_ALL = """
*blind*: the question without the video. *drop_all*: merged as PruneVid does, and no visual token
after the selecting layer."""
_RANDOM_DROP = """ *random_drop*: random tokens, as many in each layer as PruneVid leaves."""
_PLAIN_LIMITS = """

## Limits

* Early layers of a model this small read much of the answer; how much differs from seed to seed. It
  separates pruning guided by content from random pruning. It is no ground for ranking good methods.
* Shapes stand on the grid of its patches, phrases are fixed, every shape and colour comes once.
* Other numbers of frames than four, six and eight were not trained.

Apache-2.0, like the project.
"""
_HARD_LIMITS = """

## Limits

* It does not answer every type equally well: compare a method with `full` type by type.
* Early layers of a model this small read part of the answer; `drop_all` shows how much.
* Shapes and their quarters stand on the grid of its patches, and phrases are fixed.

Apache-2.0, like the project.
"""

_STAGES = {
    "see": "tower and projector, on single frames with a shape in many cells; frozen from then on",
    "shapes": "the same, where shapes count for more than the cells between them",
    "find": "the decoder, on questions about single frames and on watching clips",
    "answer": "the decoder, on all questions about clips of several frames",
    "short": "the decoder, on all questions about clips of four and eight frames",
    "long": "the decoder, on all questions, about clips of 16 frames and some of 8 and 32",
}


def model_card(
    results: Sequence[Accuracy],
    task: Task,
    *,
    seed: int,
    steps: Mapping[str, int],
    parameters: int,
    words: int,
    where: str,
) -> str:
    """README.md of the checkpoint folder, in Markdown.

    Args:
        results: what was measured.
        task: what it was trained for.
        seed: of data and weights.
        steps: of each stage.
        parameters: of the model.
        words: in the vocabulary.
        where: device, threads and torch version of the training.
    """
    is_plain = task is PLAIN
    head = _FRONT + (_PLAIN if is_plain else _HARD) + _MEASURED
    head = head.format(
        title=task.title,
        millions=parameters / 1e6,
        words=words,
        seed=seed,
        steps=sum(steps.values()),
        where=where,
        stages="\n".join(f"* `{name}`, {n} steps: {_STAGES[name]}" for name, n in steps.items()),
        questions=sum(len(right) for right in results[0].right.values()),
        layer=SELECTION_LAYER,
    )
    tail = _DROP_ALL + (_RANDOM_DROP + _PLAIN_LIMITS if is_plain else _HARD_LIMITS)
    return head + "\n" + "\n".join(_table(results, task)) + "\n" + tail


def _table(results: Sequence[Accuracy], task: Task) -> list[str]:
    rows: list[list[Any]] = [["", *(result.method for result in results)]]
    rows.append(["**macro**", *(_with_interval(result) for result in results)])
    for kind in task.question_types:
        rows.append([kind, *(_right(result, kind) for result in results)])
    for name, attribute in (("before layer 0", "merged_share"), ("kept", "kept_share")):
        shares = [_share(result, attribute) for result in results]
        rows.append([f"visual tokens {name}", *shares])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def _right(result: Accuracy, kind: str) -> str:
    """Few questions may leave a type without one."""
    return f"{result.by_type()[kind]:.3f}" if kind in result.right else "-"


def _with_interval(result: Accuracy) -> str:
    low, high = result.interval
    return f"**{result.macro:.3f}** ({low:.3f} to {high:.3f})"


def _share(result: Accuracy, attribute: str) -> str:
    return "none" if result.method == BLIND else f"{getattr(result, attribute):.1%}"
