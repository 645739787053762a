"""``prunevid train-tiny``: a short run end to end, going on after a kill, and its parts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from prunevid_kernels.adapters.families.video_model import load_video_model
from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.cli import train_tiny as train_tiny_command
from prunevid_kernels.benchmarks.datasets.drawing import CELL_PX
from prunevid_kernels.benchmarks.datasets.synthetic import make_clip
from prunevid_kernels.benchmarks.train_tiny import batches as train_tiny_batches
from prunevid_kernels.benchmarks.train_tiny import produce
from prunevid_kernels.benchmarks.train_tiny import training as train_tiny
from prunevid_kernels.benchmarks.train_tiny.batches import (
    IGNORE,
    clip_batch,
    dense_frames,
    show_clips,
    to_pixels,
)
from prunevid_kernels.benchmarks.train_tiny.losses import answer_logits
from prunevid_kernels.benchmarks.train_tiny.model import (
    build_model,
    build_tokenizer,
    match_content,
    save_checkpoint,
)
from prunevid_kernels.benchmarks.train_tiny.muon import orthogonalise
from prunevid_kernels.benchmarks.train_tiny.tasks import PLAIN
from prunevid_kernels.benchmarks.train_tiny.training import CURRICULUM, Training, shortened

pytestmark = pytest.mark.one_version

# Every stage as it is, but with the smallest batches.
SMALL = tuple(
    replace(stage, clips=2, watched_frames=min(stage.watched_frames, 8)) for stage in CURRICULUM
)


@pytest.fixture
def small_curriculum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_tiny, "CURRICULUM", SMALL)


def train(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["train-tiny", *map(str, arguments)])


def error_of(result: Result) -> str:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("small_curriculum")
def test_a_short_run_writes_a_checkpoint_and_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ("--steps", "6", "--questions", "10")
    result = train("--out", whole, *options)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout.splitlines()[-1])
    assert record["checkpoint"] == str(whole) and record["steps"] == 6
    assert set(record["accuracy"]) == {"full", "prunevid", "random_drop", "drop_all", "blind"}
    assert not (whole / train_tiny_command.STATE_FILE).exists()
    assert "10 held-out questions" in (whole / "README.md").read_text(encoding="utf-8")
    model = load_video_model(whole, "cpu")
    clip = make_clip("held_out", 0)
    answer = model.generate(model.encode(clip.frames, "What shape is red?"), max_new_tokens=1)
    assert answer in ("", *PLAIN.words)

    # The same run, cut in the middle of a stage and of its optimisers' memory.
    monkeypatch.setattr(produce, "SAVE_EVERY_STEPS", 1)
    # Equal weights answer alike.
    monkeypatch.setattr(produce, "measure_and_describe", lambda *_: {})
    advance = Training.advance

    def kill_at_step_5(training: Training) -> tuple[float, float]:
        if training.steps_done == 5:
            raise KeyboardInterrupt
        return advance(training)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", kill_at_step_5)
        assert train("--out", killed, *options).exit_code != 0
    assert not (killed / "model.safetensors").exists()
    assert "is not empty; --resume" in error_of(train("--out", killed, *options))
    other = error_of(train("--out", killed, *options, "--resume", "--seed", "1"))
    assert "a run for the plain task with seed 0" in other
    assert train("--out", killed, *options, "--resume").exit_code == 0
    assert weights(killed) == weights(whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--resume"], "--resume: there is no unfinished run", id="nothing-to-resume"),
        pytest.param(["--steps", "2"], "--steps: steps must be in [3,", id="too-few-steps"),
        pytest.param(["--steps", "99999"], "--steps: steps must be in [3,", id="too-many-steps"),
        pytest.param(["--device", "abacus"], "--device: 'abacus' cannot be used", id="device"),
    ],
)
def test_bad_options_end_in_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    assert message in error_of(train("--out", tmp_path / "new", *arguments))


def test_out_must_be_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert "is not a folder" in error_of(train("--out", file))


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / train_tiny_command.STATE_FILE).write_bytes(b"no state")
    assert "not the state of a training run" in error_of(train("--out", tmp_path, "--resume"))


@pytest.mark.parametrize("steps", [3, 4, 10, 101, sum(stage.steps for stage in CURRICULUM)])
def test_a_shortened_curriculum_has_the_steps_asked_for(steps: int) -> None:
    shares = [stage.steps for stage in shortened(CURRICULUM, steps)]
    assert sum(shares) == steps and min(shares) >= 1
    whole = [stage.steps for stage in CURRICULUM]
    for share, stage in zip(shares, whole, strict=True):
        assert abs(share - steps * stage / sum(whole)) < 2


@pytest.mark.parametrize("num_frames", [1, 5])
def test_questions_that_share_a_video_get_what_they_would_get_alone(
    num_frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp64, so that another order of sums cannot hide another result."""
    monkeypatch.setattr(train_tiny_batches, "COMPRESSED_SHARE", 0.0)
    tokenizer = build_tokenizer()
    save_checkpoint(build_model(seed=1), tokenizer, tmp_path)
    alone = load_video_model(tmp_path, "cpu", dtype=torch.float64)
    clips = [make_clip("train", index, num_frames=num_frames) for index in range(3)]
    batch = clip_batch(tokenizer, clips, np.random.default_rng(3))
    batch = replace(batch, shown=replace(batch.shown, pixels=batch.shown.pixels.double()))
    with torch.no_grad():
        shared, _ = answer_logits(alone.model, batch)
        for row, clip in enumerate(clips):
            for column, question in enumerate(clip.questions[: shared.shape[1]]):
                inputs = alone.encode(clip.frames, question.text)
                inputs["pixel_values_videos"] = batch.shown.pixels[row][None]
                expected = alone.model(**inputs).logits[0, -1]
                at = int((batch.labels[row, column] != IGNORE).nonzero()[0])
                torch.testing.assert_close(
                    shared[row, column, at], expected, rtol=0, atol=1e-10 * expected.abs().max()
                )


def test_compressed_positions_never_descend_and_leave_every_token_in_place() -> None:
    clips = [make_clip("train", index) for index in range(12)]
    shown = show_clips(clips, np.random.default_rng(0))
    steps = shown.positions.diff(dim=1)
    assert ((steps == 0) | (steps == 1)).all()
    is_compressed = (steps == 0).any(dim=1)
    assert 2 < is_compressed.sum() < 10
    for row, clip in enumerate(clips):
        torch.testing.assert_close(shown.pixels[row], to_pixels(clip.frames), rtol=0, atol=0)


def test_thinned_frames_lack_the_removed_shapes_and_nothing_else() -> None:
    frames = dense_frames(12, np.random.default_rng(0))
    changes = (frames.pixels - frames.thinned).abs()[:, 0]  # [B, 3, H, W]
    cells = changes.unfold(2, CELL_PX, CELL_PX).unfold(3, CELL_PX, CELL_PX)
    largest = cells.amax(dim=(1, 4, 5)).flatten(1)  # [B, 36]
    noise = 12 / 127.5  # two cameras' noise of 5 levels, rounded
    assert (largest[~frames.is_removed] <= noise).all()
    assert (largest[frames.is_removed] > noise).all()
    assert (frames.color[frames.is_removed] != IGNORE).all()
    shown = frames.color != IGNORE
    assert 0 < frames.is_removed.sum() < shown.sum() < shown.numel()


def test_every_word_of_questions_and_answers_is_in_the_vocabulary() -> None:
    tokenizer = build_tokenizer()
    for index in range(40):
        for question in make_clip("train", index).questions:
            ids = tokenizer(question.text).input_ids
            assert tokenizer.unk_token_id not in ids
            for word in question.candidates:
                (word_id,) = tokenizer(word).input_ids
                assert tokenizer.decode([word_id]) == word != tokenizer.unk_token


def test_attention_begins_as_a_search_for_equal_content() -> None:
    model, tokenizer = build_model(seed=0), build_tokenizer()
    group = torch.tensor(tokenizer.convert_tokens_to_ids(["red", "green", "blue", "cyan"]))
    match_content(model, [group], torch.Generator().manual_seed(0))
    attention = model.model.language_model.layers[2].self_attn
    words = model.get_input_embeddings().weight[group]
    head = slice(0, attention.head_dim)
    scores = (words @ attention.q_proj.weight[head].T) @ (words @ attention.k_proj.weight[head].T).T
    assert scores.argmax(dim=1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", [(3, 128, 128), (2, 64, 128), (1, 256, 31)])
def test_orthogonalise_keeps_directions_and_evens_out_sizes(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalise(matrices)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inner = left.mT @ result @ right.mT  # diagonal where the singular vectors are the same
    sizes = inner.diagonal(dim1=1, dim2=2)
    # The smallest singular values of a square matrix need more steps than it takes.
    assert sizes.max() < 1.3 and sizes.median() > 0.65
    torch.testing.assert_close(inner, torch.diag_embed(sizes), rtol=0, atol=1e-4)
