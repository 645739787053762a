"""The harder clips: facts that the pixels show, answers that follow from them, rare evidence."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from prunevid_kernels.benchmarks.datasets import drawing, synthetic, synthetic_hard
from prunevid_kernels.benchmarks.datasets.clips import Clip, Question, Thing
from prunevid_kernels.benchmarks.datasets.registry import DATASETS
from prunevid_kernels.benchmarks.datasets.synthetic_hard import (
    evidence,
    held_out_questions,
    make_clip,
)

CLIPS = [make_clip("train", index) for index in range(24)]
LONG_CLIPS = [make_clip("train", index, num_frames=32) for index in range(8)]
CLIPS_OF_ALL_LENGTHS = [
    *CLIPS,
    *LONG_CLIPS,
    *(make_clip("train", index, num_frames=n) for n in (1, 2, 3, 5, 8) for index in range(4)),
]


def of_role(clip: Clip, role: str) -> list[Thing]:
    return [thing for thing in clip.things if thing.role == role]


@pytest.mark.parametrize("num_frames", [1, 2, 7, 16, 32])
def test_a_clip_follows_from_its_seed_split_and_index(num_frames: int) -> None:
    first, again = (make_clip("train", 7, seed=3, num_frames=num_frames) for _ in range(2))
    assert first.frames.shape == (num_frames, drawing.SIZE_PX, drawing.SIZE_PX, 3)
    assert np.array_equal(first.frames, again.frames)
    assert first.questions == again.questions


def test_other_clips_are_other_clips() -> None:
    frames = CLIPS[7].frames
    others = [make_clip("held_out", 7), make_clip("train", 7, seed=1), CLIPS[8]]
    others.append(synthetic.make_clip("train", 7, num_frames=16))
    assert not any(np.array_equal(frames, other.frames) for other in others)


def test_only_stars_and_the_group_repeat_a_shape_and_only_the_group_a_color() -> None:
    for clip in CLIPS_OF_ALL_LENGTHS:
        group, stars = of_role(clip, "group"), of_role(clip, "flash")
        kinds = {(thing.shape, thing.color) for thing in group}
        assert len(kinds) == 1
        alone = [t for t in clip.things if t.role in ("still", "mover")] + group[:1]
        assert len({thing.shape for thing in alone}) == len(alone)
        assert len({thing.color for thing in alone + stars}) == len(alone + stars)
        assert {star.shape for star in stars} == {drawing.FLASH_SHAPE}


def test_shapes_are_where_the_facts_say_and_in_their_color() -> None:
    for clip in CLIPS_OF_ALL_LENGTHS:
        for thing in clip.things:
            if thing.shape == "ring":  # its middle shows the background
                continue
            for frame, cell in thing.cells.items():
                middle = (np.array(cell) + 0.5) * drawing.CELL_PX
                if thing.quarter is not None:
                    middle += (np.array(thing.quarter) - 0.5) * drawing.CELL_PX / 2
                y, x = middle.astype(int)
                error = clip.frames[frame, y, x].astype(int) - drawing.PALETTE[thing.color]
                # The middle pixels of a small star are not covered to their corners.
                allowed = 60 if thing.quarter is not None and thing.shape == "star" else 5
                assert abs(error).max() <= allowed, (thing, frame)


def test_small_shapes_leave_three_quarters_of_their_cell_alone() -> None:
    canvas = np.zeros((drawing.SIZE_PX, drawing.SIZE_PX, 3), dtype=np.float32)
    for shape in (*drawing.SHAPES, drawing.FLASH_SHAPE):
        drawing.draw_shape(canvas, shape, "white", (2, 3), (1, 0))
    assert canvas[40:48, 48:56].max() > 200
    canvas[40:48, 48:56] = 0
    assert not canvas.any()


def test_things_of_one_scene_never_share_a_cell() -> None:
    for clip in CLIPS_OF_ALL_LENGTHS:
        for scene in range(len(clip.scene_starts)):
            used = [set(t.cells.values()) for t in clip.things if t.scene == scene]
            assert len(set().union(*used)) == sum(map(len, used))


def test_scenes_are_cut_where_the_clip_says() -> None:
    for clip in CLIPS_OF_ALL_LENGTHS:
        bounds = (*clip.scene_starts, len(clip.frames))
        assert all(a != b for a, b in zip(clip.backgrounds, clip.backgrounds[1:], strict=False))
        for thing in clip.things:
            assert set(thing.cells) <= set(range(*bounds[thing.scene : thing.scene + 2]))
        change = abs(np.diff(clip.frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
        is_cut = np.isin(np.arange(1, len(clip.frames)), clip.scene_starts)
        assert min(change[is_cut], default=np.inf) > max(change[~is_cut], default=0)


def test_movers_wait_go_one_way_and_rest() -> None:
    waited = rested = 0
    for clip in (*CLIPS, *LONG_CLIPS):
        movers = of_role(clip, "mover")
        assert len({mover.direction for mover in movers}) == len(movers)
        for mover in movers:
            cells = np.array([mover.cells[frame] for frame in sorted(mover.cells)])
            moves = (np.diff(cells, axis=0) == drawing.DIRECTIONS[mover.direction]).all(axis=1)
            stays = (np.diff(cells, axis=0) == 0).all(axis=1)
            assert (moves | stays).all()
            (at,) = moves.nonzero()
            assert len(at) > 0 and np.array_equal(at, np.arange(at[0], at[-1] + 1))
            waited += at[0] > 0
            rested += at[-1] < len(moves) - 1
    assert waited > 10 and rested > 10


def test_more_happens_in_longer_clips() -> None:
    assert {len(of_role(clip, "mover")) for clip in CLIPS} == {2}
    assert {len(of_role(clip, "mover")) for clip in LONG_CLIPS} == {3}
    assert {len(clip.scene_starts) for clip in CLIPS} == {2, 3, 4}
    assert {len(clip.scene_starts) for clip in LONG_CLIPS} == {3, 4, 5}
    stays = [len(t.cells) for clip in LONG_CLIPS for t in of_role(clip, "still")]
    assert 0.2 < np.mean(np.array(stays) == synthetic_hard.BRIEF_FRAMES) < 0.8


def test_questions_have_the_answer_that_the_facts_give() -> None:
    asked = Counter()
    for clip in CLIPS_OF_ALL_LENGTHS:
        for question in clip.questions:
            assert question.answer == answer(clip, question), question
            assert question.answer in question.candidates
            asked[question.type] += 1
    assert set(asked) == set(synthetic_hard.QUESTION_TYPES)


def answer(clip: Clip, question: Question) -> str:
    """The answer, found by the question's words and not by ``about``."""
    words = question.text.rstrip("?").split()
    stars = sorted(of_role(clip, "flash"), key=lambda star: min(star.cells))
    colors = [star.color for star in stars]
    if question.type == "scenes":
        return synthetic_hard.NUMBERS[len(clip.scene_starts) - 1]
    if question.type == "stars":
        return synthetic_hard.NUMBERS[len(stars) - 1]
    if question.type == "count":
        number = sum(thing.color == words[2] for thing in clip.things)
        return synthetic_hard.NUMBERS[number - 1]
    if question.type in ("first_star", "last_star"):
        return colors[0 if question.type == "first_star" else -1]
    if question.type == "next_star":
        return colors[colors.index(words[-2]) + 1]
    if question.type.startswith("mover"):
        (mover,) = (t for t in of_role(clip, "mover") if t.direction == words[-1])
        return getattr(mover, question.type.removeprefix("mover_"))
    named = set(words) & {*drawing.SHAPES, drawing.FLASH_SHAPE, *drawing.PALETTE}
    (thing,) = (t for t in clip.things if t.role != "group" and named <= {t.shape, t.color})
    if question.type in ("location", "star_location"):
        return drawing.place_of(thing.cells[min(thing.cells)])
    if question.type == "when":
        return synthetic_hard.ORDINALS[clip.scene_of(min(thing.cells))]
    if question.type == "pattern":
        return clip.backgrounds[thing.scene]
    return str(getattr(thing, question.type))


def test_what_is_asked_about_shows_in_few_tokens() -> None:
    shares: dict[str, list[float]] = {kind: [] for kind in synthetic_hard.QUESTION_TYPES}
    for clip in CLIPS:
        for question in clip.questions:
            shown = evidence(clip, question)
            assert len(shown) > 0 or question.type == "scenes"
            shares[question.type].append(len(shown) / (16 * drawing.GRID**2))
    means = {kind: np.mean(values) for kind, values in shares.items()}
    assert means["star_location"] == 1 / 576
    assert max(means.values()) < 0.05
    assert means["next_star"] < means["color"] < means["count"]


def test_held_out_questions_are_stable_named_and_balanced() -> None:
    questions = list(held_out_questions(150))
    assert [q.id for q in held_out_questions(20)] == [q.id for q in questions[:20]]
    assert len({q.id for q in questions}) == 150
    counts = Counter(q.question.type for q in questions)
    assert set(counts) == set(synthetic_hard.HELD_OUT_TYPES)
    assert min(counts.values()) >= 5 and max(counts.values()) <= 18
    clip = make_clip("held_out", int(questions[-1].id.split("-")[0]))
    assert np.array_equal(clip.frames, questions[-1].clip.frames)


def test_no_answer_can_be_guessed_well() -> None:
    """The most frequent answer of each type, as a model without a video might give it."""
    answers: dict[str, Counter[str]] = {kind: Counter() for kind in synthetic_hard.QUESTION_TYPES}
    for clip in CLIPS:
        for question in clip.questions:
            answers[question.type][question.answer] += 1
    best = [max(c.values()) / c.total() for c in answers.values()]
    assert np.mean(best) < 0.4 and max(best) < 0.65


@pytest.mark.parametrize(("name", "frames"), [("synthetic_hard", 16), ("synthetic_long", 32)])
def test_prunevid_eval_asks_them(
    name: str, frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunevid_kernels.benchmarks.datasets.registry.HARD_QUESTIONS", 7)
    dataset = DATASETS[name]
    samples = dataset.load(tmp_path).samples
    assert dataset.frames == frames
    assert [len(sample.video) for sample in samples] == [frames] * 7


@pytest.mark.parametrize("count", [0, -3])
def test_no_questions_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match=f"count must be an integer >= 1, got {count}"):
        next(held_out_questions(count))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="split must be one of train, held_out, got 'test'"):
        make_clip("test", 0)
