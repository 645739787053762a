"""What an embedded model is trained for: the clips, the words of their questions, where it begins.

``plain`` begins with random weights. ``hard`` begins with the finished model of ``plain``, whose
vocabulary it extends: what a circle is need not be learned twice, and half an hour on shared cores
would not be enough for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..datasets import drawing, synthetic, synthetic_hard
from ..datasets.clips import Clip, HeldOutQuestion
from ..embedded.model import EMBEDDED_MODEL

SPECIAL_TOKENS = ("<|endoftext|>", "<unk>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
_QUESTION_WORDS = (
    "user assistant ? what color shape is the where how many scenes are there flashing star which"
    " corner has scene shows way does moving go"
).split()
_HARD_QUESTION_WORDS = "pattern behind shapes stars last after that goes".split()


@dataclass(frozen=True)
class Task:
    """One generated data set, and a model for it.

    Attributes:
        name: for the command line.
        title: heading of the model card.
        words: the vocabulary; a word's position is its id.
        colors, ordinals: of the clips.
        frames: of its held-out clips.
        longest: frames of its longest clips.
        question_types: of its held-out questions.
        make_clip: as :func:`..datasets.synthetic.make_clip`.
        held_out: the first so many held-out questions.
        measured: what is measured for the model card, methods and "blind"; of ``hard`` only
            what no pruning method decides.
        has_small_shapes: some shapes fill a quarter of a cell.
        rope_theta: base of the decoder's rotary positions: large enough for the longest clip.
        start: checkpoint whose weights training begins with; its words are the first of ``words``.
            None: random weights.
    """

    name: str
    title: str
    words: tuple[str, ...]
    colors: tuple[str, ...]
    ordinals: tuple[str, ...]
    frames: int
    longest: int
    question_types: tuple[str, ...]
    make_clip: Callable[..., Clip]
    held_out: Callable[[int], Iterator[HeldOutQuestion]]
    measured: tuple[str, ...]
    has_small_shapes: bool
    rope_theta: float
    start: Path | None


def _once(*words: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))  # "left" and "right" are places and directions


_PLAIN_WORDS = _once(
    *SPECIAL_TOKENS,
    *_QUESTION_WORDS,
    *drawing.SHAPES,
    *synthetic.COLORS,
    *drawing.BACKGROUNDS,
    *(place for row in drawing.PLACES for place in row),
    *drawing.DIRECTIONS,
    *synthetic.ORDINALS,
    *synthetic.NUMBERS,
)

PLAIN = Task(
    name="plain",
    title="Tiny video QA",
    words=_PLAIN_WORDS,
    colors=tuple(synthetic.COLORS),
    ordinals=synthetic.ORDINALS,
    frames=synthetic.FRAMES,
    longest=synthetic.FRAMES,
    question_types=synthetic.QUESTION_TYPES,
    make_clip=synthetic.make_clip,
    held_out=synthetic.held_out_questions,
    measured=("full", "prunevid", "random_drop", "drop_all", "blind"),
    has_small_shapes=False,
    rope_theta=1e5,
    start=None,
)
HARD = Task(
    name="hard",
    title="Tiny video QA, hard",
    words=_once(
        *_PLAIN_WORDS,
        *_HARD_QUESTION_WORDS,
        *synthetic_hard.COLORS,
        *synthetic_hard.ORDINALS,
        *synthetic_hard.NUMBERS,
    ),
    colors=tuple(synthetic_hard.COLORS),
    ordinals=synthetic_hard.ORDINALS,
    frames=synthetic_hard.FRAMES,
    longest=synthetic_hard.LONG_FRAMES,
    question_types=synthetic_hard.HELD_OUT_TYPES,
    make_clip=synthetic_hard.make_clip,
    held_out=synthetic_hard.held_out_questions,
    measured=("full", "drop_all", "blind"),
    has_small_shapes=True,
    rope_theta=1e6,
    start=EMBEDDED_MODEL,
)
TASKS = {task.name: task for task in (PLAIN, HARD)}
