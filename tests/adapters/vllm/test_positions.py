"""Positions of three axes for what the vLLM plugin puts into a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from prunevid_kernels.adapters.vllm.positions import (
    CHANNELS,
    Grid,
    Media,
    MediaRows,
    fill_positions,
    prompt_positions,
)

pytestmark = pytest.mark.one_version

GRID = Grid(frames=3, rows=2, columns=4, frame_step=2.5)
IMAGE = Grid(1, 3, 5)


def plain_positions(num_tokens: int, media: Sequence[tuple[int, Grid]]) -> list[list[int]]:
    """Positions of a prompt whose media, at these places, are not merged, token by token."""
    places: list[list[int]] = []
    position = 0
    starts = dict(media)
    while len(places) < num_tokens:
        grid = starts.get(len(places))
        if grid is None:
            places.append([position] * 3)
            position += 1
            continue
        inside = [
            [int(frame * grid.frame_step), row, column]
            for frame in range(grid.frames)
            for row in range(grid.rows)
            for column in range(grid.columns)
        ]
        places += [[position + part for part in place] for place in inside]
        position = max(map(max, places)) + 1
    return places


def rows_of(grid: Grid, first: int = 0, stop: int | None = None) -> MediaRows:
    """A part of what the encoder gives for an unmerged grid."""
    index = torch.arange(grid.frames * grid.rows * grid.columns)
    whole = MediaRows.whole(torch.zeros(len(index), 1), grid.positions(index))
    return MediaRows.split(whole.joined()[first:stop])


@pytest.mark.parametrize("first", [0, 2, 3, 9, 26, 30], ids="from={}".format)
def test_unmerged_media_are_where_they_would_be(first: int) -> None:
    expected = torch.tensor(plain_positions(50, [(2, GRID), (29, IMAGE)])).T
    media = [Media(2, 24, GRID.extent), Media(29, 15, IMAGE.extent)]
    positions, after = prompt_positions(50, media)
    assert 50 + after == expected.max() + 1
    is_media = torch.zeros(50, dtype=torch.bool)
    is_media[2:26] = is_media[29:44] = True
    assert torch.equal(positions[:, ~is_media], expected[:, ~is_media])
    # In two pieces, as a chunked prefill asks for them, and the second once more.
    video, image = (min(max(first - start, 0), n) for start, n in ((2, 24), (29, 15)))
    positions = fill_positions(
        positions, is_media, 0, [rows_of(GRID, 0, video), rows_of(IMAGE, 0, image)]
    )
    for _ in range(2):
        positions = fill_positions(
            positions, is_media, first, [rows_of(GRID, video), rows_of(IMAGE, image)]
        )
    assert torch.equal(positions, expected)


def test_merged_tokens_keep_their_first_source_and_text_does_not_move() -> None:
    anchors = torch.tensor([0, 17, 5])
    positions, after = prompt_positions(10, [Media(4, 3, GRID.extent)])
    is_media = torch.zeros(10, dtype=torch.bool)
    is_media[4:7] = True
    rows = MediaRows.whole(torch.zeros(3, 1), GRID.positions(anchors))
    filled = fill_positions(positions, is_media, 2, [rows])
    assert filled[:, 4:7].T.tolist() == [[4, 4, 4], [4 + 5, 4, 4 + 1], [4, 4 + 1, 4 + 1]]
    assert GRID.extent == 6  # frames at 0, 2 and 5
    assert filled[0, 7:].tolist() == [10, 11, 12]
    assert 10 + after == 13


def test_a_medium_may_begin_the_prompt() -> None:
    positions, after = prompt_positions(15, [Media(0, 15, IMAGE.extent)])
    filled = fill_positions(positions, torch.ones(15, dtype=torch.bool), 0, [rows_of(IMAGE)])
    assert torch.equal(filled, IMAGE.positions(torch.arange(15)))
    assert 15 + after == 5


def test_nothing_to_fill_changes_nothing() -> None:
    positions, _ = prompt_positions(4, [])
    none = MediaRows.whole(torch.zeros(0, 1), torch.empty(3, 0, dtype=torch.int64))
    for media in ([], [none]):
        filled = fill_positions(positions, torch.zeros(4, dtype=torch.bool), 0, media)
        assert torch.equal(filled, positions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_numbers_survive_every_dtype(dtype: torch.dtype) -> None:
    positions = torch.tensor([[0, 255, 256, 301, 65535], [7, 1, 2, 3, 4], [0, 0, 999, 1, 2]])
    features = torch.randn(5, 8).to(dtype)
    index = torch.tensor([0, 255, 256, 65536, 16777215])
    rows = MediaRows(features, positions, index, torch.full((5,), 200))
    both = rows.joined()
    assert both.shape == (5, 8 + CHANNELS) and both.dtype == dtype
    back = MediaRows.split(both)
    assert torch.equal(back.features, features)
    assert torch.equal(back.positions, positions)
    assert torch.equal(back.index, index)
    assert back.lead.tolist() == [200] * 5


def test_a_video_beyond_two_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="positions below 65536, got one that takes 65537"):
        prompt_positions(9, [Media(0, 4, Grid(65537, 1, 1).extent)])
