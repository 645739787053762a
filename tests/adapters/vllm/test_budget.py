"""What the vLLM plugin computes without vLLM: shares, budgets, positions."""

from __future__ import annotations

import pytest
import torch

from prunevid_kernels import budget_tokens
from prunevid_kernels.adapters.vllm.merging import merge_within
from prunevid_kernels.adapters.vllm.positions import (
    CHANNELS,
    Grid,
    Media,
    append_positions,
    fill_positions,
    prompt_positions,
    split_positions,
)
from prunevid_kernels.adapters.vllm.settings import (
    ENGINE_SWITCH,
    cache_salt,
    request_retain,
    server_retain,
)

pytestmark = pytest.mark.one_version


@pytest.mark.parametrize(
    ("prunevid", "rate", "expected"),
    [
        pytest.param({"retain": 0.2}, None, 0.2, id="override"),
        pytest.param({"retain": 1}, None, 1.0, id="one-is-everything-not-one-token"),
        pytest.param(None, 0.8, 0.2, id="rate-in-decimals"),
        pytest.param(None, 0.0, 1.0, id="rate-zero"),
        pytest.param({"retain": 0.2}, 0.8, 0.2, id="both-agree"),
        pytest.param({"retain": 0.2}, ENGINE_SWITCH, 0.2, id="engine-switched-on"),
    ],
)
def test_the_servers_share(prunevid: object, rate: float | None, expected: float) -> None:
    assert server_retain(prunevid, rate) == expected


@pytest.mark.parametrize(
    ("prunevid", "rate", "method", "message"),
    [
        pytest.param(None, None, "evs", "got neither", id="nothing"),
        pytest.param(None, ENGINE_SWITCH, "evs", "got neither", id="switch-is-no-share"),
        pytest.param({"retain": 0.5}, 0.8, "evs", "retain.*=0.5 contradicts", id="contradiction"),
        pytest.param({"retain": 0}, None, "evs", r'\["retain"\] must be a share', id="zero"),
        pytest.param({"retain": 20}, None, "evs", r"in \(0, 1\], got 20", id="token-count"),
        pytest.param({"retain": "0.2"}, None, "evs", "got '0.2'", id="text"),
        pytest.param({"retain": True}, None, "evs", "got True", id="bool"),
        pytest.param({"retain": float("nan")}, None, "evs", "got nan", id="nan"),
        pytest.param({}, None, "evs", "nothing else, got {}", id="empty"),
        pytest.param({"retain": 0.2, "tau": 1}, None, "evs", "nothing else", id="other-key"),
        pytest.param(0.2, None, "evs", "nothing else, got 0.2", id="no-mapping"),
        pytest.param(None, 0.5, "vidcom2", "--video-pruning-method must be left out", id="method"),
    ],
)
def test_settings_that_cannot_be_name_themselves(
    prunevid: object, rate: float | None, method: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        server_retain(prunevid, rate, method)


def test_a_requests_share_is_taken_out_of_its_arguments() -> None:
    assert request_retain({"prunevid_retain": 0.5, "fps": 2}) == (0.5, {"fps": 2})
    assert request_retain({"fps": 2}) == (None, {"fps": 2})
    with pytest.raises(ValueError, match=r'mm_processor_kwargs\["prunevid_retain"\] must be'):
        request_retain({"prunevid_retain": None})


def test_every_share_has_a_salt_of_its_own() -> None:
    assert len({cache_salt(share) for share in (0.1, 0.2, 0.2000001, 1.0)}) == 4


@pytest.mark.parametrize("frames", [1, 2, 3, 7], ids="T={}".format)
@pytest.mark.parametrize("share", [1e-9, 0.05, 0.2, 0.34, 0.999, 1.0], ids="retain={}".format)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_exactly_the_budgeted_tokens_in_the_models_dtype(
    frames: int, share: float, dtype: torch.dtype
) -> None:
    features = torch.randn(frames, 13, 16, generator=torch.Generator().manual_seed(frames))
    tokens = budget_tokens(frames, 13, share)
    merged = merge_within(features.to(dtype), tokens)
    assert merged.tokens.shape == (tokens, 16)
    assert merged.tokens.dtype == dtype
    if share == 1.0:
        assert torch.equal(merged.tokens, features.to(dtype).flatten(0, 1))


# ---- positions

GRID = Grid(frames=3, rows=2, columns=4, frame_step=2.5)


def plain_positions(num_tokens: int, media: list[Media]) -> list[list[int]]:
    """Positions of a prompt whose media are not merged, token by token."""
    places: list[list[int]] = []
    position = 0
    starts = {item.offset: item.grid for item in media}
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


@pytest.mark.parametrize("first", [0, 3, 9, 30], ids="from={}".format)
def test_unmerged_media_are_where_they_would_be(first: int) -> None:
    image = Grid(1, 3, 5)
    media = [Media(2, 24, GRID), Media(29, 15, image)]
    expected = torch.tensor(plain_positions(50, media)).T
    positions, after = prompt_positions(50, media)
    assert 50 + after == expected.max() + 1
    is_media = torch.zeros(50, dtype=torch.bool)
    is_media[2:26] = is_media[29:44] = True
    assert torch.equal(positions[:, ~is_media], expected[:, ~is_media])
    # In two pieces, as a chunked prefill asks for them, and the second once more.
    in_grid = torch.cat(
        [grid.positions(torch.arange(n)) for grid, n in ((GRID, 24), (image, 15))], 1
    )
    seen = int(is_media[:first].sum())
    positions = fill_positions(positions, is_media, 0, in_grid[:, :seen])
    for _ in range(2):
        positions = fill_positions(positions, is_media, first, in_grid[:, seen:])
    assert torch.equal(positions, expected)


def test_merged_tokens_keep_their_first_source_and_text_does_not_move() -> None:
    anchors = torch.tensor([0, 17, 5])
    positions, after = prompt_positions(10, [Media(4, 3, GRID)])
    is_media = torch.zeros(10, dtype=torch.bool)
    is_media[4:7] = True
    filled = fill_positions(positions, is_media, 2, GRID.positions(anchors))
    assert filled[:, 4:7].T.tolist() == [[4, 4, 4], [4 + 5, 4, 4 + 1], [4, 4 + 1, 4 + 1]]
    assert GRID.extent == 6  # frames at 0, 2 and 5
    assert filled[0, 7:].tolist() == [10, 11, 12]
    assert 10 + after == 13


def test_nothing_to_fill_changes_nothing() -> None:
    positions, _ = prompt_positions(4, [])
    empty = torch.empty(3, 0, dtype=torch.int64)
    assert torch.equal(
        fill_positions(positions, torch.zeros(4, dtype=torch.bool), 0, empty), positions
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_positions_survive_every_dtype(dtype: torch.dtype) -> None:
    positions = torch.tensor([[0, 255, 256, 301, 65535], [7, 1, 2, 3, 4], [0, 0, 999, 1, 2]])
    tokens = torch.randn(5, 8).to(dtype)
    both = append_positions(tokens, positions)
    assert both.shape == (5, 8 + CHANNELS) and both.dtype == dtype
    back_tokens, back_positions = split_positions(both)
    assert torch.equal(back_tokens, tokens)
    assert torch.equal(back_positions, positions)


def test_a_video_beyond_two_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="positions below 65536, got one that takes 65537"):
        prompt_positions(9, [Media(0, 4, Grid(65537, 1, 1))])
