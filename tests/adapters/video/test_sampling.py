"""Frame rules: the published indices to the last frame, and what cannot be sampled."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from paths import PARITY
from PIL import Image

from prunevid_kernels.adapters.video.reader import read_video
from prunevid_kernels.adapters.video.sampling import frame_indices

pytestmark = pytest.mark.one_version

PUBLISHED = json.loads((PARITY / "frame_indices.json").read_text())


def total_of(case: dict) -> int:
    """The published cases give the number of the last frame."""
    return case["max_frame"] - case["first_idx"] + 1


@pytest.mark.parametrize("case", PUBLISHED["pllava_eval_get_index"], ids=str)
def test_pllava_evaluation(case):
    first = case["first_idx"]
    taken = frame_indices(
        total_of(case),
        case["num_segments"],
        "half_segments",
        fps=case["fps"],
        bound=case["bound"],
        first=first,
    )
    assert (taken + first).tolist() == case["out"]


@pytest.mark.parametrize("case", PUBLISHED["stllm_mvbench_get_index"], ids=str)
def test_st_llm_on_mvbench(case):
    where = {"bound": case["bound"], "first": case["first_idx"]}
    total, fps = total_of(case), case["fps"]
    taken = frame_indices(total, len(case["out"]), "half_segments", fps=fps, **where)
    assert (taken + case["first_idx"]).tolist() == case["out"]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("pllava_chat_get_index", "half_segments"),
        ("stllm_get_seq_frames", "between_borders"),
        ("lmms_eval_linspace", "linspace"),
    ],
)
def test_whole_videos(name, rule):
    for case in PUBLISHED[name]:
        total, count = list(case.values())[:2]
        assert frame_indices(total, count, rule).tolist() == case["out"], case


@pytest.mark.parametrize("rule", ["linspace", "half_segments", "between_borders"])
@pytest.mark.parametrize("total", [1, 2, 7, 1000])
def test_indices_are_inside_and_ascending(rule, total):
    taken = frame_indices(total, 16, rule)
    assert len(taken) == 16 and taken.min() >= 0 and taken.max() < total
    assert (np.diff(taken) >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        ((0, 4, "half_segments"), {}, "total must be an integer >= 1, got 0"),
        ((9, 0, "half_segments"), {}, "number of frames must be an integer >= 1, got 0"),
        (
            (9, 4, "random"),
            {},
            "rule must be one of linspace, half_segments, between_borders, got 'random'",
        ),
        ((9, 4, "half_segments"), {"bound": (0, 1)}, "needs the video's fps"),
        ((9, 4, "half_segments"), {"fps": 0.0}, "fps must be a number > 0, got 0.0"),
        ((9, 4, "half_segments"), {"fps": 3, "bound": (2, 1)}, "inside the video, got (2, 1)"),
        ((9, 4, "half_segments"), {"fps": 3, "bound": (5, 9)}, "inside the video, got (5, 9)"),
    ],
)
def test_what_cannot_be_sampled(arguments, options, expected):
    with pytest.raises(ValueError) as caught:
        frame_indices(*arguments, **options)
    assert expected in str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty frames, 00001.png to 00040.png, whose red is their number."""
    for number in range(1, 41):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / f"{number:05d}.png")
    return tmp_path


def test_a_stretch_of_a_folder_that_counts_from_one(folder: Path):
    """The published case with bound 0 to 3 seconds at 3 frames a second, frames repeating."""
    (case,) = [
        case
        for case in PUBLISHED["pllava_eval_get_index"]
        if case["first_idx"] == 1 and case["num_segments"] == 16
    ]
    rule = partial(frame_indices, n=16, rule="half_segments", bound=case["bound"], first=1)
    video = read_video(folder, indices=rule, folder_fps=case["fps"])
    assert video.frames[:, 0, 0, 0].tolist() == case["out"]
    assert video.timestamps_s == pytest.approx((np.array(case["out"]) - 1) / 3)
    assert video.fps == 3


def test_a_bound_in_a_folder_without_a_clock(folder: Path):
    rule = partial(frame_indices, n=4, rule="half_segments", bound=(0.0, 3.0))
    with pytest.raises(ValueError, match="needs the video's fps"):
        read_video(folder, indices=rule)


@pytest.mark.parametrize(
    ("count", "chosen"),
    [
        pytest.param(None, [3, 40], id="after-the-end"),
        pytest.param(None, [-1, 3], id="negative"),
        pytest.param(None, [5, 3], id="descending"),
        pytest.param(None, [], id="none"),
        pytest.param(None, [0.5], id="no-integers"),
        pytest.param(3, [1, 2], id="another-number"),
    ],
)
def test_a_rule_that_chooses_badly(folder: Path, count, chosen):
    with pytest.raises(ValueError, match=r"indices must be \d+ ascending integers in \[0, 40\)"):
        read_video(folder, count, indices=lambda total, fps: np.array(chosen))


def test_neither_a_number_nor_a_rule(folder: Path):
    with pytest.raises(ValueError, match="num_frames or indices"):
        read_video(folder)
