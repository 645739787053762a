"""The model card of the embedded model: what it is, how it was trained, what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..datasets.synthetic import QUESTION_TYPES
from ..embedded.model import SELECTION_LAYER
from .measure import BLIND, Accuracy

_HEAD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
tags: [video, visual-question-answering, token-pruning, llava-onevision]
---

# Tiny video QA

A `LlavaOnevisionForConditionalGeneration` with {millions:.2f} million parameters that answers
questions about generated clips with one word. It exists so that token pruning can be tested on a
model whose answers mean something, without downloading one. It knows nothing else: it has a
vocabulary of {words} words and was never shown a real picture.

The folder is complete for transformers: `AutoProcessor` and its chat template make this model's
inputs, for which transformers wants torchvision; `load_video_model` of prunevid-kernels does not.

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

## What was measured

{questions} held-out questions, each answered by `generate`; macro accuracy over the types with 95%
intervals. Methods run at their defaults, selecting after layer {layer} (`layer={layer}`).
"""

_TAIL = """
*blind*: the question without the video. *drop_all*: merged as PruneVid does, and no visual token
after the selecting layer. *random_drop*: random tokens, as many in each layer as PruneVid leaves.

## Limits

* Early layers of a model this small read much of the answer; how much differs from seed to seed. It
  separates pruning guided by content from random pruning. It is no ground for ranking good methods.
* Shapes stand on the grid of its patches, phrases are fixed, every shape and colour comes once.
* Other numbers of frames than four, six and eight were not trained.

Apache-2.0, like the project.
"""

_STAGES = {
    "see": "tower and projector, on single frames with a shape in many cells; frozen from then on",
    "find": "the decoder, on questions about single frames and on watching clips",
    "answer": "the decoder, on all questions about clips of several frames",
}


def model_card(
    results: Sequence[Accuracy],
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
        seed: of data and weights.
        steps: of each stage.
        parameters: of the model.
        words: in the vocabulary.
        where: device, threads and torch version of the training.
    """
    head = _HEAD.format(
        millions=parameters / 1e6,
        words=words,
        seed=seed,
        steps=sum(steps.values()),
        where=where,
        stages="\n".join(f"* `{name}`, {n} steps: {_STAGES[name]}" for name, n in steps.items()),
        questions=sum(len(right) for right in results[0].right.values()),
        layer=SELECTION_LAYER,
    )
    return head + "\n" + "\n".join(_table(results)) + "\n" + _TAIL


def _table(results: Sequence[Accuracy]) -> list[str]:
    rows: list[list[Any]] = [["", *(result.method for result in results)]]
    rows.append(["**macro**", *(_with_interval(result) for result in results)])
    for kind in QUESTION_TYPES:
        rows.append([kind, *(f"{result.by_type()[kind]:.3f}" for result in results)])
    for name, attribute in (("before layer 0", "merged_share"), ("kept", "kept_share")):
        shares = [_share(result, attribute) for result in results]
        rows.append([f"visual tokens {name}", *shares])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def _with_interval(result: Accuracy) -> str:
    low, high = result.interval
    return f"**{result.macro:.3f}** ({low:.3f} to {high:.3f})"


def _share(result: Accuracy, attribute: str) -> str:
    return "none" if result.method == BLIND else f"{getattr(result, attribute):.1%}"
