"""Where merged tokens stand in time: what the decoder is told, and the command that measures it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from prunevid_kernels import TokenLayout
from prunevid_kernels.benchmarks.datasets.drawing import GRID
from prunevid_kernels.benchmarks.datasets.synthetic import (
    FRAMES,
    QUESTION_TYPES,
    held_out_questions,
    make_clip,
)
from prunevid_kernels.benchmarks.train_tiny import time_axis
from prunevid_kernels.benchmarks.train_tiny.placement import (
    BACKWARDS,
    PLACEMENTS,
    SPACING,
    UNMERGED,
    Answer,
    Asked,
    PlacedMerge,
    answer_logits,
    main,
    mean_positions,
    moved,
)
from prunevid_kernels.benchmarks.train_tiny.time_axis import FORMATS, TimedModel, begin

pytestmark = pytest.mark.one_version
N = GRID**2


@pytest.fixture(scope="module", params=FORMATS)
def timed(request: pytest.FixtureRequest) -> TimedModel:
    return begin(request.param)


def layout() -> TokenLayout:
    """Two segments, of 3 and 2 frames of 3 tokens: places 0 and 2 are static in the first and
    merged into one, place 1 in the second."""
    return TokenLayout.from_sizes(
        torch.tensor([3, 2]),
        torch.tensor([1, 1]),
        torch.tensor([1, 1, 1, 1, 1]),
        source_to_merged=torch.tensor([[0, 1, 0], [0, 2, 0], [0, 3, 0], [5, 4, 5], [6, 4, 6]]),
        merged_anchor=torch.tensor([0, 1, 4, 7, 10, 9, 12]),
        merged_count=torch.tensor([6, 1, 1, 1, 2, 2, 2]),
    )


@pytest.mark.parametrize(
    ("name", "anchors"),
    [
        ("first", [0, 1, 4, 7, 10, 9, 12]),
        ("middle", [3, 1, 4, 7, 10, 9, 12]),
        ("last", [6, 1, 4, 7, 13, 9, 12]),
    ],
)
def test_static_tokens_move_to_another_frame_of_their_segment_and_no_others(name, anchors):
    changed = moved(layout(), PLACEMENTS[name].frame)
    assert changed.merged_anchor.tolist() == anchors
    assert torch.equal(changed.source_to_merged, layout().source_to_merged)


def test_a_mean_position_is_that_of_all_sources():
    positions = torch.stack([torch.arange(5).repeat_interleave(3) * 2, torch.arange(3).repeat(5)])
    time, column = mean_positions(layout(), positions).tolist()
    assert time == [2, 0, 2, 4, 7, 6, 8]
    assert column == [1, 1, 1, 1, 1, 1, 1]


def asked(timed: TimedModel, told=range(FRAMES), index: int = 0) -> Asked:
    return Asked.of(timed, list(held_out_questions(index + 1))[index], told)


def rotated(timed: TimedModel, prompt: Asked, name: str) -> tuple[Tensor, PlacedMerge]:
    """[3, L] the positions that the merged prompt's tokens are rotated by."""
    method, seen = PlacedMerge(PLACEMENTS[name]), []
    rotary = timed.model.model.language_model.rotary_emb
    hook = rotary.register_forward_hook(lambda _module, args, _output: seen.append(args[1]))
    try:
        answer_logits(timed, prompt, method)
    finally:
        hook.remove()
    (positions,) = seen
    return positions[:, 0], method


@pytest.mark.parametrize("name", PLACEMENTS)
def test_the_decoder_is_told_the_place(timed, name):
    """By hand: the positions of each merged token's sources, token by token."""
    prompt = asked(timed)
    positions, method = rotated(timed, prompt, name)
    merged, places = method.layout, prompt.span.places(torch.arange(FRAMES * N))
    groups = merged.merged_groups()
    ends = merged.segment_lengths.cumsum(0)
    assert (merged.group_is_static[groups] & (merged.merged_count > 2)).any()
    by_hand = []
    for token in range(merged.num_merged):
        sources = (merged.source_to_merged.flatten() == token).nonzero()[:, 0]
        frame = int(sources[0]) // N
        if merged.group_is_static[groups[token]]:
            end = int(ends[merged.group_segment[groups[token]]])
            frame += int((end - 1 - frame) * PLACEMENTS[name].frame)
        own = prompt.positions[:, places[frame * N + int(sources[0]) % N]].double()
        for axis in PLACEMENTS[name].averaged:
            own[axis] = prompt.positions[axis, places[sources]].double().mean()
        by_hand.append((frame, own))
    if timed.is_apart:
        by_hand.sort(key=lambda pair: pair[0])
    rows = [own for _, own in by_hand]
    before = prompt.span.start
    if not timed.is_apart:
        expected = torch.stack(rows, dim=1).float()
        found = positions[:, before : before + len(rows)].float()
        assert torch.equal(found, expected)
    else:  # words for times stand between
        found = {tuple(column) for column in positions.float().T.tolist()}
        assert {tuple(own.float().tolist()) for own in rows} <= found
    text = prompt.positions.shape[1] - prompt.span.stop
    assert torch.equal(positions[:, -text:].long(), prompt.positions[:, -text:])


def test_the_default_is_what_pruning_does(timed):
    """The first frame is where the engine puts static tokens by itself."""
    from prunevid_kernels import PruneVidConfig
    from prunevid_kernels.adapters.methods.prunevid import PruneVid

    class Plain(PruneVid):
        placement = PLACEMENTS["first"]
        layout = None

    prompt = asked(timed, index=3)
    plain = answer_logits(timed, prompt, Plain(PruneVidConfig(select=False)))
    placed = answer_logits(timed, prompt, PlacedMerge(PLACEMENTS["first"]))
    assert torch.equal(plain, placed)
    assert not torch.equal(placed, answer_logits(timed, prompt, PlacedMerge(PLACEMENTS["last"])))


def test_reversed_time_is_told_by_positions_or_by_words(timed):
    forward, backward = asked(timed), asked(timed, range(FRAMES)[::-1])
    places = forward.span.places(torch.arange(FRAMES * N)).view(FRAMES, N)
    if timed.is_apart:
        assert torch.equal(forward.positions, backward.positions)
        words = places[:, 0] - 2
        assert torch.equal(forward.embeds[0, words], backward.embeds[0, words.flip(0)])
        assert not torch.equal(forward.embeds[0, words], backward.embeds[0, words])
    else:
        assert torch.equal(forward.embeds, backward.embeds)
        assert torch.equal(forward.positions[:, places], backward.positions[:, places.flip(0)])
        steps = forward.positions[0, places[:, 0]].diff()
        assert set(steps.tolist()) == {SPACING}


def test_in_training_a_question_gets_what_it_would_get_alone(timed, monkeypatch):
    """Its video's frames in random order, told in that order, and other questions beside it."""
    clips = [make_clip("train", index, num_frames=4) for index in range(2)]
    monkeypatch.setattr(time_axis, "SHUFFLED_SHARE", 1.0)
    seen = []
    hook = timed.model.lm_head.register_forward_hook(lambda *call: seen.append(call[2]))
    try:
        with torch.no_grad():
            time_axis._answer_loss(timed, clips, np.random.default_rng(5))
    finally:
        hook.remove()
    rng = np.random.default_rng(5)
    spacing = int(rng.choice(time_axis.SPACINGS))
    assert rng.random() < 1
    order = rng.permutation(4).tolist()
    assert order != sorted(order)
    rows = [time_axis.encode_question(timed.tokenizer, q)[0] for q in clips[1].questions]
    asked_of_each = min(len(clip.questions) for clip in clips)
    all_rows = [
        time_axis.encode_question(timed.tokenizer, q)[0]
        for clip in clips
        for q in clip.questions[:asked_of_each]
    ]
    longest, column = max(map(len, all_rows)), 2
    before, span = timed.prompt(order, spacing)
    ids = [*before, *rows[column]]
    features = timed.see([clips[1]]).unflatten(1, (4, -1))[:, order].flatten(1, 2)
    with torch.no_grad():
        alone = timed.model(
            inputs_embeds=timed.embed(torch.tensor([ids]), span, features),
            position_ids=timed.positions(ids, order, spacing)[:, None],
        ).logits[0, len(before) :]
    start = column * longest
    shared = seen[0][1, start : start + len(rows[column])]
    torch.testing.assert_close(shared, alone, rtol=0, atol=2e-4)


def test_an_answer_like_the_one_without_a_merge_has_moved_by_nothing():
    logits = torch.tensor([0.5, 3.0, -1.0])
    same = Answer.of(logits + 7, logits, expected=1)
    assert same.kl == pytest.approx(0, abs=1e-9) and same.drift == pytest.approx(0, abs=1e-7)
    assert same.is_same and same.is_right
    other = Answer.of(torch.tensor([3.0, 0.5, -1.0]), logits, expected=1)
    p, q = logits.softmax(0), torch.tensor([3.0, 0.5, -1.0]).softmax(0)
    assert other.kl == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)
    assert not other.is_same and not other.is_right


def test_the_command_trains_what_is_missing_and_takes_what_is_there(tmp_path: Path, capsys):
    arguments = ["--checkpoints", str(tmp_path / "models"), "--format", "one run"]
    sizes = ["--questions", "4", "--out", str(tmp_path / "results")]
    results = []
    for steps in ("1", "2"):
        assert main([*arguments, *sizes, "--steps", steps]) == 0
        path = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
        results.append(json.loads(Path(path).read_text()))
    first, second = (result["models"][0] for result in results)
    assert first == second and first["steps"] == 1
    assert results[0]["environment"]["packages"]["torch"] == torch.__version__
    assert 0 < first["merged_share"] < 1 and 0 < first["static_share"] < 1
    rows = {row["placement"]: row for row in first["rows"]}
    assert list(rows) == [UNMERGED, BACKWARDS, *PLACEMENTS]
    assert set(rows["first"]["accuracy_by_type"]) <= set(QUESTION_TYPES)
    assert rows["first"]["kl"] > 0 == rows["first"]["kl_more_than_default"]
    for row in list(rows.values())[1:]:
        low, high = row["kl_interval"]
        assert low <= row["kl"] <= high
