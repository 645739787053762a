"""``prunevid run`` on good input: counts, answers, streams, options."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import DATA
from PIL import Image
from typer.testing import CliRunner

from prunevid_kernels import PruneVidConfig, __version__, merge_video
from prunevid_kernels.adapters.families.shape import DecoderShape
from prunevid_kernels.adapters.methods.prunevid import PruneVid
from prunevid_kernels.adapters.video.reader import read_video
from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.cost.flops.decoder import flops_ratio
from prunevid_kernels.benchmarks.embedded.model import (
    EMBEDDED_MODEL,
    LIMITS,
    SAMPLE_ANSWER,
    SAMPLE_CLIP,
    SAMPLE_QUESTION,
    SELECTION_LAYER,
    load_embedded_model,
)

# What the command prints; test_run_families.py and the engine's tests run models on each version.
pytestmark = pytest.mark.one_version


def test_default_run_says_what_it_used(default_run) -> None:
    assert default_run.exit_code == 0, default_run.stderr
    assert LIMITS in default_run.stdout
    assert default_run.record["random_weights"] is False
    assert default_run.record["video"] == str(SAMPLE_CLIP)
    assert default_run.record["question"] == SAMPLE_QUESTION
    assert default_run.record["config"]["layer"] == SELECTION_LAYER


def test_progress_is_on_stderr_and_the_result_on_stdout(default_run) -> None:
    assert "Answering, pruned: " in default_run.stderr
    record = default_run.record
    tokens = record["visual_tokens"] + record["other_tokens"]
    assert f"Warming up, {tokens:,} tokens ...\n" in default_run.stderr
    begun = default_run.stderr.index("Answering, pruned ...\n")
    assert begun < default_run.stderr.index("Answering, pruned: "), "told when it begins"
    assert "Answering, pruned: " not in default_run.stdout
    assert default_run.stdout.splitlines()[-2].startswith("report ")
    assert "Traceback" not in default_run.stderr


def test_counts_are_those_of_the_merge_itself(default_run) -> None:
    """The same features through the public function give the same tokens."""
    model = load_embedded_model()
    video = read_video(SAMPLE_CLIP, 8)
    pixels = model.encode(video.frames, SAMPLE_QUESTION)["pixel_values_videos"]
    with torch.no_grad():
        features = model.model.get_video_features(pixels).pooler_output.flatten(0, -2)
    merged = merge_video(features[: 8 * 36].reshape(8, 36, -1), PruneVidConfig(layer=1))
    record, sizes = default_run.record, merged.layout.group_sizes
    assert record["visual_tokens"] == 8 * 36
    assert record["merged_tokens"] == len(merged.tokens)
    assert record["kept_tokens"] == sum(int(size * 0.4) for size in sizes.tolist())
    assert record["static_share"] == pytest.approx(
        merged.layout.static_mask().float().mean().item()
    )


def test_sample_question_is_answered_rightly_with_and_without_pruning(default_run) -> None:
    assert default_run.record["answer"] == SAMPLE_ANSWER
    assert default_run.record["unpruned_answer"] == SAMPLE_ANSWER
    assert default_run.record["kept_tokens"] < 0.2 * default_run.record["visual_tokens"]


def test_flops_ratio_follows_from_the_printed_counts(default_run) -> None:
    record = default_run.record
    shape = DecoderShape.from_text_config(load_embedded_model().model.config.text_config)
    merged = record["merged_tokens"] + record["other_tokens"]
    kept = record["kept_tokens"] + record["other_tokens"]
    lengths = [merged] * (record["layer"] + 1) + [kept] * (shape.num_layers - record["layer"] - 1)
    unpruned = record["visual_tokens"] + record["other_tokens"]
    for form in ("paper", "exact"):
        expected = flops_ratio(lengths, unpruned, shape, form)
        assert record[f"flops_ratio_{form}"] == pytest.approx(expected)
    assert f"{record['flops_ratio_exact']:.1%} of the unpruned prompt's" in default_run.stdout


def test_seconds_of_every_stage_are_there_and_add_up(default_run) -> None:
    seconds, unpruned = default_run.record["seconds"], default_run.record["unpruned_seconds"]
    assert set(seconds) - set(unpruned) == {"merge", "scoring", "gather"}
    assert all(value >= 0 for value in [*seconds.values(), *unpruned.values()])
    assert seconds["merge"] > 0 and seconds["scoring"] > 0 and seconds["gather"] > 0


def test_a_slow_merge_is_in_the_merge_s_time_alone(
    prunevid, clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder's time has the merge in it and is printed without; the tower's has not.

    The clock is the test's: a merge takes half a second, every other reading a microsecond.
    """
    merge, pause_s, now_s = PruneVid.merge, 0.5, 0.0

    def slow(*args: Any, **kwargs: Any) -> Any:
        nonlocal now_s
        now_s += pause_s
        return merge(*args, **kwargs)

    def clock() -> float:
        nonlocal now_s
        now_s += 1e-6
        return now_s

    monkeypatch.setattr(PruneVid, "merge", slow)
    monkeypatch.setattr(time, "perf_counter", clock)
    seconds = prunevid("--video", clip, "--question", "q", "--frames", "2").record["seconds"]
    assert seconds["merge"] >= pause_s
    assert 0 < seconds["prompt through the decoder"] < pause_s
    assert 0 < seconds["vision tower and projector"] < pause_s


def test_answers_are_words(default_run) -> None:
    for key in ("answer", "unpruned_answer"):
        assert re.fullmatch(r"[a-z ]+", default_run.record[key])


def test_unpruned_answer_is_that_of_the_untouched_model(default_run) -> None:
    model = load_embedded_model()
    inputs = model.encode(read_video(SAMPLE_CLIP, 8).frames, SAMPLE_QUESTION)
    output = model.model.generate(**inputs, max_new_tokens=16)
    words = model.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    assert default_run.record["unpruned_answer"] == words.replace("<|im_end|>", "").strip()


def test_the_embedded_checkpoint_by_its_path_is_the_embedded_model(prunevid, clip) -> None:
    shared = ("--video", clip, "--question", "What moves?", "--frames", "6")
    embedded = prunevid(*shared).record
    loaded = prunevid(*shared, "--model", EMBEDDED_MODEL, "--config", "layer=1")
    assert LIMITS not in loaded.stdout
    for key in ("answer", "unpruned_answer", "merged_tokens", "kept_tokens"):
        assert loaded.record[key] == embedded[key]


def test_fewer_frames_than_asked_are_all_frames(prunevid, clip) -> None:
    outcome = prunevid("--video", clip, "--question", "q", "--frames", "50")
    assert outcome.record["frames"] == 8
    assert "(all 8 frames, " in outcome.stdout


@pytest.mark.parametrize(("options", "reader"), [((), "decord"), (("--reader", "pyav"), "pyav")])
def test_the_result_says_what_read_the_video(
    prunevid, clip: Path, options: tuple[str, ...], reader: str
) -> None:
    outcome = prunevid("--video", clip, "--question", "q", "--frames", "2", *options)
    assert (outcome.record["reader"], outcome.record["reader_reason"]) == (reader, None)
    assert "not decord" not in outcome.stdout
    assert f"read by {reader}." in " ".join(outcome.html.split())


def test_a_video_that_decord_would_read_wrongly_with_a_name_that_is_no_text(
    prunevid, tmp_path: Path
) -> None:
    """The command says why it was PyAV, and every output can be written."""
    video = tmp_path / os.fsdecode(b"caf\xe9.webm")
    shutil.copy(DATA / "video" / "vp9_2pass.webm", video)
    outcome = prunevid("--video", video, "--question", "q", "--frames", "4")
    assert outcome.exit_code == 0, outcome.stderr
    reason = "it does not read vp9 rightly"
    assert (outcome.record["reader"], outcome.record["reader_reason"]) == ("pyav", reason)
    assert outcome.record["video"].endswith("caf\\udce9.webm")
    assert f"read by PyAV, not decord: {reason}" in outcome.stdout
    assert "caf\\udce9.webm" in outcome.html


def test_folder_of_frames(prunevid, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(np.full((40, 60, 3), 60 * index, np.uint8)).save(folder / f"{index}.png")
    outcome = prunevid("--video", folder, "--question", "q")
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.record["frames"] == 3
    assert outcome.record["reader"] == "images"


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("items", "key", "value"),
    [
        pytest.param(["keep_ratio=0.25"], "keep_ratio", 0.25, id="number"),
        pytest.param(["score=rope"], "score", "rope", id="bare-word"),
        pytest.param(['score="rope"'], "score", "rope", id="quoted-word"),
        pytest.param(["budget=null"], "budget", None, id="null"),
        pytest.param(["tau=0.7", "tau=0.9"], "tau", 0.9, id="later-wins"),
    ],
)
def test_config_values(prunevid, clip, items: list[str], key: str, value: object) -> None:
    options = [part for item in items for part in ("--config", item)]
    outcome = prunevid("--video", clip, "--question", "q", "--frames", "4", *options)
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.record["config"][key] == value


def test_config_file_and_pair_together(prunevid, clip, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"keep_ratio": 0.5, "layer": 1}')
    options = ("--config", file, "--config", "layer=3")
    record = prunevid("--video", clip, "--question", "q", "--frames", "4", *options).record
    assert (record["config"]["keep_ratio"], record["layer"]) == (0.5, 3)


@pytest.mark.parametrize("keep_ratio", ["0.2", "0.6"])
def test_keep_ratio_reaches_the_model(prunevid, clip, keep_ratio: str) -> None:
    options = ("--config", f"keep_ratio={keep_ratio}", "--config", "selection=global")
    record = prunevid("--video", clip, "--question", "q", "--frames", "4", *options).record
    assert record["kept_tokens"] == int(record["merged_tokens"] * float(keep_ratio))


def test_merge_only_has_no_heat_map(prunevid, clip) -> None:
    options = ("--config", "select=false", "--frames", "4")
    outcome = prunevid("--video", clip, "--question", "q", *options)
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.record["layer"] is None
    assert outcome.record["kept_tokens"] == outcome.record["merged_tokens"] < 4 * 144
    assert not (outcome.folder / "heat.png").exists()
    assert 'id="attention"' not in outcome.html


@pytest.mark.filterwarnings("ignore::prunevid_kernels.adapters.NothingPrunedWarning")
def test_a_config_that_prunes_nothing_says_so(prunevid, clip) -> None:
    options = ("--config", "select=false", "--config", "merge=false", "--frames", "4")
    outcome = prunevid("--video", clip, "--question", "q", *options)
    assert "WARNING: nothing was pruned" in outcome.stdout
    assert 'id="nothing-pruned"' in outcome.html
    assert outcome.record["flops_ratio_exact"] == 1.0
    assert outcome.record["answer"] == outcome.record["unpruned_answer"]


def test_max_new_tokens_bounds_the_answer(prunevid, clip) -> None:
    options = ("--frames", "4", "--max-new-tokens", "3")
    record = prunevid("--video", clip, "--question", "q", *options).record
    assert len(record["unpruned_answer"].split()) <= 3


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"prunevid {__version__}\n")


def test_a_question_with_escape_sequences_is_asked_and_printed_as_text(prunevid) -> None:
    question = "what color\x1b[2J is the circle ?\nanswer  x"
    outcome = prunevid("--question", question, "--frames", "2")
    assert outcome.exit_code == 0, outcome.stderr
    assert "\x1b" not in outcome.stdout
    printed = "question       what color[2J is the circle ?\n               answer  x\n"
    assert f"\n{printed}" in outcome.stdout
