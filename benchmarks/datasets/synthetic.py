"""Generated clips and questions about them: accuracy can be measured with nothing downloaded.

A clip has one to three scenes with hard cuts. Each scene has a textured background of a kind of its
own, shapes that stand still and, in the longest scene, one that moves; in some frame a star
flashes in a corner. No shape and no colour comes twice in a clip, so every question has one answer,
a single word, and for most questions that answer depends on few tokens of the video. Ten types of
question are asked in fixed phrases.

A clip follows from (seed, split, index) alone. The two splits draw from different random streams.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .clips import Clip, HeldOutQuestion, Question, Split, Thing, clip_stream, render
from .drawing import (
    BACKGROUNDS,
    DIRECTIONS,
    FLASH_SHAPE,
    GRID,
    PALETTE,
    PLACES,
    SHAPES,
    Cell,
    place_of,
)

FRAMES = 8
MAX_SCENES = 3
MAX_STILL = 6  # shapes that stand still, in all scenes together

COLORS = dict(list(PALETTE.items())[:8])
ORDINALS = ("first", "second", "third")
NUMBERS = ("one", "two", "three")
CORNERS = {
    "top-left": (0, 0),
    "top-right": (0, GRID - 1),
    "bottom-left": (GRID - 1, 0),
    "bottom-right": (GRID - 1, GRID - 1),
}

QUESTION_TYPES = (
    "color",
    "direction",
    "flash_color",
    "scenes",
    "location",
    "mover_color",
    "shape",
    "flash_corner",
    "when",
    "mover_shape",
)
QUESTIONS_PER_CLIP = 5  # in the held-out set


def make_clip(split: Split, index: int, *, seed: int = 0, num_frames: int = FRAMES) -> Clip:
    """The clip that (seed, split, index, num_frames) stands for.

    Raises:
        ValueError: an unknown split, a negative index or seed, no frames.
    """
    rng = clip_stream(split, index, seed, num_frames)
    starts = _scene_starts(rng, num_frames)
    backgrounds = tuple(rng.permutation(BACKGROUNDS)[: len(starts)].tolist())
    things = _things(rng, (*starts, num_frames))
    frames = render(rng, num_frames, starts, backgrounds, things)
    questions = _questions(rng, len(starts), things)
    return Clip(frames, starts, backgrounds, things, questions)


def held_out_questions(count: int, *, seed: int = 0) -> Iterator[HeldOutQuestion]:
    """The first ``count`` questions of the held-out set, always the same and in the same order.

    Five questions a clip, half of the types in turn; all ten types come about equally often.

    Raises:
        ValueError: ``count`` below 1.
    """
    if count < 1:
        raise ValueError(f"count must be an integer >= 1, got {count}")
    done, index = 0, 0
    while done < count:
        clip = make_clip("held_out", index, seed=seed)
        by_type = {question.type: question for question in clip.questions}
        first = (index % 2) * QUESTIONS_PER_CLIP
        for kind in QUESTION_TYPES[first : first + QUESTIONS_PER_CLIP]:
            if kind in by_type and done < count:
                yield HeldOutQuestion(f"{index:05d}-{kind}", clip, by_type[kind])
                done += 1
        index += 1


# ---- what happens in a clip


def _scene_starts(rng: np.random.Generator, num_frames: int) -> tuple[int, ...]:
    """At most three scenes of two frames or more."""
    count = int(rng.integers(1, max(1, min(MAX_SCENES, num_frames // 2)) + 1))
    # Frames beyond two for each scene are dealt out at random.
    spare = num_frames - 2 * count
    cuts = np.sort(rng.integers(0, spare + 1, size=count - 1))
    return (0, *(int(cut) + 2 * (i + 1) for i, cut in enumerate(cuts)))


def _things(rng: np.random.Generator, bounds: tuple[int, ...]) -> tuple[Thing, ...]:
    """Mover, flash and still shapes of the scenes ``bounds[i]`` to ``bounds[i + 1]``."""
    shapes = rng.permutation(SHAPES).tolist()
    colors = rng.permutation(list(COLORS)).tolist()
    num_scenes = len(bounds) - 1
    lengths = np.diff(bounds)
    things: list[Thing] = []
    taken: dict[int, set[Cell]] = {scene: set(CORNERS.values()) for scene in range(num_scenes)}

    longest = int(lengths.argmax())
    if lengths[longest] > 1:
        direction = str(rng.choice(list(DIRECTIONS)))
        path = _path(rng, direction, int(lengths[longest]))
        cells = {int(bounds[longest]) + i: cell for i, cell in enumerate(path)}
        things.append(Thing(shapes.pop(), colors.pop(), "mover", longest, cells, direction))
        taken[longest].update(path)

    flash_frame = int(rng.integers(bounds[-1]))
    corner = CORNERS[str(rng.choice(list(CORNERS)))]
    flash_scene = sum(start <= flash_frame for start in bounds[:-1]) - 1
    things.append(Thing(FLASH_SHAPE, colors.pop(), "flash", flash_scene, {flash_frame: corner}))

    for scene in range(num_scenes):
        for _ in range(rng.integers(1, MAX_STILL // num_scenes + 1)):
            free = [c for c in np.ndindex(GRID, GRID) if c not in taken[scene]]
            cell = free[rng.integers(len(free))]
            taken[scene].add(cell)
            cells = dict.fromkeys(range(bounds[scene], bounds[scene + 1]), cell)
            things.append(Thing(shapes.pop(), colors.pop(), "still", scene, cells))
    return tuple(things)


def _path(rng: np.random.Generator, direction: str, length: int) -> list[Cell]:
    """A cell a frame in a straight line clear of the corners, then rest at the end of it."""
    steps = min(length - 1, int(rng.integers(2, GRID)))
    towards = np.array(DIRECTIONS[direction])
    along = int(rng.integers(GRID - steps))  # distance of the start from the edge behind it
    across = int(rng.integers(1, GRID - 1))
    start = np.where(towards == 0, across, np.where(towards > 0, along, GRID - 1 - along))
    return [(int(r), int(c)) for r, c in (start + towards * min(i, steps) for i in range(length))]


# ---- questions


def _questions(
    rng: np.random.Generator, num_scenes: int, things: tuple[Thing, ...]
) -> tuple[Question, ...]:
    """One question of each type that the clip can answer, about shapes chosen at random."""
    still = [thing for thing in things if thing.role == "still"]
    mover = next((thing for thing in things if thing.role == "mover"), None)
    flash = next(thing for thing in things if thing.role == "flash")
    one, other, third, fourth = (still[i] for i in rng.integers(len(still), size=4))
    colors = tuple(COLORS)
    all_places = tuple(place for row in PLACES for place in row)

    asked = [
        Question("color", f"What color is the {one.shape}?", one.color, colors, one),
        Question("shape", f"What shape is {other.color}?", other.shape, SHAPES, other),
        Question(
            "location",
            f"Where is the {third.color} {third.shape}?",
            place_of(next(iter(third.cells.values()))),
            all_places,
            third,
        ),
        Question("scenes", "How many scenes are there?", NUMBERS[num_scenes - 1], NUMBERS, None),
        Question("flash_color", "What color is the flashing star?", flash.color, colors, flash),
        Question(
            "flash_corner",
            "Which corner has the flashing star?",
            place_of(next(iter(flash.cells.values()))),
            tuple(CORNERS),
            flash,
        ),
    ]
    if num_scenes > 1:
        text = f"Which scene shows the {fourth.color} {fourth.shape}?"
        asked.append(Question("when", text, ORDINALS[fourth.scene], ORDINALS, fourth))
    if mover is not None and mover.direction is not None:
        text = "Which way does the moving shape go?"
        asked += [
            Question("direction", text, mover.direction, tuple(DIRECTIONS), mover),
            Question("mover_color", "What color is the moving shape?", mover.color, colors, mover),
            Question("mover_shape", "What shape is moving?", mover.shape, SHAPES, mover),
        ]
    return tuple(asked[i] for i in rng.permutation(len(asked)))
