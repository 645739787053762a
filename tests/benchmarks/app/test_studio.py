"""What the app computes, draws and remembers, without Gradio."""

from __future__ import annotations

import re
import threading
from dataclasses import replace

import numpy as np
import pytest

from prunevid_kernels.adapters import VideoModel
from prunevid_kernels.adapters.video.reader import VideoError
from prunevid_kernels.benchmarks.app import parts
from prunevid_kernels.benchmarks.app.memory import Memory
from prunevid_kernels.benchmarks.app.settings import Settings, controls_of, options_of
from prunevid_kernels.benchmarks.app.studio import Limits, Look, Studio, without_folder
from prunevid_kernels.benchmarks.embedded import (
    SAMPLE_ANSWER,
    SAMPLE_CLIP,
    SAMPLE_QUESTION,
    load_embedded_model,
)
from prunevid_kernels.benchmarks.run.drawing import _views
from prunevid_kernels.benchmarks.support.options import InputError

pytestmark = pytest.mark.one_version


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return load_embedded_model()


@pytest.fixture(scope="module")
def app(model):
    made = Studio(model, Limits(max_seconds=20))
    yield made
    made.close()


@pytest.fixture
def look(app) -> Look:
    return app.look(SAMPLE_CLIP, SAMPLE_QUESTION, app.settings)


@pytest.fixture
def towers(model, monkeypatch):
    """How often the vision tower has run."""
    runs = []
    hook = model.model.model.vision_tower.register_forward_hook(lambda *_: runs.append(1))
    yield runs
    hook.remove()


# ---- what a setting computes anew


def test_a_look_is_what_ask_gives(app, model, look):
    """The studio holds the model with its features; ask goes the plain way, on another thread."""
    assert look.answer == look.unpruned_answer == SAMPLE_ANSWER
    assert (look.counts.visual_tokens, look.counts.layer) == (288, 1)
    assert look.counts.kept_tokens < look.counts.merged_tokens < 288 / 3
    assert 0 < look.flops_ratio < 0.5 and 0 < look.cached_ratio < 0.2
    assert look.ms > 0 and look.unpruned_ms > 0
    assert look.drawn.frames.shape == (8, 216, 216, 3)


def test_a_slider_encodes_nothing_and_asks_the_whole_model_nothing(app, look, towers, monkeypatch):
    unpruned = []
    answer = Studio._answer_unpruned
    monkeypatch.setattr(
        Studio, "_answer_unpruned", lambda *args: unpruned.append(1) or answer(*args)
    )
    sparser = app.look(SAMPLE_CLIP, SAMPLE_QUESTION, replace(app.settings, keep_ratio=0.2))
    assert sparser.counts.kept_tokens < look.counts.kept_tokens
    assert sparser.counts.merged_tokens == look.counts.merged_tokens
    by_evs = app.look(SAMPLE_CLIP, SAMPLE_QUESTION, replace(app.settings, method="evs", share=0.2))
    assert by_evs.counts.kept_tokens == pytest.approx(0.2 * 288, abs=1)
    assert (towers, unpruned) == ([], [])
    app.look(SAMPLE_CLIP, "What color is the moving shape?", app.settings)
    assert (towers, unpruned) == ([], [1])


def test_the_same_settings_are_remembered_and_so_are_those_that_make_no_difference(app, look):
    again = app.look(str(SAMPLE_CLIP), f" {SAMPLE_QUESTION} ", app.settings)
    assert again is look
    merged = replace(app.settings, method="merge_only")
    one, other = (
        app.look(SAMPLE_CLIP, SAMPLE_QUESTION, replace(merged, keep_ratio=ratio, layer=layer))
        for ratio, layer in ((0.2, 1), (0.9, 3))
    )
    assert one is other


def test_another_file_under_the_same_name_is_another_video(app, tmp_path):
    file = tmp_path / "clip.mp4"
    file.write_bytes(SAMPLE_CLIP.read_bytes())
    first = app.look(file, SAMPLE_QUESTION, app.settings)
    assert first.answer == SAMPLE_ANSWER
    file.write_bytes(b"no video any more")
    with pytest.raises(VideoError):
        app.look(file, SAMPLE_QUESTION, app.settings)


def test_looks_are_forgotten(app, monkeypatch):
    monkeypatch.setattr(app, "_looks", Memory(2))
    for keep_ratio in (0.1, 0.5, 0.9):
        app.look(SAMPLE_CLIP, SAMPLE_QUESTION, replace(app.settings, keep_ratio=keep_ratio))
    assert len(app._looks) == 2


def test_a_memory_forgets_what_was_not_asked_for_longest_and_no_failure():
    memory: Memory[str] = Memory(2)
    made = []

    def make(key: str) -> str:
        made.append(key)
        return key.upper()

    for key in ("a", "b", "a", "c", "a", "b"):
        assert memory.get(key, lambda key=key: make(key)) == key.upper()
    assert made == ["a", "b", "c", "b"] and len(memory) == 2
    with pytest.raises(ZeroDivisionError):
        memory.get("d", lambda: 1 / 0)
    assert memory.get("d", lambda: make("d")) == "D"


def test_two_users_at_once_get_their_own_answers(app):
    questions = {SAMPLE_QUESTION: SAMPLE_ANSWER, "What color is the moving shape?": "yellow"}
    found: dict[str, Look] = {}

    def use(question: str, keep_ratio: float) -> None:
        settings = replace(app.settings, keep_ratio=keep_ratio)
        found[question] = app.look(SAMPLE_CLIP, question, settings)

    users = [
        threading.Thread(target=use, args=(question, ratio))
        for question, ratio in zip(questions, (0.45, 0.55), strict=True)
    ]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert {question: look.answer for question, look in found.items()} == questions


def test_a_closed_studio_leaves_the_model_as_it_was():
    model = load_embedded_model()
    before = set(vars(model.model.model))
    made = Studio(model)
    assert set(vars(model.model.model)) != before
    made.close()
    assert set(vars(model.model.model)) == before


# ---- errors


@pytest.mark.parametrize(
    ("path", "question", "changes", "error", "message"),
    [
        pytest.param(None, "?", {}, InputError, "no video: drop one in", id="no-video"),
        pytest.param(SAMPLE_CLIP, " ", {}, InputError, "no question: say what", id="no-question"),
        pytest.param(
            SAMPLE_CLIP, "?" * 1001, {}, InputError, "has 1001 characters", id="long-question"
        ),
        pytest.param(__file__, "?", {}, VideoError, "test_studio.py: ", id="broken"),
        pytest.param(SAMPLE_CLIP, "?", {"tau": 0.0}, InputError, "tau must be", id="tau"),
        pytest.param(SAMPLE_CLIP, "?", {"layer": 5}, InputError, "layer must be", id="layer"),
        pytest.param(
            SAMPLE_CLIP,
            "?",
            {"method": "fastw"},
            InputError,
            "no method 'fastw' for this model: there are prunevid, ",
            id="method",
        ),
        pytest.param(
            SAMPLE_CLIP,
            "?",
            {"method": "fastv", "share": 0.1},
            InputError,
            "cannot keep 0.1",
            id="share",
        ),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(app, path, question, changes, error, message):
    with pytest.raises(error, match=re.escape(message)) as info:
        app.look(path, question, replace(app.settings, **changes))
    assert "\n" not in str(info.value)
    assert app.look(SAMPLE_CLIP, SAMPLE_QUESTION, app.settings).answer == SAMPLE_ANSWER


def test_a_video_that_is_too_large_or_too_long_is_not_read(app, monkeypatch):
    read = []
    monkeypatch.setattr(VideoModel, "read_video", lambda *_: read.append(1))
    for limits, message in (
        (Limits(max_bytes=3000), "this page takes up to 0 MB"),
        (Limits(max_seconds=2), "the video is 8 seconds long, this page takes up to 2 seconds"),
    ):
        monkeypatch.setattr(app, "limits", limits)
        monkeypatch.setattr(app, "_videos", Memory(1))
        with pytest.raises(InputError, match=message):
            app.look(SAMPLE_CLIP, "Anything new?", app.settings)
    assert read == []


def test_an_upload_s_folder_is_not_shown():
    path = "/tmp/gradio/0f3a/clip.mp4"
    assert without_folder(f"{path}: not a video", path) == "clip.mp4: not a video"
    assert without_folder("no video", None) == "no video"


# ---- methods


def test_controls_are_those_that_a_method_listens_to():
    all_of_them = {"tau", "segment_ratio", "cluster_ratio", "keep_ratio", "layer", "share"}
    assert controls_of("prunevid") == all_of_them
    assert controls_of("merge_only") == all_of_them - {"keep_ratio", "layer"}
    assert controls_of("evs") == {"share"}
    assert controls_of("look_m") == set()


def test_a_share_is_the_budget_or_what_the_method_makes_of_it():
    settings = Settings(share=0.3, layer=1)
    options = {
        name: options_of(replace(settings, method=name), num_layers=28, frames=16)
        for name in ("prunevid", "evs", "select_only", "prumerge")
    }
    assert options["prunevid"]["budget"] == 0.3 and options["prunevid"]["keep_ratio"] == 0.4
    assert 0.3 in options["evs"].values()
    assert options["select_only"]["keep_ratio"] < 0.3  # the first layers run on all tokens
    assert options["prumerge"] == {}


def test_every_method_that_fits_the_model_is_offered(app):
    assert {"prunevid", "fastv", "cdpruner"} < {*app.methods} and "full" not in app.methods
    assert app.left_out == {}


# ---- what is shown


def test_words_of_users_and_models_are_text(look):
    shown = parts.answers(replace(look, answer="<script>x</script>"), "a <b>limit</b>")
    assert "<script>" not in shown and "<b>" not in shown
    assert "&lt;script&gt;" in shown
    assert "<img" not in parts.message("clip\n<img src=x>.mp4")


def test_numbers_say_what_was_counted(look):
    shown = parts.numbers(look)
    kept = look.counts.kept_tokens
    assert f"{look.counts.merged_tokens} merged, {kept} kept, after layer 1 of 5" in shown
    assert f"{look.flops_ratio:.1%}" in shown and "pv-error" not in shown
    nothing = replace(look, counts=replace(look.counts, kept_tokens=0))
    assert "not one token was kept" in parts.numbers(nothing)


def test_pictures_follow_the_settings_and_the_segment(app, look):
    other = app.look(SAMPLE_CLIP, SAMPLE_QUESTION, replace(app.settings, keep_ratio=0.9))
    names = parts.segment_names(look)
    assert len(names) == look.counts.segments == 2
    assert parts.strip(look) == parts.strip(other)
    drawn = {parts.segment(each, index) for each in (look, other) for index in (0, 1)}
    assert len(drawn) == 4
    assert parts.segment(look, 7) == parts.segment(look, 1)


def test_dropped_tokens_are_dark_and_not_those_of_the_last_merged_one(app):
    look = app.look(SAMPLE_CLIP, SAMPLE_QUESTION, replace(app.settings, method="evs", share=0.2))
    is_dropped = look.drawn.merged_of[1] < 0
    assert is_dropped.any()
    merged, lit = (np.asarray(picture, dtype=float) for picture in _views(look.drawn, 1, 216)[2:])
    row, column = next(zip(*np.nonzero(is_dropped), strict=True))
    side = 216 // is_dropped.shape[0]
    place = np.s_[
        row * side + 9 : (row + 1) * side - 9, column * side + 9 : (column + 1) * side - 9
    ]
    plain = np.asarray(_views(look.drawn, 1, 216)[0], dtype=float)[place]
    assert merged[place].mean() == pytest.approx(0.4 * plain.mean(), abs=8)
    assert lit[place].mean() == pytest.approx(0.2 * plain.mean(), abs=8)
