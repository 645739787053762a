"""The evaluation protocol: prompts to the letter, frames, and which runs a command line makes."""

from __future__ import annotations

import json
from pathlib import Path

import datas_tree as tree
import numpy as np
import pytest
from paths import PARITY

from prunevid_kernels.adapters.families import FAMILIES
from prunevid_kernels.adapters.families.pllava import processor as pllava_processor
from prunevid_kernels.adapters.families.st_llm import processor as st_llm_processor
from prunevid_kernels.adapters.methods.registry import method_names
from prunevid_kernels.adapters.video.reader import VideoError
from prunevid_kernels.adapters.video.sampling import frame_indices
from prunevid_kernels.benchmarks.accuracy.ask import question_options, read_answer
from prunevid_kernels.benchmarks.accuracy.plan import Plan, PlanError, parse_sweep, plan_runs
from prunevid_kernels.benchmarks.accuracy.protocol import prompt, protocol, question_text
from prunevid_kernels.benchmarks.datasets.frames import take_frames
from prunevid_kernels.benchmarks.datasets.sample import Sample, VideoSource
from prunevid_kernels.benchmarks.report.published import published_rows

PUBLISHED = json.loads((PARITY / "prompts.json").read_text())
SAMPLE = Sample(
    id="x",
    task="action_sequence",
    question=PUBLISHED["sample"]["question"],
    options=tuple(PUBLISHED["sample"]["candidates"]),
    gold=0,
    video=VideoSource(Path("x.mp4")),
)
OPEN = Sample("y", "generic", "Describe the video in details.", (), "A truth.", SAMPLE.video)


def published(family: str, start: str) -> str:
    return next(text for name, text in PUBLISHED[family].items() if name.startswith(start))


# ---- prompts


def test_question_text_as_published() -> None:
    assert question_text(SAMPLE) == PUBLISHED["question_text"]


@pytest.mark.parametrize(
    ("benchmark", "sample", "name"),
    [
        ("mvbench", SAMPLE, "eval_mvbench"),
        ("videomme", SAMPLE, "eval_videomme"),
        ("egoschema", SAMPLE, PUBLISHED["pllava"]["egoschema_uses"]),
        ("vcgbench", OPEN, "eval_vcgbench"),
    ],
)
def test_pllava_prompts_as_published(benchmark: str, sample: Sample, name: str) -> None:
    words = prompt(FAMILIES["pllava"], benchmark, sample)
    text = pllava_processor.prompt_text(words.question, words.system, words.answer_prefix)
    assert text == PUBLISHED["pllava"][name]


def test_st_llm_prompt_as_published() -> None:
    words = prompt(FAMILIES["st_llm"], "mvbench", SAMPLE)
    text = st_llm_processor.prompt_text(words.question, words.system, words.answer_prefix)
    assert text == published("stllm", "mvbench_ask_simple_system_llm")


def test_llava_onevision_gets_the_question_in_its_own_template() -> None:
    words = prompt(FAMILIES["llava_onevision"], "mvbench", SAMPLE)
    assert words.question == PUBLISHED["question_text"] + "\nOnly give the best option."
    assert (words.system, words.answer_prefix) == (None, "Best option:(")


@pytest.mark.parametrize("family", ["llava_onevision", "st_llm"])
def test_open_questions_are_asked_as_they_are(family: str) -> None:
    words = prompt(FAMILIES[family], "vcgbench", OPEN)
    assert (words.question, words.system, words.answer_prefix) == (OPEN.question, None, "")


@pytest.mark.parametrize("benchmark", ["mvbench", "videomme", "egoschema", "vcgbench", "synthetic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_protocol(family: str, benchmark: str) -> None:
    rules = protocol(FAMILIES[family], benchmark)
    longest = {"synthetic": 4}.get(benchmark, 100)
    if (family, benchmark) == ("st_llm", "vcgbench"):
        assert (rules.frames, rules.generation["num_beams"], longest) == (64, 5, 100)
        longest = 300
    assert rules.generation["max_new_tokens"] == longest


# ---- frames


@pytest.mark.parametrize("task", ["mvbench", "mvbench_action_sequence"])
def test_mvbench_has_one_rule_under_all_its_names(task):
    """The plugin for lmms-eval knows tasks, ``prunevid eval`` the benchmark."""
    st_llm = FAMILIES["st_llm"]
    assert st_llm.sampling_of(task) == protocol(st_llm, "mvbench").sampling == "half_segments"
    default = frame_indices(123, 16, st_llm.sampling)
    published_ones = frame_indices(123, 16, st_llm.sampling_of(task))
    assert int(np.sum(default != published_ones)) == 10, "or the rule would not matter"


def frame_numbers(frames: np.ndarray) -> list[int]:
    """Which frame of the clip each one is, from its first columns."""
    return np.rint(frames[:, :, :6].mean(axis=(1, 2, 3)) / 20).astype(int).tolist()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("linspace", [0, 3, 7, 11]),
        ("half_segments", [1, 4, 7, 9]),
        ("between_borders", [1, 4, 7, 9]),
    ],
)
def test_frames_of_a_whole_video(tmp_path: Path, rule, expected: list[int]) -> None:
    clip = tree.write_clip(tmp_path / "clip.mp4")
    assert frame_numbers(take_frames(VideoSource(clip), 4, rule)[0]) == expected


def test_frames_between_two_seconds(tmp_path: Path) -> None:
    clip = tree.write_clip(tmp_path / "clip.mp4")  # six frames a second
    taken = take_frames(VideoSource(clip, bound_s=(0.5, 1.5)), 3, "linspace")
    assert taken.reader == "pyav"  # of 64 pixels
    assert frame_numbers(taken.frames) == [3, 6, 9]
    assert taken.seconds == pytest.approx([0.5, 1.0, 1.5])


def test_frames_of_a_folder_count_from_one(tmp_path: Path) -> None:
    folder = tree.write_frame_folder(tmp_path / "frames")
    source = VideoSource(folder, bound_s=(1.0, 3.0), folder_fps=3.0)
    # Second 1 is file 00003.jpg, second 3 is 00009.jpg: the third and the ninth frame.
    assert frame_numbers(take_frames(source, 3, "linspace")[0]) == [2, 5, 8]


def test_frames_of_a_generated_clip() -> None:
    assert frame_numbers(take_frames(tree.clip_frames(), 3, "linspace")[0]) == [0, 5, 11]


def test_a_bound_after_the_end_is_an_unusable_video(tmp_path: Path) -> None:
    clip = tree.write_clip(tmp_path / "clip.mp4")
    with pytest.raises(VideoError, match=r"clip\.mp4: the bound must be"):
        take_frames(VideoSource(clip, bound_s=(5.0, 6.0)), 4, "half_segments")


# ---- answers


def test_an_answer_is_read_in_both_ways_at_once() -> None:
    predictions, correct = read_answer("choice", SAMPLE, "A man takes the box")
    assert predictions == {"strict": None, "released": "A"}
    assert correct == {"strict": False, "released": True}


def test_hidden_and_judged_answers_are_neither_right_nor_wrong() -> None:
    hidden = Sample("x", "hidden", "What?", ("a", "b"), None, SAMPLE.video)
    assert read_answer("choice", hidden, "B)")[1] == {}
    assert read_answer("judge", OPEN, "words") == ({}, {})


def test_a_word_is_right_or_not() -> None:
    word = Sample("x", "color", "Which color?", (), "red", SAMPLE.video)
    assert read_answer("word", word, "Red") == ({"word": "Red"}, {"word": True})


# ---- plans


def test_each_method_takes_the_options_it_knows() -> None:
    plans = plan_runs(["full", "fastv", "prunevid"], {"alpha": 0.3, "layer": 5}, [])
    assert plans == [
        Plan("full", {}),
        Plan("fastv", {"keep_ratio": 0.3}),
        Plan("prunevid", {"keep_ratio": 0.3, "layer": 5}),
    ]


def test_a_sweep_is_a_grid_and_several_sweeps_are_several_grids() -> None:
    sweeps = ["alpha=0.2,0.4;layer=1,2", "gamma=0.5"]
    assert [plan.options for plan in plan_runs(["prunevid"], {"layer": 7}, sweeps)] == [
        {"layer": 1, "keep_ratio": 0.2},
        {"layer": 2, "keep_ratio": 0.2},
        {"layer": 1, "keep_ratio": 0.4},
        {"layer": 2, "keep_ratio": 0.4},
        {"layer": 7, "segment_ratio": 0.5},
    ]


def test_the_same_run_is_planned_once() -> None:
    assert plan_runs(["full", "full"], {}, []) == [Plan("full", {})]
    assert len(plan_runs(["full", "prunevid"], {}, ["beta=0.5,0.5"])) == 2


def test_sweeps_of_words_and_switches() -> None:
    assert parse_sweep("score=nope,rope;merge=false") == [
        {"score": "nope", "merge": False},
        {"score": "rope", "merge": False},
    ]


def test_an_option_of_no_method_is_an_error() -> None:
    with pytest.raises(PlanError, match=r"option 'tau' belongs to none of fastv; theirs: k, keep"):
        plan_runs(["fastv"], {}, ["tau=0.8"])


def test_names_are_good_for_folders() -> None:
    plan = Plan("prunevid", {"score": "ro pe/../x", "layer": 2})
    assert plan.name == "prunevid-score=ro_pe_.._x-layer=2"


def test_random_draws_are_of_the_question_and_the_seed() -> None:
    plans = [Plan("random_drop", {"layer": 3}), Plan("random_drop", {"layer": 3, "seed": 1})]
    options = [question_options(plan, name) for plan in plans for name in ("a/0", "a/1")]
    assert options == [question_options(plan, name) for plan in plans for name in ("a/0", "a/1")]
    assert len({each["seed"] for each in options}) == 4
    assert {each["layer"] for each in options} == {3}
    assert question_options(Plan("fastv", {"k": 3}), "a/0") == {"k": 3}


# ---- the paper's table


def test_published_table() -> None:
    rows = published_rows()
    assert len(rows) == 14, "ST-LLM has no PruMerge row"
    row = rows["pllava", "prunevid"]
    assert [row.score(name) for name in ("mvbench", "videomme", "egoschema", "vcgbench")] == [
        47.6,
        45.3,
        49.0,
        2.98,
    ]
    assert (row.retained, row.flops_ratio, row.score("synthetic")) == (0.162, 0.23, None)
    for row in rows.values():
        five = [value for name, value in row.vcgbench.items() if name != "average"]
        assert len(five) == 5
        assert row.vcgbench["average"] == pytest.approx(sum(five) / 5, abs=0.011)


def test_a_letter_is_the_methods_own_option_where_it_has_one():
    """beta is PruneVid's cluster_ratio, and an option of FastVID by this name."""
    for given in (({"beta": 0.3}, []), ({}, ["beta=0.3"])):
        plans = plan_runs(["prunevid", "fastvid"], *given)
        assert plans == [Plan("prunevid", {"cluster_ratio": 0.3}), Plan("fastvid", {"beta": 0.3})]


def test_all_methods_by_one_word():
    assert [plan.method for plan in plan_runs(["all"], {}, [])] == method_names()
