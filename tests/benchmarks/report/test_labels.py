"""Names beside points: all of them, beside the right one, and readable."""

from __future__ import annotations

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from prunevid_kernels.benchmarks.report.labels import Point, label_points

pytestmark = pytest.mark.one_version


def named(points: list[Point]) -> tuple[dict[str, tuple[float, float]], list]:
    """What is written, where its point is, and the boxes of the texts."""
    figure = Figure(figsize=(6, 4), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xlim(0, 1.06)
    axes.set_ylim(0, 100)
    axes.plot([p.x for p in points], [p.y for p in points], "o")
    figure.draw_without_rendering()
    label_points(axes, points, [])
    canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    inside = axes.get_window_extent()
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)
    return {text.get_text(): text.xy for text in axes.texts}, boxes


def test_points_on_one_another_share_a_name_tag():
    points = [Point(1.0, 98.5, "full"), Point(0.5, 80, "fastv"), Point(1.0, 98.6, "look_m")]
    names, _ = named(points)
    assert names == {"full, look_m": (1.0, 98.5), "fastv": (0.5, 80)}


def test_names_do_not_lie_on_each_other_where_there_is_room():
    points = [Point(0.3 + 0.07 * i, 50 + 3 * (i % 2), f"method_{i}") for i in range(5)]
    names, boxes = named(points)
    assert len(names) == 5
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_the_same_method_twice_in_one_place_is_named_once():
    names, _ = named([Point(0.5, 50, "fastv"), Point(0.5, 50, "fastv")])
    assert list(names) == ["fastv"]
