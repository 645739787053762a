"""Temporal segments: refinement by hand, descriptors of known scenes, both implementations."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracle import refined
from torch import Tensor

from prunevid_kernels import PruneVidConfig, segment_frames
from prunevid_kernels.reference import refine_labels

IMPLS = pytest.mark.parametrize("impl", ["reference", "triton"])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param("2", "0", id="one-frame-has-no-neighbor"),
        pytest.param("012", "000", id="no-run-at-all"),
        pytest.param("0011", "0011", id="nothing-open"),
        pytest.param("00211", "00011", id="equal-neighbors-left-wins"),
        pytest.param("002111", "001111", id="longer-right-neighbor"),
        pytest.param("20011", "00011", id="open-at-the-start"),
        pytest.param("00112", "00111", id="open-at-the-end"),
        pytest.param("000100", "000000", id="a-shorter-run-opens"),
        pytest.param("00211200", "00011100", id="a-label-in-two-segments"),
        pytest.param("110211", "111111", id="one-stretch-of-two-labels"),
        pytest.param("00211021133", "00011111133", id="a-filled-stretch-counts-as-neighbor"),
    ],
)
def test_labels_are_refined_as_written_out(labels: str, expected: str) -> None:
    assert "".join(map(str, refine_labels([int(label) for label in labels]))) == expected


@settings(max_examples=500)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_refinement_of_any_labels(labels: list[int]) -> None:
    result = refine_labels(labels)
    assert result == refined(labels)
    runs = [len(list(run)) for _, run in groupby(result)]
    assert sum(runs) == len(labels)
    assert len(labels) == 1 or min(runs) >= 2


def scenes(lengths: list[int], spread: float = 0.1) -> Tensor:
    """Descriptors of scenes with hard cuts."""
    places = 2 * noise(len(lengths), 12, seed=3)
    shown = places.repeat_interleave(torch.tensor(lengths), dim=0)
    return shown + spread * noise(sum(lengths), 12, seed=4)


@pytest.mark.sample(12)
@IMPLS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "lengths", [[5, 6, 5], [2, 2], [3, 9, 2, 4], [20], [7, 2, 2, 13, 8, 8]], ids=str
)
def test_scenes_are_found(lengths: list[int], dtype: torch.dtype, impl: str) -> None:
    x = scenes(lengths).to(dtype)
    # A scene shorter than the neighbourhood would have a low density, and no centre.
    ratio = (len(lengths) + 0.5) / sum(lengths)
    config = PruneVidConfig(segment_ratio=ratio, num_neighbors=2)
    segments = segment_frames(x, config, impl=impl)
    assert segments.dtype == torch.int64
    assert torch.bincount(segments).tolist() == lengths
    assert (segments.diff() >= 0).all()


@IMPLS
@pytest.mark.parametrize("frames", [1, 2, 5, 33])
def test_ids_count_up_without_a_gap(frames: int, impl: str) -> None:
    x = noise(frames, 3)
    segments = segment_frames(x, PruneVidConfig(segment_ratio=0.5), impl=impl)
    assert segments[0] == 0
    assert set(segments.diff().tolist()) <= {0, 1}
    assert torch.equal(segments, segment_frames(x, PruneVidConfig(segment_ratio=0.5)))


@settings(max_examples=15, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=24),
    channels=st.integers(6, 20),
)
def test_given_labels_in_the_kernel(labels: list[int], channels: int) -> None:
    """One place a label, so that the clusters are the labels; refined as the oracle does."""
    count = len(set(labels))
    config = PruneVidConfig(segment_ratio=min(1.0, (count + 0.5) / len(labels)))
    segments = segment_frames(torch.eye(channels)[labels], config, impl="triton").tolist()
    text = refined(labels)
    expected = [0]
    for before, after in zip(text, text[1:], strict=False):
        expected.append(expected[-1] + (before != after))
    assert segments == expected


@IMPLS
def test_strides_change_no_bit(impl: str) -> None:
    x = scenes([4, 6, 5])
    expected = segment_frames(x, PruneVidConfig(), impl=impl)
    for view in (x.T.contiguous().T, torch.cat([x, x], dim=1)[:, :12]):
        assert torch.equal(segment_frames(view, PruneVidConfig(), impl=impl), expected)


@IMPLS
@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        pytest.param([[0.0]], TypeError, "got list", id="list"),
        pytest.param(torch.zeros(3), ValueError, r"\[T, C\], got shape \[3\]", id="1-D"),
        pytest.param(torch.zeros(3, 2).long(), TypeError, "got torch.int64", id="int64"),
        pytest.param(torch.zeros(0, 2), ValueError, "empty dimension", id="no-frame"),
    ],
)
def test_features_refused(features: Any, error: type[Exception], message: str, impl: str) -> None:
    with pytest.raises(error, match=f"^frame_features .*{message}"):
        segment_frames(features, PruneVidConfig(), impl=impl)


def test_too_many_frames_for_the_kernel() -> None:
    with pytest.raises(ValueError, match="at most 4096 points .*got 4097"):
        segment_frames(torch.zeros(4097, 1), PruneVidConfig(), impl="triton")


@IMPLS
def test_config_refused(impl: str) -> None:
    with pytest.raises(TypeError, match="^config must be a PruneVidConfig, got float"):
        segment_frames(torch.zeros(3, 2), 0.25, impl=impl)  # type: ignore[arg-type]
