"""Videos whose frames stand apart: merged tokens and timestamps in the prompt's order."""

from __future__ import annotations

import pytest
import torch

from prunevid_kernels.adapters.vllm.apart import Stretch
from prunevid_kernels.adapters.vllm.positions import (
    Media,
    MediaRows,
    fill_positions,
    prompt_positions,
)

pytestmark = pytest.mark.one_version

START, END, PAD = 90, 91, 92
STAMPS = ((11,), (12, 13), (14,))
IDS = [token for stamp in STAMPS for token in (*stamp, START, END)]
STRETCH = Stretch.of_ids(IDS, START, END, (3, 2, 4))
ANCHORS = torch.tensor([3, 17, 16, 0, 5])  # frames 0, 2, 2, 0, 0: none is left in frame 1


def arranged() -> MediaRows:
    """Merged token i has the feature 100 + i, text its own id."""
    numbers = STRETCH.split_numbers(STRETCH.numbers())
    tokens = 100.0 + torch.arange(len(ANCHORS))[:, None]
    return STRETCH.arrange(tokens, ANCHORS, numbers.text[:, None].float(), numbers)


def test_every_timestamp_stays_before_its_frame() -> None:
    rows = arranged()
    order = rows.features[:, 0].long().tolist()
    # Inside a frame as the merge gave them.
    assert order == [11, START, 100, 103, 104, END, 12, 13, START, END, 14, START, 101, 102, END]
    assert rows.index.tolist() == list(range(15))
    assert set(rows.lead.tolist()) == {2}


def test_positions_are_those_of_the_whole_video() -> None:
    """A frame takes as many positions as its longer side: 11 at 0, START at 1, frame at 2..5."""
    time, row, column = arranged().positions
    assert time.tolist() == [0, 1, 2, 2, 2, 6, 7, 8, 9, 14, 15, 16, 17, 17, 21]
    assert row.tolist() == [0, 1, 2, 2, 3, 6, 7, 8, 9, 14, 15, 16, 17, 17, 21]
    assert column.tolist() == [0, 1, 5, 2, 3, 6, 7, 8, 9, 14, 15, 16, 18, 17, 21]
    assert STRETCH.extent == 22


def test_all_merged_tokens_stand_in_the_first_frame_of_the_ids() -> None:
    ids = STRETCH.placeholders(3, PAD)
    assert ids == [11, START, PAD, PAD, PAD, END, 12, 13, START, END, 14, START, END]
    assert ids.index(PAD) == STRETCH.lead


@pytest.mark.parametrize("first", [0, 1, 2, 5, 9, 20, 22, 30], ids="from={}".format)
def test_two_stretches_next_to_each_other(first: int) -> None:
    """Prefilled in two pieces, with and without text between them."""
    rows = arranged()
    length = len(rows.index)
    ids = STRETCH.placeholders(len(ANCHORS), PAD)
    prompt = torch.tensor([1, 2, *ids, *ids, 3, 4, 5])
    media = [Media(2, length, STRETCH.extent), Media(2 + length, length, STRETCH.extent)]
    blank, after = prompt_positions(len(prompt), media)
    assert after == 2 * (STRETCH.extent - length)
    second = rows.positions + 2 + STRETCH.extent
    expected = torch.cat([rows.positions + 2, second], dim=1)
    is_pad = prompt == PAD
    whole = rows.joined()
    cuts = [min(max(first - start, 0), length) for start in (2, 2 + length)]
    before = [MediaRows.split(whole[:cut]) for cut in cuts]
    later = [MediaRows.split(whole[cut:]) for cut in cuts]
    positions = fill_positions(blank, is_pad, 0, before)
    for _ in range(2):
        positions = fill_positions(positions, is_pad, first, later)
    assert torch.equal(positions[:, 2 : 2 + 2 * length], expected)
    assert torch.equal(positions[:, :2], blank[:, :2])
    assert positions[0, -3:].tolist() == [2 + 2 * STRETCH.extent + i for i in range(3)]
    # With a prefix from the cache, nothing of it comes again.
    cached = fill_positions(blank, is_pad, first, later)
    assert torch.equal(cached[:, first:], positions[:, first:])


@pytest.mark.parametrize(
    ("ids", "frames"),
    [(IDS, 2), (IDS[:-1], 3), ([11, END, *IDS[3:]], 3)],
    ids=["frames", "no-end", "no-start"],
)
def test_text_that_is_not_a_videos_is_refused(ids: list[int], frames: int) -> None:
    with pytest.raises(ValueError, match="a timestamp, 90 and 91 for each of its"):
        Stretch.of_ids(ids, START, END, (frames, 2, 4))
