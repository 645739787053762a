"""Names beside the points of a plot, where they cover neither points nor each other.

Every name is tried at a few places around its point, near ones first, and stands where it overlaps
least. Points that lie on one another share a name tag: a picture can hide one of them, the tag
does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

FONT_SIZE_PT = 8.5
INK = "#20242c"
_CHARACTER_PT = 0.58 * FONT_SIZE_PT  # of a sans-serif, on average
_MARKER_PT = 6.0
_SAME_PT = 5.0  # nearer than this, one marker covers most of another

# Left, bottom, right, top, in points of the figure.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """A point to be named, in data coordinates."""

    x: float
    y: float
    name: str


def label_points(
    axes: Axes, points: Sequence[Point], covered: Sequence[tuple[float, float]]
) -> None:
    """Write the names into a plot whose limits and place in the figure are final.

    Args:
        axes: of the plot.
        points: to be named.
        covered: other marks [x, y] that names should leave free.
    """
    to_pt = 72 / axes.figure.dpi

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y))
        return across * to_pt, up * to_pt

    left, bottom, right, top = (side * to_pt for side in axes.bbox.extents)
    taken = [_around(*place(point.x, point.y)) for point in points]
    taken += [_around(*place(x, y)) for x, y in covered]
    for group in _groups([(point, place(point.x, point.y)) for point in points]):
        (x, y), text = group[0][1], ", ".join(dict.fromkeys(point.name for point, _ in group))
        width, height = _CHARACTER_PT * len(text), 1.25 * FONT_SIZE_PT
        best = min(
            _candidates(x, y, width, height),
            key=lambda box: (
                sum(_shared(box, other) for other in taken)
                + 4 * (width * height - _shared(box, (left, bottom, right, top)))
            ),
        )
        taken.append(best)
        # The width was an estimate: the side towards the point is where it was planned.
        sides = {"left": best[0] - x, "right": best[2] - x, "center": (best[0] + best[2]) / 2 - x}
        side = "left" if best[0] > x else "right" if best[2] < x else "center"
        axes.annotate(
            text,
            (group[0][0].x, group[0][0].y),
            (sides[side], (best[1] + best[3]) / 2 - y),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=FONT_SIZE_PT,
            color=INK,
            arrowprops=_line_to_the_point((x, y), best),
        ).set_in_layout(False)


def _line_to_the_point(point: tuple[float, float], box: Box) -> dict[str, Any] | None:
    """A thin line where a name had to move away from its point; none beside it."""
    gaps = [max(box[i] - point[i], point[i] - box[i + 2], 0.0) for i in (0, 1)]
    if math.hypot(*gaps) < 1.5 * _MARKER_PT:
        return None
    return {"arrowstyle": "-", "linewidth": 0.5, "color": INK, "shrinkA": 0.0, "shrinkB": 3.0}


def _groups(
    placed: Sequence[tuple[Point, tuple[float, float]]],
) -> list[list[tuple[Point, tuple[float, float]]]]:
    """Points on one another together, in the order given."""
    groups: list[list[tuple[Point, tuple[float, float]]]] = []
    for point, (x, y) in placed:
        for group in groups:
            if all(abs(x - u) < _SAME_PT and abs(y - v) < _SAME_PT for _, (u, v) in group):
                group.append((point, (x, y)))
                break
        else:
            groups.append([(point, (x, y))])
    return groups


def _around(x: float, y: float) -> Box:
    half = _MARKER_PT / 2 + 1
    return x - half, y - half, x + half, y + half


def _candidates(x: float, y: float, width: float, height: float) -> list[Box]:
    """Beside, above and below the point, then the same further away."""
    boxes = []
    for gap in (_MARKER_PT, 2.2 * _MARKER_PT, 3.6 * _MARKER_PT):
        rise = gap + height / 2
        for across, up in (
            *((gap + width / 2, 0.0), (-gap - width / 2, 0.0), (0.0, rise), (0.0, -rise)),
            *((gap + width / 2, rise), (gap + width / 2, -rise)),
            *((-gap - width / 2, rise), (-gap - width / 2, -rise)),
        ):
            left, bottom = x + across - width / 2, y + up - height / 2
            boxes.append((left, bottom, left + width, bottom + height))
    return boxes


def _shared(one: Box, other: Box) -> float:
    """Area that two boxes have in common."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    up = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, up)
