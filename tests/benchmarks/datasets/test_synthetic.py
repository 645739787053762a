"""Generated clips: the same on every call, facts that the pixels show, questions they answer."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from prunevid_kernels.benchmarks.datasets import drawing, synthetic
from prunevid_kernels.benchmarks.datasets.synthetic import Clip, held_out_questions, make_clip

CLIPS = [make_clip("train", index) for index in range(40)]


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5, 8, 13])
def test_a_clip_follows_from_its_seed_split_and_index(num_frames: int) -> None:
    first, again = (make_clip("train", 7, seed=3, num_frames=num_frames) for _ in range(2))
    assert first.frames.shape == (num_frames, drawing.SIZE_PX, drawing.SIZE_PX, 3)
    assert first.frames.dtype == np.uint8
    assert np.array_equal(first.frames, again.frames)
    assert first.questions == again.questions


@pytest.mark.parametrize("other", [("held_out", 7, 3), ("train", 8, 3), ("train", 7, 4)])
def test_other_clips_are_other_clips(other: tuple[synthetic.Split, int, int]) -> None:
    split, index, seed = other
    clip = make_clip(split, index, seed=seed)
    assert not np.array_equal(clip.frames, make_clip("train", 7, seed=3).frames)


def test_no_shape_and_no_color_comes_twice() -> None:
    for clip in CLIPS:
        assert max(Counter(thing.shape for thing in clip.things).values()) == 1
        assert max(Counter(thing.color for thing in clip.things).values()) == 1
        assert len(set(clip.backgrounds)) == len(clip.scene_starts)


def test_shapes_are_where_the_facts_say_and_in_their_color() -> None:
    for clip in CLIPS:
        for thing in clip.things:
            if thing.shape == "ring":  # its middle shows the background
                continue
            for frame, (row, column) in thing.cells.items():
                middle = np.add((row, column), 0.5) * drawing.CELL_PX
                y, x = middle.astype(int)
                error = clip.frames[frame, y, x].astype(int) - synthetic.COLORS[thing.color]
                assert abs(error).max() <= 5, (thing, frame)


def test_things_of_one_frame_are_in_different_cells() -> None:
    for clip in CLIPS:
        for frame in range(len(clip.frames)):
            cells = [thing.cells[frame] for thing in clip.things if frame in thing.cells]
            assert len(cells) == len(set(cells))


def test_still_shapes_stay_through_their_scene_and_cuts_change_the_frame() -> None:
    for clip in CLIPS:
        bounds = (*clip.scene_starts, len(clip.frames))
        assert min(np.diff(bounds)) >= 2
        for thing in clip.things:
            if thing.role == "still":
                assert set(thing.cells) == set(range(*bounds[thing.scene : thing.scene + 2]))
                assert len(set(thing.cells.values())) == 1
        change = abs(np.diff(clip.frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
        is_cut = np.isin(np.arange(1, len(clip.frames)), clip.scene_starts)
        assert min(change[is_cut], default=np.inf) > max(change[~is_cut])


def test_the_mover_goes_where_the_clip_says() -> None:
    for clip in CLIPS:
        mover = next(thing for thing in clip.things if thing.role == "mover")
        cells = np.array([mover.cells[frame] for frame in sorted(mover.cells)])
        steps = {tuple(step) for step in np.diff(cells, axis=0)} - {(0, 0)}
        assert steps == {drawing.DIRECTIONS[clip.direction]}


def test_questions_have_the_answer_that_the_facts_give() -> None:
    asked = Counter()
    for clip in CLIPS:
        for question in clip.questions:
            assert question.answer == _answer(clip, question), question
            assert question.answer in question.candidates
            assert " " not in question.answer
            asked[question.type] += 1
    assert set(asked) == set(synthetic.QUESTION_TYPES)


def _answer(clip: Clip, question: synthetic.Question) -> str:
    """The answer, found by the question's words and not by ``about``."""
    words = question.text.lower().rstrip("?").split()
    roles = {thing.role: thing for thing in clip.things}
    named = [t for t in clip.things if t.role == "still" and {t.shape, t.color} & set(words)]
    if question.type == "scenes":
        return synthetic.NUMBERS[len(clip.scene_starts) - 1]
    if question.type == "direction":
        return str(clip.direction)
    if question.type.startswith("mover"):
        return getattr(roles["mover"], question.type.removeprefix("mover_"))
    if question.type == "flash_color":
        return roles["flash"].color
    if question.type == "flash_corner":
        (cell,) = roles["flash"].cells.values()
        return next(name for name, corner in synthetic.CORNERS.items() if corner == cell)
    (thing,) = named
    if question.type == "when":
        return synthetic.ORDINALS[clip.scene_of(min(thing.cells))]
    if question.type == "location":
        row, column = thing.cells[min(thing.cells)]
        return drawing.PLACES[row // 2][column // 2]
    return getattr(thing, question.type)


def test_a_single_frame_has_no_mover_and_fewer_questions() -> None:
    clip = make_clip("train", 0, num_frames=1)
    assert clip.direction is None
    kinds = {question.type for question in clip.questions}
    assert kinds == {"color", "shape", "location", "scenes", "flash_color", "flash_corner"}


def test_held_out_questions_are_stable_named_and_balanced() -> None:
    questions = list(held_out_questions(300))
    assert [item.id for item in held_out_questions(40)] == [item.id for item in questions[:40]]
    assert len({item.id for item in questions}) == 300
    counts = Counter(item.question.type for item in questions)
    assert set(counts) == set(synthetic.QUESTION_TYPES)
    assert min(counts.values()) > 15 and max(counts.values()) < 40


def test_a_held_out_clip_is_made_from_its_number() -> None:
    *_, last = held_out_questions(12)
    clip = make_clip("held_out", int(last.id.split("-")[0]))
    assert np.array_equal(clip.frames, last.clip.frames)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"split": "test"}, "split must be one of train, held_out", id="split"),
        pytest.param({"index": -1}, "index must be an integer >= 0, got -1", id="index"),
        pytest.param({"seed": -1}, "seed must be an integer >= 0, got -1", id="seed"),
        pytest.param({"num_frames": 0}, "num_frames must be an integer >= 1, got 0", id="frames"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_clip(**{"split": "train", "index": 0, **arguments})


def test_no_questions_is_an_error() -> None:
    with pytest.raises(ValueError, match="count must be an integer >= 1, got 0"):
        next(held_out_questions(0))
