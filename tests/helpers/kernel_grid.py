"""The kernels' test cases: each size is there for a border of a kernel, and says which.

Under Triton's interpreter every program of a launch costs milliseconds, so a case is as small as
its border allows. Where a border is that of a block, the blocks are made small (``small_blocks``),
not the tensors large. Cases that cross no other border than a smaller one before them run with
``pytest --full`` only: the blocks that ship for GPUs, the largest golden cases, more random ones.
"""

from __future__ import annotations

from typing import Any

import pytest

from prunevid_kernels.kernels import _device

SMALL_BLOCKS: dict[str, dict[str, int]] = {
    "gram": {"BLOCK": 16, "BLOCK_C": 16, "SPLIT_C": 32},
    "token_score": {"BLOCK_M": 16, "BLOCK_S": 16, "KEYS_PER_SPLIT": 32},
    "compact": {"BLOCK_K": 16, "BLOCK_I": 16},
}


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the kernels of ``SMALL_BLOCKS`` blocks that small tensors do not fit in."""
    for kernel, blocks in SMALL_BLOCKS.items():
        monkeypatch.setitem(_device.config_table()[kernel], "interpreter", blocks)


def shipped_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every kernel the blocks that it has on a GPU."""
    monkeypatch.setattr(_device, "architecture", lambda device: "none of the table")


def case(reason: str, *values: Any) -> Any:
    """A case of every run, by the border that it crosses."""
    return pytest.param(*values, id=reason)


def full_case(reason: str, *values: Any) -> Any:
    """A case of ``pytest --full``."""
    return pytest.param(*values, id=reason, marks=pytest.mark.full)


# ------------------------------------------------------------------------------------------------
# Scoring. The interpreter's blocks: 64 rows of a KV head, 128 keys, 256 keys a split.
# ------------------------------------------------------------------------------------------------

# heads, KV heads
SCORE_HEADS = [
    case("a-head-each", 2, 2),
    case("several-heads-share-keys", 4, 2),
    case("a-group-of-no-power-of-two", 5, 1),
    full_case("groups-of-three", 6, 2),
    full_case("all-of-seven-heads-share-keys", 7, 1),
]
SCORE_HEAD_DIMS = [
    case("least", 16),
    case("one-less-than-a-power-of-two", 63),
    case("a-model-s-that-is-no-power-of-two", 80),
    case("a-model-s-largest", 256),
    full_case("64", 64),
    full_case("96", 96),
    full_case("128", 128),
]
# rows, keys, visual tokens
SCORE_SIZES = [
    case("one-key", 1, 1, slice(0, 1)),
    case("last-key", 1, 2, slice(1, 2)),
    case("two-splits-of-which-the-last-is-cut", 1, 300, slice(10, 290)),
    case("rows-over-one-block", 33, 63, slice(None)),
    case("few-visual-keys-over-a-border-of-three-splits", 2, 521, slice(250, 265)),
    case("one-visual-key-alone-in-the-last-split", 5, 257, slice(256, 257)),
]
# With small blocks: three splits, two blocks of keys each, the last cut.
SCORE_NOT_FINITE_KEYS = [case("one-split", 30), case("three-splits", 75)]

# ------------------------------------------------------------------------------------------------
# Clustering. The interpreter's blocks: tiles of 32 points, splits of 64 channels.
# ------------------------------------------------------------------------------------------------

# points, channels, clusters
CLUSTER_SHAPES = [
    case("one-point", 1, 3, 1),
    case("two-points", 2, 5, 1),
    case("every-point-a-center", 6, 3, 6),
    case("two-splits-of-channels", 7, 100, 2),
    case("one-point-in-the-second-tile", 33, 17, 12),
    full_case("one-less-than-two-tiles", 63, 7, 1),
    full_case("three-tiles-every-point-a-center", 70, 9, 70),
]
# Unit, what it adds: the numbers of points are 32, 60, 16 and 64.
CLUSTER_GOLDEN_UNITS = [
    case("frames-of-a-video", "u03"),
    case("few-distinct-points", "u48"),
    case("fewer-clusters-than-distinct-points", "u49"),
    case("identical-points", "u50"),
    case("tiny-spread", "u51"),
    case("large-spread", "u52"),
    full_case("frames-of-a-distorted-video", "u27"),
    full_case("five-tiles", "u01"),
    full_case("five-tiles-of-another-video", "u20"),
]

# ------------------------------------------------------------------------------------------------
# Compaction. The interpreter's blocks: 128 entries of the index, 128 words of a row.
# ------------------------------------------------------------------------------------------------

# float16 entries of a row
COMPACT_INNER_SIZES = [
    case("two-bytes", 1),
    case("a-word-of-4-bytes", 2),
    case("a-word-of-2-bytes-several-times", 3),
    case("a-word-of-16-bytes", 8),
    case("odd", 17),
    case("no-multiple-of-16-bytes-over-a-block", 130),
    full_case("a-word-of-2-bytes-5-times", 5),
    full_case("16-byte-words", 64),
]
