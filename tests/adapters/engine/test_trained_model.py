"""Accuracy of the embedded model, on questions that it was not trained on: pruning that goes wrong
shows in answers.

The floors are far enough below what the model card reports that chance does not reach them.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import VideoModel, apply_method, prune
from prunevid_kernels.adapters.video.reader import read_video
from prunevid_kernels.benchmarks.datasets.synthetic import held_out_questions, make_clip
from prunevid_kernels.benchmarks.embedded import model as embedded_model
from prunevid_kernels.benchmarks.embedded.model import SELECTION_LAYER, load_embedded_model
from prunevid_kernels.benchmarks.support.environment import ROOT
from prunevid_kernels.benchmarks.train_tiny.measure import Accuracy, measure

QUESTIONS = 40


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return load_embedded_model()


@cache
def accuracy(method: str) -> Accuracy:
    return measure(load_embedded_model(), held_out_questions(QUESTIONS), method, lambda _: None)


@pytest.mark.one_version
def test_it_answers_with_all_visual_tokens() -> None:
    result = accuracy("full")
    assert result.macro > 0.93
    assert result.merged_share == result.kept_share == 1


@pytest.mark.one_version
def test_it_cannot_answer_blind() -> None:
    assert accuracy("blind").macro < 0.3


@pytest.mark.one_version
def test_pruned_as_published_it_still_answers_and_random_tokens_do_not() -> None:
    pruned, random = accuracy("prunevid"), accuracy("random_drop")
    assert pruned.kept_share == pytest.approx(random.kept_share) and pruned.kept_share < 0.2
    assert pruned.macro > accuracy("full").macro - 0.06
    assert pruned.macro > random.macro + 0.1


@pytest.mark.one_version
def test_what_shows_in_a_single_frame_survives_the_merge() -> None:
    by_type = accuracy("prunevid").by_type()
    assert min(by_type[kind] for kind in ("flash_color", "flash_corner")) > 0.8


@pytest.mark.one_version
def test_still_shapes_survive_the_merge() -> None:
    by_type = accuracy("prunevid").by_type()
    assert min(by_type[kind] for kind in ("color", "shape", "location")) > 0.8


def test_answers_are_whole_words_of_the_question_s_candidates(model: VideoModel) -> None:
    clip = make_clip("held_out", 3)
    for question in clip.questions:
        answer = model.generate(model.encode(clip.frames, question.text), max_new_tokens=8)
        assert answer in question.candidates, question


@pytest.mark.parametrize("method", ["full", "prunevid"])
def test_the_sample_clip_is_read_from_its_file(model: VideoModel, method: str) -> None:
    video = read_video(embedded_model.SAMPLE_CLIP, embedded_model.FRAMES)
    clip = make_clip("held_out", embedded_model.SAMPLE_INDEX)
    assert np.array_equal(video.indices // 8, np.arange(len(clip.frames)))
    options = {"layer": SELECTION_LAYER} if method == "prunevid" else {}
    with apply_method(model.model, method, options):
        encoded = model.encode(video.frames, embedded_model.SAMPLE_QUESTION)
        assert model.generate(encoded, max_new_tokens=4) == embedded_model.SAMPLE_ANSWER


def test_the_readme_says_what_becomes_of_the_sample_clip(model: VideoModel) -> None:
    video = read_video(embedded_model.SAMPLE_CLIP, embedded_model.FRAMES)
    with prune(model.model, PruneVidConfig(layer=SELECTION_LAYER)) as handle:
        encoded = model.encode(video.frames, embedded_model.SAMPLE_QUESTION)
        model.generate(encoded, max_new_tokens=1)
    call = handle.report.last
    told = (
        f"{call.tokens_before} tokens were merged into {call.tokens_merged}, "
        f"and {call.tokens_kept} of those were kept"
    )
    assert told in " ".join((ROOT / "README.md").read_text().split())


def test_it_is_small_and_the_pages_know_its_size(model: VideoModel) -> None:
    parameters = sum(p.numel() for p in model.model.parameters())
    num_bytes = sum(file.stat().st_size for file in embedded_model.EMBEDDED_MODEL.iterdir())
    assert parameters <= 3_000_000 and num_bytes <= 6_000_000
    size = f"{parameters / 1e6:.2f} million parameters"
    for page in (ROOT / "README.md", embedded_model.EMBEDDED_MODEL / "README.md"):
        assert size in " ".join(page.read_text().split())
