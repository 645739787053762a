"""``VideoModel.ask``: one call gives what reading, encoding, pruning and generating give."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from documents import README
from tiny_folders import write_grid

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import (
    ModelError,
    PruningMethod,
    Reply,
    VideoModel,
    load_video_model,
    prune,
    share_vision,
)
from prunevid_kernels.adapters.engine.engine import find_engine
from prunevid_kernels.adapters.methods.registry import build_method
from prunevid_kernels.adapters.video.reader import VideoError
from prunevid_kernels.benchmarks.embedded import (
    SAMPLE_ANSWER,
    SAMPLE_CLIP,
    SAMPLE_QUESTION,
    SELECTION_LAYER,
    load_embedded_model,
)

CONFIG = PruneVidConfig(layer=SELECTION_LAYER)
# Videos as one stretch of placeholders, videos with a clock between their frames, frames as images.
FAMILIES = ("llava_onevision", "qwen3_vl", "internvl", "smolvlm")
OTHERS = ("pllava", "st_llm", "llava_next_video", "qwen2_vl", "qwen2_5_vl", "video_llama_3")


@pytest.fixture(scope="module")
def embedded() -> VideoModel:
    return load_embedded_model()


@pytest.mark.parametrize(
    "name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.full) for name in OTHERS)]
)
def test_a_reply_is_what_the_single_steps_give(folders, name, tmp_path):
    model = load_video_model(folders.get(name) or write_grid(tmp_path / name, kind=name))
    count = 2 if name == "video_llama_3" else 8
    # More tokens a frame than are always passed through, where the size decides how many there are.
    frames = np.random.default_rng(3).integers(0, 256, (count, 112, 168, 3), dtype=np.uint8)
    seconds = np.arange(count) / 2
    config = PruneVidConfig(layer=len(model.model.get_decoder().layers) // 2)
    inputs = model.encode(frames, "What is blue?", seconds=seconds)
    bare = model.generate(inputs, max_new_tokens=3)
    with prune(model.model, config) as handle:
        pruned = model.generate(inputs, max_new_tokens=3)

    unpruned_reply = model.ask(frames, "What is blue?", seconds=seconds, max_new_tokens=3)
    reply = model.ask(frames, "What is blue?", config, seconds=seconds, max_new_tokens=3)
    assert isinstance(reply, Reply)
    assert (unpruned_reply.answer, unpruned_reply.report) == (bare, None)
    assert reply.answer == pruned and reply.report is not None
    expected = handle.report.last.videos[0]
    assert torch.equal(reply.report.videos[0].kept, expected.kept)
    assert reply.report.tokens_kept < reply.report.tokens_merged < reply.report.tokens_before
    assert reply.frames is frames and reply.timestamps_s.tolist() == seconds.tolist()
    assert find_engine(model.model) is None


def test_a_file_is_read_as_the_model_takes_it(embedded):
    video = embedded.read_video(SAMPLE_CLIP)
    replies = [embedded.ask(v, SAMPLE_QUESTION, CONFIG) for v in (SAMPLE_CLIP, str(SAMPLE_CLIP))]
    replies.append(embedded.ask(video, SAMPLE_QUESTION, CONFIG))
    for reply in replies:
        assert reply.answer == SAMPLE_ANSWER
        assert np.array_equal(reply.frames, video.frames)
        assert np.array_equal(reply.timestamps_s, video.timestamps_s)
    assert len(embedded.ask(SAMPLE_CLIP, SAMPLE_QUESTION, num_frames=3).frames) == 3


def test_neither_torchvision_nor_torchcodec_is_used(embedded):
    embedded.ask(SAMPLE_CLIP, SAMPLE_QUESTION, CONFIG)
    assert not {"torchvision", "torchcodec"} & set(sys.modules)


@pytest.mark.parametrize("method", ["merge_only", build_method("merge_only", {"tau": 0.8})])
def test_another_method_by_its_name_or_itself(embedded, method):
    report = embedded.ask(SAMPLE_CLIP, SAMPLE_QUESTION, method=method).report
    assert report.method == "merge_only"
    assert report.tokens_kept == report.tokens_merged < report.tokens_before


def test_options_reach_generate(embedded):
    reply = embedded.ask(SAMPLE_CLIP, SAMPLE_QUESTION, max_new_tokens=4, min_new_tokens=4)
    assert len(embedded.tokenizer(reply.answer)["input_ids"]) >= 3


def test_questions_about_one_video_share_its_features(embedded):
    video = embedded.read_video(SAMPLE_CLIP)
    with share_vision(embedded.model) as shared:
        first = embedded.ask(video, SAMPLE_QUESTION, CONFIG)
        assert shared.saved_s == 0
        second = embedded.ask(video, SAMPLE_QUESTION)
        assert shared.saved_s > 0
    assert first.answer == second.answer == SAMPLE_ANSWER


def refused(model, error, message, *args, **options):
    with pytest.raises(error, match=re.escape(message)) as info:
        model.ask(*args, **options)
    assert "\n" not in str(info.value)
    assert find_engine(model.model) is None


FRAMES = np.zeros((8, 24, 24, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        pytest.param(("no.mp4", "?"), {}, VideoError, "no.mp4: no such file", id="no-file"),
        pytest.param((__file__, "?"), {}, VideoError, "test_ask.py: ", id="no-video"),
        pytest.param(
            (SAMPLE_CLIP, " "), {}, ModelError, "the question is empty", id="empty-question"
        ),
        pytest.param(
            (FRAMES, 7), {}, TypeError, "question must be a string, got int", id="no-text"
        ),
        pytest.param(
            (FRAMES, "<video>?"), {}, ModelError, "must not contain the placeholder", id="reserved"
        ),
        pytest.param(
            ([1], "?"), {}, TypeError, "frames [T, H, W, 3] uint8, got list", id="list-of-frames"
        ),
        pytest.param((FRAMES[0], "?"), {}, ModelError, "got [24, 24, 3] uint8", id="one-frame"),
        pytest.param(
            (FRAMES, "?", 0.5),
            {},
            TypeError,
            "config must be a PruneVidConfig, got float",
            id="0.5",
        ),
        pytest.param(
            (FRAMES, "?", CONFIG), {"method": "fastv"}, TypeError, "give one of the two", id="both"
        ),
        pytest.param(
            (FRAMES, "?"), {"method": "fastw"}, ValueError, "unknown method 'fastw'", id="unknown"
        ),
        pytest.param(
            (FRAMES, "?"),
            {"method": PruningMethod},
            TypeError,
            "method must be a name or a PruningMethod, got type",
            id="class",
        ),
        pytest.param(
            (FRAMES, "?", PruneVidConfig()), {}, ValueError, "choose one, as in", id="no-such-layer"
        ),
        pytest.param(
            (FRAMES, "?"),
            {"max_new_tokens": 0},
            ValueError,
            "max_new_tokens must be an integer >= 1, got 0",
            id="no-answer",
        ),
        pytest.param(
            (SAMPLE_CLIP, "?"),
            {"num_frames": 2.5},
            ValueError,
            "num_frames must be an integer >= 1, got 2.5",
            id="half-a-frame",
        ),
        pytest.param(
            (FRAMES, "?"), {"num_frames": 4}, TypeError, "these frames are read", id="too-late"
        ),
        pytest.param(
            (FRAMES, "?"), {"seconds": [1.0]}, ModelError, "times of the 8 frames", id="one-time"
        ),
        pytest.param(
            (SAMPLE_CLIP, "?"), {"seconds": [1.0]}, TypeError, "has its own", id="two-clocks"
        ),
    ],
)
def test_bad_input_is_one_clear_error(embedded, args, options, error, message):
    refused(embedded, error, message, *args, **options)


def test_a_model_that_is_pruned_already_gives_no_unpruned_answer(embedded):
    with prune(embedded.model, CONFIG) as handle:
        with pytest.raises(ValueError, match="so this would be no unpruned answer"):
            embedded.ask(FRAMES, "?")
        with pytest.raises(ValueError, match="already pruned"):
            embedded.ask(FRAMES, "?", CONFIG)
        embedded.generate(embedded.encode(FRAMES, "?"), max_new_tokens=1)
    assert len(handle.report.calls) == 1


def test_pruning_that_begins_while_an_unpruned_question_is_read_is_no_unpruned_answer(
    embedded, monkeypatch
):
    encode = VideoModel.encode
    handles = []

    def encode_while_another_prunes(self, *args, **kwargs):
        inputs = encode(self, *args, **kwargs)
        handles.append(prune(self.model, CONFIG))
        return inputs

    monkeypatch.setattr(VideoModel, "encode", encode_while_another_prunes)
    with pytest.raises(ValueError, match="another thread, so this would be no unpruned answer"):
        embedded.ask(SAMPLE_CLIP, SAMPLE_QUESTION)
    with pytest.warns(UserWarning):  # nothing was pruned by it
        handles[0].remove()


def test_threads_that_ask_one_model_get_their_own_answers(embedded):
    """One prunes, the other does not, at the same time."""
    video = embedded.read_video(SAMPLE_CLIP)
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(embedded.ask, video, SAMPLE_QUESTION, config, max_new_tokens=2)
            for config in (CONFIG, None) * 3
        ]
        replies = [question.result() for question in asked]
    assert {reply.answer for reply in replies} == {SAMPLE_ANSWER}
    assert [reply.report is None for reply in replies] == [False, True] * 3


@pytest.mark.parametrize("count", [0, True, 1.5, "3"])
def test_no_number_of_frames_is_read_as_the_default(embedded, count):
    with pytest.raises(ValueError, match=f"num_frames must be an integer >= 1, got {count!r}"):
        embedded.read_video(SAMPLE_CLIP, count)


def test_frames_without_a_pixel_and_an_empty_path_are_refused(embedded):
    with pytest.raises(ModelError, match="frames must be"):
        embedded.ask(np.zeros((2, 0, 8, 3), dtype=np.uint8), SAMPLE_QUESTION)
    with pytest.raises(VideoError, match="the video's path is empty"):
        embedded.ask("", SAMPLE_QUESTION)


@pytest.mark.parametrize(
    "option", ["max_length", "num_return_sequences", "return_dict_in_generate"]
)
def test_options_that_make_another_answer_are_refused_before_the_run(embedded, option):
    with pytest.raises(TypeError, match=f"{option}: ask gives one answer"):
        embedded.ask(SAMPLE_CLIP, SAMPLE_QUESTION, **{option: 2})


def test_prunevid_by_its_name_is_pruning_with_its_defaults(embedded):
    """Of which the embedded model knows a layer that it has."""
    by_config = embedded.ask(SAMPLE_CLIP, SAMPLE_QUESTION, CONFIG)
    for reply in (
        embedded.ask(SAMPLE_CLIP, SAMPLE_QUESTION, method="prunevid"),
        embedded.ask(SAMPLE_CLIP, SAMPLE_QUESTION, CONFIG, method="prunevid"),
    ):
        assert reply.answer == SAMPLE_ANSWER and reply.report.method == "prunevid"
        assert torch.equal(reply.report.videos[0].kept, by_config.report.videos[0].kept)
    assert embedded.ask(SAMPLE_CLIP, SAMPLE_QUESTION, method="fastv").report.layer == 1  # its own


def test_a_clock_for_a_file_is_refused_before_it_is_read(embedded, monkeypatch):
    monkeypatch.setattr(VideoModel, "read_video", lambda *_: pytest.fail("was read"))
    for video in (SAMPLE_CLIP, str(SAMPLE_CLIP)):
        refused(embedded, TypeError, "has its own", video, "?", seconds=[1.0])


def test_the_docstring_says_what_comes_back():
    assert "Returns:" in VideoModel.ask.__doc__


def test_the_readme_s_headline_and_the_share_that_it_is(embedded):
    report = embedded.ask(SAMPLE_CLIP, SAMPLE_QUESTION, CONFIG).report
    early = CONFIG.layer + 1
    ran_on = early * report.tokens_merged + (5 - early) * report.tokens_kept
    readme = README.read_text(encoding="utf-8")
    for share in (report.tokens_kept, ran_on / 5):
        assert f"{share / report.tokens_before:.1%}" in readme
