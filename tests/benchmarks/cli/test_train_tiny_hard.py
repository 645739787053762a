"""``prunevid train-tiny --task hard``: begins with the plain model, and is taught where to look."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from prunevid_kernels.adapters.engine.interface import VisionAttention
from prunevid_kernels.adapters.families.video_model import load_video_model
from prunevid_kernels.adapters.methods.vision import importance
from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.datasets import synthetic_hard
from prunevid_kernels.benchmarks.embedded.model import load_embedded_model
from prunevid_kernels.benchmarks.train_tiny import losses
from prunevid_kernels.benchmarks.train_tiny import training as train_tiny
from prunevid_kernels.benchmarks.train_tiny.batches import IGNORE, dense_frames, show_clips
from prunevid_kernels.benchmarks.train_tiny.losses import visual_features
from prunevid_kernels.benchmarks.train_tiny.model import build_model, build_tokenizer
from prunevid_kernels.benchmarks.train_tiny.tasks import HARD, PLAIN
from prunevid_kernels.benchmarks.train_tiny.training import HARD_CURRICULUM, Training

pytestmark = pytest.mark.one_version

# Every stage as it is, but with the smallest batches.
SMALL = tuple(
    replace(stage, clips=2, frames=tuple(min(n, 4) for n in stage.frames))
    for stage in HARD_CURRICULUM
)


def test_a_short_run_writes_a_checkpoint_and_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_tiny, "HARD_CURRICULUM", SMALL)
    monkeypatch.setattr(train_tiny, "STANDARDISING_FRAMES", 4)
    out = tmp_path / "hard"
    options = ["--task", "hard", "--steps", "4", "--questions", "10"]
    result = CliRunner().invoke(app, ["train-tiny", "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout.splitlines()[-1])
    assert record["task"] == "hard" and set(record["accuracy"]) == {"full", "drop_all", "blind"}
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "# Tiny video QA, hard" in card and "in 4 steps" in card
    for kind in synthetic_hard.HELD_OUT_TYPES:
        assert f"| {kind} |" in card
    model = load_video_model(out, "cpu")
    assert model.default_frames == synthetic_hard.FRAMES


def test_an_unknown_task_ends_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train-tiny", "--out", str(tmp_path), "--task", "harder"])
    assert result.exit_code == 2
    assert "--task must be one of plain, hard, got 'harder'" in result.stderr


def test_a_run_for_one_task_does_not_go_on_as_one_for_the_other(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    Training(0, "cpu", SMALL, HARD).save(state)
    with pytest.raises(train_tiny.StateError, match="a run for the hard task with seed 0"):
        Training(0, "cpu", task=PLAIN).load(state)


def test_it_begins_as_the_plain_model() -> None:
    plain, hard = load_embedded_model().model, build_model(seed=0, task=HARD)
    assert HARD.words[: len(PLAIN.words)] == PLAIN.words
    assert len(HARD.words) == len(set(HARD.words)) == hard.get_input_embeddings().num_embeddings
    given, own = plain.get_input_embeddings().weight, hard.get_input_embeddings().weight
    assert torch.equal(own[: len(given)], given)
    pixels = torch.rand(1, 2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.equal(visual_features(hard, pixels), visual_features(plain, pixels))


def test_every_word_of_the_harder_questions_is_in_the_vocabulary() -> None:
    tokenizer = build_tokenizer(HARD)
    for num_frames in (16, 32):
        for index in range(6):
            for question in synthetic_hard.make_clip(
                "train", index, num_frames=num_frames
            ).questions:
                words = tokenizer(" ".join((question.text, *question.candidates))).input_ids
                assert tokenizer.unk_token_id not in words
                for word in question.candidates:
                    assert len(tokenizer(word).input_ids) == 1


def test_positions_of_short_clips_reach_as_far_as_those_of_the_longest() -> None:
    clips = [synthetic_hard.make_clip("train", index, num_frames=4) for index in range(24)]
    shown = show_clips(clips, np.random.default_rng(0), longest=32)
    steps = shown.positions.diff(dim=1)
    assert steps.min() >= 0
    lengths = shown.positions[:, -1]
    assert (lengths < 143).any() and (lengths == 143).any() and (lengths > 4 * 143).any()
    assert lengths.max() <= 32 * 36


def test_attention_of_the_tower_is_what_methods_rank_tokens_by() -> None:
    model = build_model(seed=0, task=HARD)
    frames = dense_frames(3, np.random.default_rng(0), HARD)
    last = model.model.vision_tower.encoder.layers[-1].self_attn
    seen: dict[str, torch.Tensor] = {}
    for name in ("q_proj", "k_proj"):
        getattr(last, name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output})
        )
    with torch.no_grad(), losses._last_attention(model) as attention:
        visual_features(model, frames.pixels)
        cells = attention()
    facts = VisionAttention(
        query=last.q_proj,
        key=last.k_proj,
        num_heads=last.num_heads,
        encoder=model.model.vision_tower,
        has_class_token=False,
        tokens=slice(None),
        pool=lambda patches, _: patches,
    )
    patches = importance(facts, seen["q_proj"], seen["k_proj"])
    expected = patches.unflatten(-1, (6, 2, 6, 2)).sum(dim=(2, 4)).flatten(1)
    torch.testing.assert_close(cells, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(cells.sum(dim=1), torch.ones(3))


def test_attention_is_drawn_to_the_cells_with_a_shape_and_to_all_alike() -> None:
    frames = dense_frames(6, np.random.default_rng(0), HARD)
    shows = (frames.color != IGNORE).float()
    assert (shows.sum(dim=1) > 0).all()
    scores = torch.zeros(6, 36, requires_grad=True)
    for _ in range(400):
        losses._where_loss(scores.softmax(dim=1), frames).backward()
        scores.data -= 10 * scores.grad
        scores.grad = None
    shares = scores.softmax(dim=1).detach()
    torch.testing.assert_close(shares, shows / shows.sum(dim=1, keepdim=True), rtol=0, atol=0.02)


def test_an_empty_frame_pulls_attention_nowhere() -> None:
    frames = dense_frames(2, np.random.default_rng(0), HARD)
    empty = replace(frames, color=torch.full_like(frames.color, IGNORE))
    assert losses._where_loss(torch.full((2, 36), 1 / 36), empty) == 0
