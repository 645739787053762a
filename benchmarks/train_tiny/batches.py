"""What a training step sees: generated clips as tensors, several questions on one video at a time.

All questions of a clip share one visual prefix: the sequence is the video, then each question with
its answer, and the attention mask lets a question see the video and itself only. Positions go on
from the video for every question. So each question gets exactly what it would get alone, at a
fraction of the work.

In some clips the positions of the visual tokens advance by less than one a token, at a random rate
that changes from frame to frame, because merging renumbers what it leaves; a model that has seen
one numbering only is brittle to that. Where the longest clips of a task are rare in training, some
shorter ones have positions that advance by more than one a token. Nothing else of pruning is seen
in training: every token of every frame is there with its own content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..datasets import drawing
from ..datasets.clips import Clip, Question
from .model import TOKENS_PER_FRAME
from .tasks import PLAIN, Task

IGNORE = -100  # the label that cross entropy leaves out
MAX_QUESTIONS = 8  # of a clip
COMPRESSED_SHARE = 0.5
SLOWEST_RATE = 0.1  # positions per visual token in a compressed frame

KINDS = (*drawing.SHAPES, drawing.FLASH_SHAPE, *drawing.BACKGROUNDS)
PROMPT = "<|im_start|>user\n"
_MOTIONS = ("none", *drawing.DIRECTIONS)


@dataclass(frozen=True)
class ShownClips:
    """B clips of T frames and what each of their V = T * 36 visual tokens shows.

    Attributes:
        pixels: [B, T, 3, H, W] float32 in [-1, 1].
        positions: [B, V] position of every visual token, from 0 on.
        motion: [B, V] int64, direction of what moves there, 0 where nothing does; IGNORE where a
            mover begins, since nobody can tell yet.
        scene: [B, V] int64, number of the scene.
    """

    pixels: Tensor
    positions: Tensor
    motion: Tensor
    scene: Tensor

    def to(self, device: str) -> ShownClips:
        return ShownClips(*(tensor.to(device) for tensor in vars(self).values()))


@dataclass(frozen=True)
class Batch:
    """B clips with Q questions on each; S tokens in all, V of them visual.

    Attributes:
        shown: the clips.
        prefix_ids: [P] ids before the video.
        question_ids: [B, Q, L] ids of question, answer and end, padded on the right.
        labels: [B, Q, L] the id to be said next, IGNORE where nothing is asked for.
        noun: [B, Q] where in a question its last word is.
        kind, color: [B, Q] index in KINDS and in ``drawing.PALETTE`` of the shape that a question
            is about; IGNORE for questions about the whole clip.
        positions: [B, S] position of every token.
        may_attend: [1, 1, S, S] bool, query by key.
    """

    shown: ShownClips
    prefix_ids: Tensor
    question_ids: Tensor
    labels: Tensor
    noun: Tensor
    kind: Tensor
    color: Tensor
    positions: Tensor
    may_attend: Tensor

    def to(self, device: str) -> Batch:
        return Batch(*(part.to(device) for part in vars(self).values()))


def show_clips(
    clips: list[Clip], rng: np.random.Generator, longest: int | None = None
) -> ShownClips:
    """Clips of equal length as tensors, some of them with compressed positions.

    ``longest``: frames of the longest clips; the positions of some shorter ones are stretched, to
    cover up to as many. None: of none.
    """
    positions = [_visual_positions(rng, len(clip.frames), longest) for clip in clips]
    return ShownClips(
        pixels=to_pixels(np.stack([clip.frames for clip in clips])),
        positions=torch.from_numpy(np.stack(positions)),
        motion=torch.from_numpy(np.stack([_motion_labels(clip) for clip in clips])),
        scene=torch.from_numpy(np.stack([_scene_labels(clip) for clip in clips])),
    )


def clip_batch(
    tokenizer: Any,
    clips: list[Clip],
    rng: np.random.Generator,
    *,
    most_questions: int = MAX_QUESTIONS,
    longest_clip: int | None = None,
) -> Batch:
    """Clips of equal length with questions on each; see :func:`show_clips` for ``longest_clip``."""
    shown = show_clips(clips, rng, longest_clip)
    num_questions = min(most_questions, *(len(clip.questions) for clip in clips))
    questions = [q for clip in clips for q in clip.questions[:num_questions]]
    rows = [encode_question(tokenizer, question) for question in questions]
    shape = (len(clips), num_questions)
    longest = max(len(ids) for ids, _ in rows)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [IGNORE] * (longest - len(labels)) for _, labels in rows])
    prefix = torch.tensor(tokenizer(PROMPT, add_special_tokens=False).input_ids)

    visual = len(prefix) + shown.positions
    newline = visual[:, -1:] + 1
    asked = (newline + 1 + torch.arange(longest)).repeat(1, num_questions)  # [B, Q * L]
    before = torch.arange(len(prefix)).expand(len(clips), -1)
    return Batch(
        shown=shown,
        prefix_ids=prefix,
        question_ids=ids.view(*shape, longest),
        labels=labels.view(*shape, longest),
        # Behind it come the question mark, three tokens of the prompt and the answer.
        noun=torch.tensor([len(ids) - 6 for ids, _ in rows]).view(shape),
        kind=torch.tensor([_kind_of(question) for question in questions]).view(shape),
        color=torch.tensor([_color_of(question) for question in questions]).view(shape),
        positions=torch.cat([before, visual, newline, asked], dim=1),
        may_attend=shared_prefix_mask(len(prefix) + visual.shape[1] + 1, num_questions, longest),
    )


def to_pixels(frames: drawing.Frames) -> Tensor:
    """[..., H, W, 3] uint8 to [..., 3, H, W] float32 in [-1, 1]."""
    return torch.from_numpy(frames).movedim(-1, -3).float() / 127.5 - 1


@dataclass(frozen=True)
class DenseFrames:
    """B frames with shapes in many of their 36 cells, and what every cell shows.

    Attributes:
        pixels: [B, 1, 3, H, W] float32 in [-1, 1].
        thinned: the same frames without some of their shapes, and with other noise.
        kind: [B, 36] index in KINDS: the shape, or the background where there is none.
        color: [B, 36] index in ``drawing.PALETTE``; IGNORE where there is no shape.
        is_removed: [B, 36] bool, where a shape is in ``pixels`` and not in ``thinned``.
    """

    pixels: Tensor
    thinned: Tensor
    kind: Tensor
    color: Tensor
    is_removed: Tensor

    def to(self, device: str) -> DenseFrames:
        return DenseFrames(*(tensor.to(device) for tensor in vars(self).values()))


def dense_frames(count: int, rng: np.random.Generator, task: Task = PLAIN) -> DenseFrames:
    """Frames with shapes in a random share of their cells, drawn independently of each other."""
    shapes = (*drawing.SHAPES, drawing.FLASH_SHAPE)
    colors = task.colors
    frames, thinned, kinds, tints, removed = [], [], [], [], []
    for _ in range(count):
        background = str(rng.choice(drawing.BACKGROUNDS))
        canvas = drawing.draw_background(rng, background)
        thin_canvas = canvas.copy()
        kind = np.full((drawing.GRID, drawing.GRID), KINDS.index(background))
        tint = np.full(kind.shape, IGNORE)
        # From nearly empty, as the frames of clips are, to more than half full.
        densest = 0.6
        if task.has_small_shapes and rng.random() < 0.5:
            densest = 0.15  # as many as in the frames of clips
        has_shape = rng.random(kind.shape) < rng.uniform(0.02, densest)
        is_removed = has_shape & (rng.random(kind.shape) < rng.random())
        for row, column in np.argwhere(has_shape):
            shape, color = int(rng.integers(len(shapes))), int(rng.integers(len(colors)))
            cell = (int(row), int(column))
            quarter = drawing.random_quarter(rng) if task.has_small_shapes else None
            drawing.draw_shape(canvas, shapes[shape], colors[color], cell, quarter)
            if not is_removed[cell]:
                drawing.draw_shape(thin_canvas, shapes[shape], colors[color], cell, quarter)
            kind[cell], tint[cell] = KINDS.index(shapes[shape]), color
        frames.append(drawing.add_noise(rng, canvas)[None])
        thinned.append(drawing.add_noise(rng, thin_canvas)[None])
        kinds.append(kind.ravel())
        tints.append(tint.ravel())
        removed.append(is_removed.ravel())
    return DenseFrames(
        to_pixels(np.stack(frames)),
        to_pixels(np.stack(thinned)),
        torch.from_numpy(np.stack(kinds)),
        torch.from_numpy(np.stack(tints)),
        torch.from_numpy(np.stack(removed)),
    )


def encode_question(tokenizer: Any, question: Question) -> tuple[list[int], list[int]]:
    """Ids of one question with its answer, and the labels: only the answer and its end count."""
    text = f"\n{question.text}<|im_end|>\n<|im_start|>assistant\n{question.answer}<|im_end|>"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return ids[:-1], [IGNORE] * (len(ids) - 3) + ids[-2:]


def _kind_of(question: Question) -> int:
    return IGNORE if question.about is None else KINDS.index(question.about.shape)


def _color_of(question: Question) -> int:
    colors = tuple(drawing.PALETTE)
    return IGNORE if question.about is None else colors.index(question.about.color)


def _visual_positions(rng: np.random.Generator, num_frames: int, longest: int | None) -> np.ndarray:
    """[V] int64 from 0 on, never descending."""
    if rng.random() >= COMPRESSED_SHARE:
        return np.arange(num_frames * TOKENS_PER_FRAME)
    if longest is not None and num_frames < longest and rng.random() < 0.5:
        rates = np.full(num_frames * TOKENS_PER_FRAME, rng.uniform(1, longest / num_frames))
    else:
        rates = rng.uniform(SLOWEST_RATE, 1, size=num_frames).repeat(TOKENS_PER_FRAME)
    whole = np.floor(rates)
    steps = whole + (rng.random(rates.shape) < rates - whole)
    return np.cumsum(steps.astype(np.int64))


def shared_prefix_mask(num_prefix: int, num_questions: int, longest: int) -> Tensor:
    """[1, 1, S, S]: causal, and no question sees another one."""
    question = torch.arange(num_questions).repeat_interleave(longest)
    owner = torch.cat([torch.full((num_prefix,), -1), question])  # -1: shared by all
    allowed = (owner[None, :] == -1) | (owner[:, None] == owner[None, :])
    return (allowed & torch.ones_like(allowed).tril())[None, None]


def _motion_labels(clip: Clip) -> np.ndarray:
    """[V]"""
    labels = np.zeros((len(clip.frames), drawing.GRID, drawing.GRID), dtype=np.int64)
    for thing in clip.things:
        if thing.role == "mover" and thing.direction is not None:
            start = thing.cells[min(thing.cells)]
            for frame, cell in thing.cells.items():
                # It begins where it waits, and nothing tells where it will go.
                seen = IGNORE if cell == start else _MOTIONS.index(thing.direction)
                labels[frame][cell] = seen
    return labels.ravel()


def _scene_labels(clip: Clip) -> np.ndarray:
    """[V]"""
    return np.repeat([clip.scene_of(t) for t in range(len(clip.frames))], TOKENS_PER_FRAME)
