"""The clip that ``prunevid run`` shows when it is given no video: generated, so that it is ours.

Eight seconds in four scenes with hard cuts, each a textured background that stands still, shapes
that stand still and shapes that move; in the second scene a star flashes for half a second. That
is everything the method tells apart: cuts (segments), things that stay (static tokens) and things
that move (dynamic tokens). Shapes are drawn from signed distances, so their edges are smooth, and
all randomness comes from fixed seeds. ``data/sample.mp4`` was written by

    python -m prunevid_kernels.benchmarks.embedded.sample_clip benchmarks/embedded/data/sample.mp4
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE_PX = 384
FPS = 24
SCENE_S = 2.0  # each scene; 16 sampled frames are 4 of each
FLASH_S = (1.0, 1.5)  # when the star shows, in seconds of the second scene
SAMPLE_CLIP = Path(__file__).parent / "data" / "sample.mp4"
SAMPLE_QUESTION = "Where does the red circle go?"

Canvas = NDArray[np.float32]  # [SIZE_PX, SIZE_PX, 3], RGB in [0, 1]
Color = tuple[float, float, float]
Draw = Callable[[Canvas, float], None]

RED: Color = (0.87, 0.20, 0.18)
BLUE: Color = (0.16, 0.36, 0.78)
YELLOW: Color = (0.98, 0.80, 0.22)
GREEN: Color = (0.22, 0.66, 0.40)
PURPLE: Color = (0.52, 0.30, 0.66)
CYAN: Color = (0.25, 0.80, 0.88)
WHITE: Color = (1.0, 0.99, 0.94)


def frames() -> Iterator[NDArray[np.uint8]]:
    """The clip's frames in order: [SIZE_PX, SIZE_PX, 3] uint8, RGB."""
    for scene in (_meadow, _bricks, _night, _beach):
        background, draw = scene()
        for index in range(round(SCENE_S * FPS)):
            canvas = background.copy()
            draw(canvas, index / FPS)
            yield np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def write_clip(path: Path) -> None:
    """Encode the clip as H.264 (needs PyAV, which has an encoder; decord has none)."""
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "threads": "1"})
        stream.width = stream.height = SIZE_PX
        stream.pix_fmt = "yuv420p"
        for frame in frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


# ---- scenes: a background, and what is drawn on it at a time of the scene


def _meadow() -> tuple[Canvas, Draw]:
    """A red circle rolls from left to right past a blue square."""
    texture = _clouds(seed=1)[..., None]
    grass = _mix((0.42, 0.62, 0.32), (0.66, 0.78, 0.46), texture)
    sky = _mix((0.62, 0.80, 0.92), (0.86, 0.93, 0.96), _clouds(seed=2)[..., None])
    is_sky = _rows() < 0.40 + 0.05 * np.sin(_columns() * 5)
    background = np.where(is_sky[..., None], sky, grass)
    _paint(background, _square(0.72, 0.30, 0.085), BLUE)

    def draw(canvas: Canvas, time_s: float) -> None:
        done = time_s / SCENE_S
        _paint(canvas, _circle(0.14 + 0.70 * done, 0.68, 0.095), RED)

    return background.astype(np.float32), draw


def _bricks() -> tuple[Canvas, Draw]:
    """A cyan triangle bounces in front of a wall; a star flashes in the corner."""
    course = np.floor(_rows() * 12)
    joint_x = np.abs((_columns() * 6 + 0.5 * (course % 2)) % 1 - 0.5) > 0.47
    joint_y = np.abs((_rows() * 12) % 1 - 0.5) > 0.44
    shade = 0.6 * _clouds(seed=3) + 0.4 * _clouds(seed=4, cells=48)
    wall = _mix((0.66, 0.42, 0.32), (0.84, 0.62, 0.48), shade[..., None])
    joints = np.asarray((0.80, 0.60, 0.48))
    background = np.where((joint_x | joint_y)[..., None], joints, wall)
    _paint(background, _circle(0.24, 0.76, 0.09), PURPLE)

    def draw(canvas: Canvas, time_s: float) -> None:
        done = time_s / SCENE_S
        height = abs(np.sin(done * 1.6 * np.pi + 0.2))
        _paint(canvas, _polygon(0.40 + 0.44 * done, 0.72 - 0.38 * height, 0.12, 3), CYAN)
        if FLASH_S[0] <= time_s < FLASH_S[1]:
            _paint(canvas, _star(0.84, 0.17, 0.11), WHITE)

    return background.astype(np.float32), draw


def _night() -> tuple[Canvas, Draw]:
    """The red circle is back and sinks; a green hexagon stays."""
    glow = 0.8 * _rows() + 0.2 * _clouds(seed=5)
    sky = _mix((0.07, 0.09, 0.22), (0.24, 0.24, 0.46), glow[..., None])
    stars = np.random.default_rng(6)
    background = sky.astype(np.float32)
    for _ in range(60):
        x, y = stars.uniform(0, 1, 2)
        _paint(background, _circle(x, y * 0.75, stars.uniform(0.002, 0.005)), WHITE)
    hill = 0.80 + 0.06 * np.sin(_columns() * 7) < _rows()
    ground = _mix((0.10, 0.20, 0.20), (0.18, 0.32, 0.28), _clouds(seed=7)[..., None])
    background = np.where(hill[..., None], ground, background)
    _paint(background, _polygon(0.74, 0.62, 0.11, 6), GREEN)

    def draw(canvas: Canvas, time_s: float) -> None:
        done = time_s / SCENE_S
        _paint(canvas, _circle(0.28 + 0.10 * done, 0.14 + 0.56 * done, 0.095), RED)

    return background.astype(np.float32), draw


def _beach() -> tuple[Canvas, Draw]:
    """A white sail crosses the sea from right to left under a sun that stays."""
    sky = _mix((0.98, 0.78, 0.55), (0.99, 0.90, 0.74), _clouds(seed=8)[..., None])
    waves = 0.6 * _clouds(seed=9) + 0.2 + 0.2 * np.sin(_rows() * 90 + 3 * _clouds(seed=10))
    sea = _mix((0.05, 0.42, 0.55), (0.26, 0.66, 0.72), waves[..., None])
    sand = _mix((0.86, 0.74, 0.52), (0.96, 0.88, 0.70), _clouds(seed=11, cells=40)[..., None])
    background = np.where((_rows() < 0.38)[..., None], sky, sea)
    shore = _rows() > 0.84 - 0.04 * np.sin(_columns() * 4)
    background = np.where(shore[..., None], sand, background)
    _paint(background, _circle(0.20, 0.19, 0.09), YELLOW)

    def draw(canvas: Canvas, time_s: float) -> None:
        done = time_s / SCENE_S
        _paint(canvas, _polygon(0.88 - 0.70 * done, 0.56, 0.13, 3), WHITE)

    return background.astype(np.float32), draw


# ---- drawing: coordinates and radii are shares of the frame's side


@cache
def _rows() -> NDArray[np.floating]:
    return (np.mgrid[0:SIZE_PX, 0:SIZE_PX][0] / SIZE_PX).astype(np.float32)


@cache
def _columns() -> NDArray[np.floating]:
    return (np.mgrid[0:SIZE_PX, 0:SIZE_PX][1] / SIZE_PX).astype(np.float32)


def _clouds(seed: int, cells: int = 12) -> NDArray[np.floating]:
    """Smooth noise in [0, 1]: random values on grids of ``cells``, twice and four times as many."""
    random = np.random.default_rng(seed)
    total = np.zeros((SIZE_PX, SIZE_PX))
    for octave in range(3):
        side = cells << octave
        grid = random.random((side + 1, side + 1))
        position = np.arange(SIZE_PX) / SIZE_PX * side
        cell = position.astype(int)
        weight = position - cell
        weight = weight * weight * (3 - 2 * weight)
        rows = grid[cell] * (1 - weight)[:, None] + grid[cell + 1] * weight[:, None]
        total += (rows[:, cell] * (1 - weight) + rows[:, cell + 1] * weight) * 0.5**octave
    return (total - total.min()) / (total.max() - total.min())


def _mix(low: Color, high: Color, amount: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(low) * (1 - amount) + np.asarray(high) * amount


def _paint(canvas: NDArray[Any], distance: NDArray[np.floating], color: Color) -> None:
    """Fill where the signed distance is negative, one pixel of smooth edge; a thin dark outline."""
    distance_px = distance * SIZE_PX
    fill = np.asarray(color, dtype=np.float32)
    for grow_px, paint in ((2.0, 0.45 * fill), (0.0, fill)):
        inside = distance_px < grow_px + 0.5
        cover = np.minimum(0.5 + grow_px - distance_px[inside], 1)[:, None]
        canvas[inside] += (paint - canvas[inside]) * cover


def _circle(x: float, y: float, radius: float) -> NDArray[np.floating]:
    return np.hypot(_columns() - x, _rows() - y) - radius


def _square(x: float, y: float, radius: float) -> NDArray[np.floating]:
    return np.maximum(np.abs(_columns() - x), np.abs(_rows() - y)) - radius


def _polygon(x: float, y: float, radius: float, sides: int) -> NDArray[np.floating]:
    """A regular polygon with one corner on top: the farthest of its sides' half planes."""
    angles = np.pi / 2 + np.pi / sides + 2 * np.pi * np.arange(sides) / sides
    planes = [
        (_columns() - x) * np.cos(a) - (_rows() - y) * np.sin(a) - radius * np.cos(np.pi / sides)
        for a in angles
    ]
    return np.maximum.reduce(planes)


def _star(x: float, y: float, radius: float) -> NDArray[np.floating]:
    """Five points, one on top: every direction is folded onto the edge from a tip to a notch."""
    fold = 2 * np.pi / 5
    angle = np.arctan2(_columns() - x, y - _rows())
    angle = np.abs((angle + fold / 2) % fold - fold / 2)
    from_center = np.hypot(_columns() - x, _rows() - y)
    notch = 0.42 * radius
    edge = np.array([notch * np.cos(fold / 2) - radius, notch * np.sin(fold / 2)])
    outward = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (from_center * np.cos(angle) - radius) * outward[0] + (
        from_center * np.sin(angle) * outward[1]
    )


if __name__ == "__main__":
    write_clip(Path(sys.argv[1]))
