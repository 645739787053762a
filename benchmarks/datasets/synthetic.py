"""Generated clips and questions about them: accuracy can be measured with nothing downloaded.

A clip has one to three scenes with hard cuts. Each scene has a textured background of a kind of its
own, shapes that stand still and, in the longest scene, one that moves; in some frame a star
flashes in a corner. No shape and no colour comes twice in a clip, so every question has one answer,
a single word, and for most questions that answer depends on few tokens of the video. Ten types of
question are asked in fixed phrases.

Shapes stand on a 6 x 6 grid of cells of 16 pixels: where they fall between the patches of a vision
tower, a small model needs far longer to learn to see them, and seeing is not what is tested. A clip
follows from (seed, split, index) alone. The two splits draw from different random streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CELL_PX = 16
GRID = 6  # cells along one side
SIZE_PX = CELL_PX * GRID
FRAMES = 8
MAX_SCENES = 3
MAX_STILL = 6  # shapes that stand still, in all scenes together

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "bar")
FLASH_SHAPE = "star"
COLORS = {
    "red": (225, 40, 45),
    "orange": (250, 140, 20),
    "yellow": (250, 230, 60),
    "green": (45, 175, 70),
    "cyan": (75, 220, 230),
    "blue": (45, 75, 225),
    "purple": (165, 55, 195),
    "white": (252, 252, 252),
}
BACKGROUNDS = ("stripes", "checks", "dots", "clouds")
PLACES = (
    ("top-left", "top", "top-right"),
    ("left", "center", "right"),
    ("bottom-left", "bottom", "bottom-right"),
)
DIRECTIONS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
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

Split = Literal["train", "held_out"]
Cell = tuple[int, int]  # (row, column) on the grid
Frames = NDArray[np.uint8]

_SPLITS: tuple[Split, ...] = ("train", "held_out")


@dataclass(frozen=True)
class Thing:
    """A shape of a clip.

    Attributes:
        shape, color: each unique in the clip.
        role: "still", "mover" or "flash".
        scene: the scene it is in, from 0.
        cells: for each frame that shows it, where it is.
    """

    shape: str
    color: str
    role: Literal["still", "mover", "flash"]
    scene: int
    cells: dict[int, Cell]


@dataclass(frozen=True)
class Question:
    """A question whose answer is one of ``candidates``, all of them single words.

    ``about`` is the shape it asks about, None for a question about the whole clip.
    """

    type: str
    text: str
    answer: str
    candidates: tuple[str, ...]
    about: Thing | None


@dataclass(frozen=True)
class Clip:
    """A clip, the facts it was drawn from, and one question of every type it can be asked.

    Attributes:
        frames: [T, SIZE_PX, SIZE_PX, 3] uint8, RGB.
        scene_starts: first frame of each scene.
        backgrounds: kind of each scene's background, all different.
        things: the shapes.
        direction: where the mover goes; None in a clip of one frame, which has no mover.
        questions: at most one of each type, in random order.
    """

    frames: Frames
    scene_starts: tuple[int, ...]
    backgrounds: tuple[str, ...]
    things: tuple[Thing, ...]
    direction: str | None
    questions: tuple[Question, ...]

    def scene_of(self, frame: int) -> int:
        """The scene that a frame belongs to, from 0."""
        return sum(start <= frame for start in self.scene_starts) - 1


@dataclass(frozen=True)
class HeldOutQuestion:
    """One question of the held-out set, with a name that stays the same in every run."""

    id: str
    clip: Clip
    question: Question


def make_clip(split: Split, index: int, *, seed: int = 0, num_frames: int = FRAMES) -> Clip:
    """The clip that (seed, split, index, num_frames) stands for.

    Raises:
        ValueError: an unknown split, a negative index or seed, no frames.
    """
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
    numbers = {"index": (index, 0), "seed": (seed, 0), "num_frames": (num_frames, 1)}
    for name, (value, least) in numbers.items():
        if value < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {value}")
    rng = np.random.default_rng([seed, _SPLITS.index(split), index, num_frames])
    starts = _scene_starts(rng, num_frames)
    backgrounds = tuple(rng.permutation(BACKGROUNDS)[: len(starts)].tolist())
    things, direction = _things(rng, (*starts, num_frames))
    frames = _render(rng, num_frames, starts, backgrounds, things)
    questions = _questions(rng, len(starts), things, direction)
    return Clip(frames, starts, backgrounds, things, direction, questions)


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


def _things(
    rng: np.random.Generator, bounds: tuple[int, ...]
) -> tuple[tuple[Thing, ...], str | None]:
    """Mover, flash and still shapes of the scenes ``bounds[i]`` to ``bounds[i + 1]``."""
    shapes = rng.permutation(SHAPES).tolist()
    colors = rng.permutation(list(COLORS)).tolist()
    num_scenes = len(bounds) - 1
    lengths = np.diff(bounds)
    things: list[Thing] = []
    direction: str | None = None
    taken: dict[int, set[Cell]] = {scene: set(CORNERS.values()) for scene in range(num_scenes)}

    longest = int(lengths.argmax())
    if lengths[longest] > 1:
        direction = str(rng.choice(list(DIRECTIONS)))
        path = _path(rng, direction, int(lengths[longest]))
        cells = {int(bounds[longest]) + i: cell for i, cell in enumerate(path)}
        things.append(Thing(shapes.pop(), colors.pop(), "mover", longest, cells))
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
    return tuple(things), direction


def _path(rng: np.random.Generator, direction: str, length: int) -> list[Cell]:
    """A cell a frame in a straight line clear of the corners, then rest at the end of it."""
    steps = min(length - 1, int(rng.integers(2, GRID)))
    towards = np.array(DIRECTIONS[direction])
    along = int(rng.integers(GRID - steps))  # distance of the start from the edge behind it
    across = int(rng.integers(1, GRID - 1))
    start = np.where(towards == 0, across, np.where(towards > 0, along, GRID - 1 - along))
    return [(int(r), int(c)) for r, c in (start + towards * min(i, steps) for i in range(length))]


# ---- pixels


def _render(
    rng: np.random.Generator,
    num_frames: int,
    starts: tuple[int, ...],
    backgrounds: tuple[str, ...],
    things: tuple[Thing, ...],
) -> Frames:
    canvas = np.empty((num_frames, SIZE_PX, SIZE_PX, 3), dtype=np.float32)
    for start, stop, kind in zip(starts, (*starts[1:], num_frames), backgrounds, strict=True):
        canvas[start:stop] = draw_background(rng, kind)
    for thing in things:
        for frame, cell in thing.cells.items():
            draw_shape(canvas[frame], thing.shape, thing.color, cell)
    return add_noise(rng, canvas)


def draw_background(rng: np.random.Generator, kind: str) -> NDArray[np.float32]:
    """[SIZE_PX, SIZE_PX, 3]: two greyish tones in a pattern that covers the frame."""
    tone = rng.uniform(50, 120) + rng.uniform(-15, 15, size=3)
    contrast = rng.uniform(25, 45)
    pattern = _PATTERNS[kind](rng)
    return (tone + contrast * pattern[..., None]).astype(np.float32)


def draw_shape(canvas: NDArray[np.float32], shape: str, color: str, cell: Cell) -> None:
    """Paint a shape over one cell of ``canvas`` [SIZE_PX, SIZE_PX, 3]."""
    row, column = (CELL_PX * i for i in cell)
    window = canvas[row : row + CELL_PX, column : column + CELL_PX]
    window += _mask(shape)[..., None] * (np.asarray(COLORS[color], dtype=np.float32) - window)


def add_noise(rng: np.random.Generator, canvas: NDArray[np.float32]) -> Frames:
    """A camera's noise, new in every frame, and 8-bit values."""
    noise = rng.integers(-5, 6, size=canvas.shape, dtype=np.int8)
    return np.clip(np.round(canvas + noise), 0, 255).astype(np.uint8)


def _pixel_grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX]
    return y + 0.5, x + 0.5


def _stripes(rng: np.random.Generator) -> NDArray[np.float64]:
    y, x = _pixel_grid()
    slope = rng.choice([-1, 1])
    return np.sin(2 * np.pi * (x + slope * y + rng.uniform(0, 8)) / 8)


def _checks(rng: np.random.Generator) -> NDArray[np.float64]:
    y, x = _pixel_grid()
    dy, dx = rng.integers(0, 8, size=2)
    return np.where(((y + dy) // 4 + (x + dx) // 4) % 2 > 0, 1.0, -1.0)


def _dots(rng: np.random.Generator) -> NDArray[np.float64]:
    y, x = _pixel_grid()
    dy, dx = rng.uniform(0, 8, size=2)
    return np.where(((y + dy) % 8 - 4) ** 2 + ((x + dx) % 8 - 4) ** 2 < 5, 1.0, -0.5)


def _clouds(rng: np.random.Generator) -> NDArray[np.float64]:
    """Random values at every eighth pixel, with straight lines between them."""
    coarse = rng.uniform(-1, 1, size=(SIZE_PX // 8 + 1,) * 2)
    at, knots = np.arange(SIZE_PX), np.arange(0, SIZE_PX + 1, 8)
    rows = np.stack([np.interp(at, knots, line) for line in coarse])
    return np.stack([np.interp(at, knots, line) for line in rows.T], axis=1)


_PATTERNS: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "clouds": _clouds,
}

# Whether a point belongs to a shape; y points down, and the cell reaches from -1 to 1.
_INSIDE: dict[str, Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]] = {
    "circle": lambda y, x: x**2 + y**2 < 0.8**2,
    "square": lambda y, x: np.maximum(abs(x), abs(y)) < 0.75,
    "triangle": lambda y, x: (y < 0.75) & (y > 1.8 * abs(x) - 0.85),
    "diamond": lambda y, x: abs(x) + abs(y) < 0.95,
    "cross": lambda y, x: (np.minimum(abs(x), abs(y)) < 0.25) & (np.maximum(abs(x), abs(y)) < 0.9),
    "ring": lambda y, x: (x**2 + y**2 < 0.9**2) & (x**2 + y**2 > 0.5**2),
    "bar": lambda y, x: (abs(x) < 0.95) & (abs(y) < 0.35),
    "star": lambda y, x: abs(x) ** 0.6 + abs(y) ** 0.6 < 1,
}


@cache
def _mask(shape: str) -> NDArray[np.float32]:
    """[CELL_PX, CELL_PX]: how much of each pixel the shape covers."""
    fine = 8  # samples along a pixel's side
    points = (np.arange(CELL_PX * fine) + 0.5) / (CELL_PX * fine / 2) - 1
    y, x = np.meshgrid(points, points, indexing="ij")
    inside = _INSIDE[shape](y, x).reshape(CELL_PX, fine, CELL_PX, fine)
    return inside.mean(axis=(1, 3)).astype(np.float32)


# ---- questions


def _questions(
    rng: np.random.Generator, num_scenes: int, things: tuple[Thing, ...], direction: str | None
) -> tuple[Question, ...]:
    """One question of each type that the clip can answer, about shapes chosen at random."""
    still = [thing for thing in things if thing.role == "still"]
    mover = next((thing for thing in things if thing.role == "mover"), None)
    flash = next(thing for thing in things if thing.role == "flash")
    one, other, third, fourth = (still[i] for i in rng.integers(len(still), size=4))
    all_places = tuple(place for row in PLACES for place in row)
    colors = tuple(COLORS)

    asked = [
        Question("color", f"What color is the {one.shape}?", one.color, colors, one),
        Question("shape", f"What shape is {other.color}?", other.shape, SHAPES, other),
        Question(
            "location",
            f"Where is the {third.color} {third.shape}?",
            _place(next(iter(third.cells.values()))),
            all_places,
            third,
        ),
        Question("scenes", "How many scenes are there?", NUMBERS[num_scenes - 1], NUMBERS, None),
        Question("flash_color", "What color is the flashing star?", flash.color, colors, flash),
        Question(
            "flash_corner",
            "Which corner has the flashing star?",
            _place(next(iter(flash.cells.values()))),
            tuple(CORNERS),
            flash,
        ),
    ]
    if num_scenes > 1:
        text = f"Which scene shows the {fourth.color} {fourth.shape}?"
        asked.append(Question("when", text, ORDINALS[fourth.scene], ORDINALS, fourth))
    if mover is not None and direction is not None:
        text = "Which way does the moving shape go?"
        asked += [
            Question("direction", text, direction, tuple(DIRECTIONS), mover),
            Question("mover_color", "What color is the moving shape?", mover.color, colors, mover),
            Question("mover_shape", "What shape is moving?", mover.shape, SHAPES, mover),
        ]
    return tuple(asked[i] for i in rng.permutation(len(asked)))


def _place(cell: Cell) -> str:
    """The name of a cell's ninth of the frame."""
    return PLACES[cell[0] * 3 // GRID][cell[1] * 3 // GRID]
