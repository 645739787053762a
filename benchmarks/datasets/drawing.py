"""What generated clips are drawn with: textured backgrounds, shapes in cells of a grid, noise.

Shapes stand on a 6 x 6 grid of cells of 16 pixels; a small one fills a quarter of its cell. Where
shapes fall between the patches of a vision tower, a small model needs far longer to learn to see
them, and seeing is not what is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

CELL_PX = 16
GRID = 6  # cells along one side
SIZE_PX = CELL_PX * GRID

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "bar")
FLASH_SHAPE = "star"
PALETTE = {
    "red": (225, 40, 45),
    "orange": (250, 140, 20),
    "yellow": (250, 230, 60),
    "green": (45, 175, 70),
    "cyan": (75, 220, 230),
    "blue": (45, 75, 225),
    "purple": (165, 55, 195),
    "white": (252, 252, 252),
    "pink": (255, 140, 190),
    "brown": (130, 75, 25),
    "lime": (165, 240, 30),
}
SMALL_SHARE = 0.5  # of shapes, where some are small
BACKGROUNDS = ("stripes", "checks", "dots", "clouds")
PLACES = (
    ("top-left", "top", "top-right"),
    ("left", "center", "right"),
    ("bottom-left", "bottom", "bottom-right"),
)
DIRECTIONS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}

Cell = tuple[int, int]  # (row, column) on the grid
Frames = NDArray[np.uint8]


def place_of(cell: Cell) -> str:
    """The name of a cell's ninth of the frame."""
    return PLACES[cell[0] * 3 // GRID][cell[1] * 3 // GRID]


def random_quarter(rng: np.random.Generator) -> Cell | None:
    """A quarter of a cell for a small shape; None: it fills the cell."""
    row, column = (int(i) for i in rng.integers(2, size=2))
    return (row, column) if rng.random() < SMALL_SHARE else None


def draw_background(rng: np.random.Generator, kind: str) -> NDArray[np.float32]:
    """[SIZE_PX, SIZE_PX, 3]: two greyish tones in a pattern that covers the frame."""
    tone = rng.uniform(50, 120) + rng.uniform(-15, 15, size=3)
    contrast = rng.uniform(25, 45)
    pattern = _PATTERNS[kind](rng)
    return (tone + contrast * pattern[..., None]).astype(np.float32)


def draw_shape(
    canvas: NDArray[np.float32], shape: str, color: str, cell: Cell, quarter: Cell | None = None
) -> None:
    """Paint a shape over one cell of ``canvas`` [SIZE_PX, SIZE_PX, 3], or over a quarter of it,
    which (0, 0) to (1, 1) name."""
    row, column = (CELL_PX * i for i in cell)
    side = CELL_PX
    if quarter is not None:
        side = CELL_PX // 2
        row, column = row + side * quarter[0], column + side * quarter[1]
    window = canvas[row : row + side, column : column + side]
    paint = np.asarray(PALETTE[color], dtype=np.float32)
    window += _mask(shape, side)[..., None] * (paint - window)


def add_noise(rng: np.random.Generator, canvas: NDArray[np.float32]) -> Frames:
    """A camera's noise, new in every frame, and 8-bit values."""
    noise = rng.integers(-5, 6, size=canvas.shape, dtype=np.int8)
    levels = canvas + noise
    np.round(levels, out=levels)
    return np.clip(levels, 0, 255, out=levels).astype(np.uint8)


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
def _mask(shape: str, side: int) -> NDArray[np.float32]:
    """[side, side]: how much of each pixel the shape covers."""
    fine = 8  # samples along a pixel's side
    points = (np.arange(side * fine) + 0.5) / (side * fine / 2) - 1
    y, x = np.meshgrid(points, points, indexing="ij")
    inside = _INSIDE[shape](y, x).reshape(side, fine, side, fine)
    return inside.mean(axis=(1, 3)).astype(np.float32)
