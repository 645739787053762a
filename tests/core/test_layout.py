"""TokenLayout: the order of the groups, and what follows from it, on a layout made by hand."""

from __future__ import annotations

import pytest
import torch

from prunevid_kernels import PruneVidConfig, TokenLayout, merge_video


@pytest.fixture
def layout() -> TokenLayout:
    """Two segments of 2 and 1 frames, 3 tokens a frame.

    Segment 0: position 1 is static; positions 0 and 2 are merged in frame 0, apart in frame 1.
    Segment 1: all dynamic, positions 1 and 2 merged.
    """
    return TokenLayout.from_sizes(
        torch.tensor([2, 1]),
        torch.tensor([1, 0]),
        torch.tensor([1, 2, 2]),
        source_to_merged=torch.tensor([[1, 0, 1], [2, 0, 3], [4, 5, 5]]),
        merged_anchor=torch.tensor([1, 0, 3, 5, 6, 7]),
        merged_count=torch.tensor([2, 2, 1, 1, 1, 2]),
    )


def test_order_of_groups(layout: TokenLayout) -> None:
    assert layout.group_sizes.tolist() == [1, 1, 2, 0, 2]
    assert layout.group_is_static.tolist() == [True, False, False, True, False]
    assert layout.group_segment.tolist() == [0, 0, 0, 1, 1]


def test_sizes(layout: TokenLayout) -> None:
    assert (layout.num_frames, layout.tokens_per_frame) == (3, 3)
    assert (layout.num_segments, layout.num_merged) == (2, 6)
    assert layout.static_sizes().tolist() == [1, 0]
    assert layout.dynamic_sizes().tolist() == [3, 2]


def test_which_is_what(layout: TokenLayout) -> None:
    assert layout.frame_segments().tolist() == [0, 0, 1]
    assert layout.merged_groups().tolist() == [0, 1, 2, 2, 4, 4]
    assert layout.static_mask().tolist() == [
        [False, True, False],
        [False, True, False],
        [False, False, False],
    ]


def test_identity() -> None:
    layout = TokenLayout.identity(3, 4, torch.device("cpu"))
    assert layout.segment_lengths.tolist() == [3]
    assert layout.group_sizes.tolist() == [0, 4, 4, 4]
    assert layout.source_to_merged.flatten().tolist() == list(range(12))
    assert layout.merged_anchor.tolist() == list(range(12))
    assert layout.merged_count.tolist() == [1] * 12
    assert not layout.static_mask().any()


def test_random_sizes_keep_their_places() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        num_segments = int(torch.randint(1, 6, (1,), generator=generator))
        lengths = torch.randint(1, 5, (num_segments,), generator=generator)
        static = torch.randint(0, 4, (len(lengths),), generator=generator)
        frames = torch.randint(0, 4, (int(lengths.sum()),), generator=generator)
        count = int(static.sum() + frames.sum())
        layout = TokenLayout.from_sizes(
            lengths,
            static,
            frames,
            source_to_merged=torch.zeros(len(frames), 1, dtype=torch.int64),
            merged_anchor=torch.arange(count),
            merged_count=torch.ones(count, dtype=torch.int64),
        )
        expected = []
        for number, of_segment in enumerate(frames.split(lengths.tolist())):
            expected += [int(static[number]), *of_segment.tolist()]
        assert layout.group_sizes.tolist() == expected
        assert layout.static_sizes().tolist() == static.tolist()
        totals = [int(of_segment.sum()) for of_segment in frames.split(lengths.tolist())]
        assert layout.dynamic_sizes().tolist() == totals


def test_representation_is_short(layout: TokenLayout) -> None:
    assert repr(layout) == "TokenLayout(3 frames of 3 tokens -> 6 merged tokens)"


def test_representation_of_a_deferred_layout_waits_for_nothing(layout: TokenLayout) -> None:
    deferred = TokenLayout.deferred(
        *torch.tensor([[0, 0, 1], [1, 0, 0], [1, 2, 2]]),
        source_to_merged=layout.source_to_merged,
        merged_anchor=layout.merged_anchor,
        merged_count=layout.merged_count,
    )
    assert repr(deferred) == repr(layout)
    assert "segment_lengths" not in vars(deferred)
    assert torch.equal(deferred.group_sizes, layout.group_sizes)


def test_a_merged_video_prints_in_a_line():
    """Sizes, dtype and device: no values, which would wait for a device."""
    merged = merge_video(torch.zeros(4, 3, 8), PruneVidConfig(budget=5))
    assert repr(merged) == (
        "MergedVideo(tokens [5, 8] torch.float32 on cpu,"
        " TokenLayout(4 frames of 3 tokens -> 5 merged tokens))"
    )


def test_one_of_several_videos_finds_its_rows(layout: TokenLayout) -> None:
    deferred = TokenLayout.deferred_in(
        torch.tensor([5, 0, 0, 1, 9, 0, 1, 0, 0, 4, 3, 1, 2, 2, 8, -1]),
        num_frames=5,
        first=1,
        last=4,
        source_to_merged=layout.source_to_merged,
        merged_anchor=layout.merged_anchor,
        merged_count=layout.merged_count,
    )
    assert "segment_lengths" not in vars(deferred)
    for name in ("segment_lengths", "group_sizes", "group_is_static", "group_segment"):
        assert torch.equal(getattr(deferred, name), getattr(layout, name))
