"""The public door: what is refused and how, where the implementations go, the selection."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from golden import layout_of_sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import same_layout
from torch import Tensor

from prunevid_kernels import (
    PruneVidConfig,
    TokenLayout,
    compact,
    dpc_knn,
    merge_video,
    merge_videos,
    reference,
    score_visual_tokens,
    segment_frames,
    select_tokens,
)

CONFIG = PruneVidConfig()
FEATURES = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        pytest.param([[1.0]], TypeError, "got list", id="list"),
        pytest.param(FEATURES[0], ValueError, r"\[T, N, C\], got shape \[5, 6\]", id="2-D"),
        pytest.param(FEATURES[None], ValueError, r"got shape \[1, 4, 5, 6\]", id="4-D"),
        pytest.param(FEATURES.long(), TypeError, "got torch.int64", id="int64"),
        pytest.param(FEATURES.double(), TypeError, "got torch.float64", id="float64"),
        pytest.param(FEATURES.cfloat(), TypeError, "got torch.complex64", id="complex"),
        pytest.param(FEATURES[:0], ValueError, r"got shape \[0, 5, 6\]", id="no frame"),
        pytest.param(FEATURES[:, :0], ValueError, r"got shape \[4, 0, 6\]", id="no token"),
        pytest.param(FEATURES[..., :0], ValueError, r"got shape \[4, 5, 0\]", id="no channel"),
    ],
)
def test_features_refused(features: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^features .*{message}"):
        merge_video(features, CONFIG)


@pytest.mark.parametrize("config", [None, {"tau": 0.8}, PruneVidConfig], ids=repr)
def test_config_refused(config: Any) -> None:
    with pytest.raises(TypeError, match="^config must be a PruneVidConfig, got "):
        merge_video(FEATURES, config)
    layout = merge_video(FEATURES, CONFIG).layout
    with pytest.raises(TypeError, match="^config must be a PruneVidConfig, got "):
        select_tokens(torch.zeros(layout.num_merged), layout, config)


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        pytest.param([2, 1], ValueError, "sum to the 4 frames of features, got 3", id="too few"),
        pytest.param([3, 3], ValueError, "sum to the 4 frames of features, got 6", id="too many"),
        pytest.param([4, 0], ValueError, r"integers in \[1, 4\], got 0", id="empty video"),
        pytest.param([5], ValueError, r"integers in \[1, 4\], got 5", id="longer than all"),
        pytest.param([-1, 5], ValueError, r"integers in \[1, 4\], got -1", id="negative"),
        pytest.param([2.0, 2.0], TypeError, r"integers, got 2\.0", id="floats"),
        pytest.param([True, 3], TypeError, "integers, got True", id="bool"),
        pytest.param(torch.tensor([2, 2]), TypeError, "Python integers", id="tensor"),
        pytest.param([], ValueError, "got 0", id="none"),
    ],
)
def test_frames_per_video_refused(frames: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^frames_per_video .*{message}"):
        merge_videos(FEATURES, frames, CONFIG)


@pytest.mark.parametrize("impl", ["torch", "", None, "Triton"], ids=repr)
def test_unknown_impl(impl: Any) -> None:
    message = f"^impl must be 'auto', 'triton' or 'reference', got {impl!r}"
    with pytest.raises(ValueError, match=message):
        merge_video(FEATURES, CONFIG, impl=impl)


def test_auto_is_the_reference_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    real = reference.merge_videos
    monkeypatch.setattr(
        reference, "merge_videos", lambda *args: called.append("reference") or real(*args)
    )
    merge_video(FEATURES, CONFIG)
    assert called == ["reference"]
    merge_video(FEATURES, CONFIG, impl="triton")
    assert called == ["reference"]


def test_triton_on_a_cpu_without_the_interpreter() -> None:
    """An explicit choice does not fall back: in a process without the interpreter it is refused."""
    script = """
import torch
from prunevid_kernels import *
x = torch.ones(1, 2, 4, 8)
for call in (
    lambda: merge_video(x[0], PruneVidConfig(), impl="triton"),
    lambda: dpc_knn(x[0], 2, impl="triton"),
    lambda: segment_frames(x[0, 0], PruneVidConfig(), impl="triton"),
    lambda: score_visual_tokens(x, x, slice(0, 2), impl="triton"),
    lambda: compact([x], torch.tensor([0]), dim=0, impl="triton"),
    lambda: warm_up([(2, 4, 8)], PruneVidConfig(), device="cpu"),
):
    try:
        call()
    except ValueError as error:
        print(error)
"""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    finished = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    messages = finished.stdout.splitlines()
    assert len(messages) == 6
    for message in messages:
        assert message.startswith("impl='triton' needs a GPU tensor, got one on cpu")
        assert "TRITON_INTERPRET=1" in message


# ------------------------------------------------------------------------------------------------
# Merge
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", ["auto", "reference", "triton"])
def test_merge_switched_off(impl: str) -> None:
    merged = merge_videos(FEATURES, [1, 3], PruneVidConfig(merge=False), impl=impl)
    for video, features in zip(merged, FEATURES.split([1, 3]), strict=True):
        assert torch.equal(video.tokens, features.flatten(0, 1))
        identity = TokenLayout.identity(*features.shape[:2], features.device)
        assert same_layout(video.layout, identity)


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_features_are_left_as_they_are(impl: str) -> None:
    x = torch.randn(5, 20, 9, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    merge_video(x, CONFIG, impl=impl)
    assert torch.equal(x, before)


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_small_fields_lie_in_host_memory(impl: str) -> None:
    layout = merge_video(FEATURES, CONFIG, impl=impl).layout
    for name, dtype in {
        "segment_lengths": torch.int64,
        "group_sizes": torch.int64,
        "group_is_static": torch.bool,
        "group_segment": torch.int64,
        "source_to_merged": torch.int64,
        "merged_anchor": torch.int64,
        "merged_count": torch.int64,
    }.items():
        assert getattr(layout, name).dtype == dtype, name
        assert getattr(layout, name).device.type == "cpu", name


IMPLS = pytest.mark.parametrize("impl", ["reference", "triton"])
IDENTITIES = [
    pytest.param(PruneVidConfig(merge=False), id="merge-off"),
    pytest.param(PruneVidConfig(budget=1.0), id="room-for-all"),
    pytest.param(PruneVidConfig(budget=10**6), id="more-room"),
    pytest.param(PruneVidConfig(merge=False, budget=3), id="merge-off-with-a-budget"),
]


@IMPLS
@pytest.mark.parametrize("config", IDENTITIES)
def test_tokens_are_not_the_features_own_memory(config: PruneVidConfig, impl: Any) -> None:
    x = FEATURES.clone()
    videos = merge_videos(x, [1, 3], config, impl=impl)
    alone = merge_video(x, config, impl=impl)
    x.zero_()
    for merged, part in zip([*videos, alone], [*FEATURES.split([1, 3]), FEATURES], strict=True):
        assert torch.equal(merged.tokens, part.flatten(0, 1))


@IMPLS
@pytest.mark.parametrize("value", [float("nan"), float("-inf")], ids=str)
@pytest.mark.parametrize("config", IDENTITIES)
def test_a_bad_frame_of_an_unmerged_video_is_seen(
    config: PruneVidConfig, value: float, impl: Any
) -> None:
    """With a budget the kernels' path must not wait: there it is a flag."""
    x = FEATURES.clone()
    x[2:, 4, 1] = value
    if impl == "reference" or config.budget is None:
        with pytest.raises(ValueError, match="video 1, frame 1 holds a NaN"):
            merge_videos(x, [1, 3], config, impl=impl)
    else:
        good, bad = merge_videos(x, [1, 3], config, impl=impl)
        assert int(good.first_bad_frame) == 1 and int(bad.first_bad_frame) == 1
    whole = merge_video(FEATURES, config, impl=impl).first_bad_frame
    assert whole is None if impl == "reference" or config.budget is None else int(whole) == 4


@pytest.mark.sample(4)
@IMPLS
@pytest.mark.parametrize("bad", [0, 1, 2, 3])
def test_a_batch_of_which_a_part_is_merged_names_the_right_video(bad: int, impl: Any) -> None:
    """A budget of 20 leaves room for the first and the third video as they are."""
    frames = [2, 6, 1, 5]
    generator = torch.Generator().manual_seed(0)
    videos = [torch.randn(t, 10, 4, generator=generator) for t in frames]
    videos[bad][-1, 3, 2] = float("nan")
    config = PruneVidConfig(budget=20)
    if impl == "reference":
        with pytest.raises(ValueError, match=f"video {bad}, frame {frames[bad] - 1} holds"):
            merge_videos(torch.cat(videos), frames, config, impl=impl)
    else:
        merged = merge_videos(torch.cat(videos), frames, config, impl=impl)
        flags = [int(video.first_bad_frame) for video in merged]
        assert flags == [t - (position == bad) for position, t in enumerate(frames)]


@IMPLS
@pytest.mark.parametrize("config", [*IDENTITIES, pytest.param(PruneVidConfig(budget=7), id="7")])
def test_tokens_are_written_to_a_tensor_of_the_caller(config: PruneVidConfig, impl: Any) -> None:
    expected = torch.cat([v.tokens for v in merge_videos(FEATURES, [1, 3], config, impl=impl)])
    out = torch.full_like(expected, -9.0)
    videos = merge_videos(FEATURES, [1, 3], config, impl=impl, out=out)
    assert torch.equal(out, expected)
    assert videos[0].tokens.data_ptr() == out.data_ptr()
    first = merge_video(FEATURES[:1], config, impl=impl, out=out[: len(videos[0].tokens)])
    assert torch.equal(first.tokens, videos[0].tokens)


@IMPLS
@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        pytest.param([0.0], TypeError, "got list", id="list"),
        pytest.param(torch.empty(8, 6), ValueError, r"\[7, 6\], got \[8, 6\]", id="rows"),
        pytest.param(torch.empty(7, 6).half(), TypeError, "got torch.float16", id="dtype"),
        pytest.param(torch.empty(6, 7).T, ValueError, "contiguous", id="strides"),
        pytest.param(FEATURES[0].view(-1)[:1], ValueError, "shape", id="shape"),
        pytest.param(FEATURES.view(-1)[:42].view(7, 6), ValueError, "features", id="in-place"),
        pytest.param(torch.empty(7, 6, device="meta"), ValueError, "got meta", id="device"),
    ],
)
def test_out_refused(out: Any, error: type[Exception], message: str, impl: Any) -> None:
    with pytest.raises(error, match=f"^out .*{message}"):
        merge_video(FEATURES, PruneVidConfig(budget=7), impl=impl, out=out)


def test_out_needs_a_known_number_of_tokens() -> None:
    with pytest.raises(ValueError, match="^out needs a budget"):
        merge_video(FEATURES, CONFIG, out=torch.empty(20, 6))


def test_whole_numbers_of_numpy_are_lengths() -> None:
    ours = merge_videos(FEATURES, list(np.array([1, 3])), CONFIG)
    assert [video.layout.num_frames for video in ours] == [1, 3]


@IMPLS
def test_another_default_device_than_the_data_s(impl: Any) -> None:
    """As ``torch.set_default_device("cuda")`` for features on a CPU."""
    query, key = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 20, 8)
    index, scores = torch.tensor([1, 3]), torch.arange(20.0)
    calls = [
        lambda: merge_video(FEATURES, CONFIG, impl=impl).tokens,
        lambda: merge_video(FEATURES, CONFIG, impl=impl).layout.group_sizes,
        lambda: merge_video(FEATURES, PruneVidConfig(budget=7), impl=impl).tokens,
        lambda: merge_video(FEATURES, PruneVidConfig(budget=7), impl=impl).layout.segment_lengths,
        lambda: merge_video(FEATURES, PruneVidConfig(merge=False), impl=impl).layout.group_sizes,
        lambda: segment_frames(FEATURES.mean(dim=1), CONFIG, impl=impl),
        lambda: dpc_knn(FEATURES, 2, lengths=[5, 4, 3, 2], impl=impl).labels,
        lambda: score_visual_tokens(query, key, slice(3, 9), causal_offset=9, impl=impl),
        lambda: compact([key], index, dim=2, impl=impl)[0],
        *(
            lambda selection=selection: select_tokens(
                scores,
                merge_video(FEATURES, PruneVidConfig(merge=False), impl=impl).layout,
                PruneVidConfig(selection=selection),
            )
            for selection in ("grouped", "global")
        ),
    ]
    expected = [call() for call in calls]
    with torch.device("meta"):
        found = [call() for call in calls]
    for ours, wanted in zip(found, expected, strict=True):
        assert ours.device.type == "cpu" and torch.equal(ours, wanted)


# ------------------------------------------------------------------------------------------------
# Select
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", ["grouped", "global"])
def test_scores_that_are_nan_are_refused(selection: Any) -> None:
    layout = TokenLayout.identity(4, 5, torch.device("cpu"))
    scores = torch.rand(20)
    scores[13] = float("nan")
    with pytest.raises(ValueError, match="^scores must not be NaN"):
        select_tokens(scores, layout, PruneVidConfig(selection=selection))


@st.composite
def layouts(draw: st.DrawFn) -> TokenLayout:
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    static = draw(st.lists(st.integers(0, 6), min_size=len(lengths), max_size=len(lengths)))
    dynamic = draw(st.lists(st.integers(0, 6), min_size=len(lengths), max_size=len(lengths)))
    window_sizes = torch.tensor(lengths)
    return layout_of_sizes(window_sizes, torch.tensor(static), torch.tensor(dynamic) * window_sizes)


def best_by_hand(scores: list[float], positions: range, keep_ratio: float) -> list[int]:
    best = sorted(positions, key=lambda position: (-scores[position], position))
    return best[: int(len(positions) * keep_ratio)]


@settings(max_examples=150)
@given(
    layout=layouts(),
    seed=st.integers(0, 1000),
    levels=st.sampled_from([1, 2, 5, 10**6]),
    keep_ratio=st.sampled_from([0.01, 0.29, 0.4, 0.5, 0.99, 1.0]),
    selection=st.sampled_from(["grouped", "global"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_selection(
    layout: TokenLayout,
    seed: int,
    levels: int,
    keep_ratio: float,
    selection: Any,
    dtype: torch.dtype,
) -> None:
    """By hand: in each group the best, of equal ones the earlier, and as many as the ratio says."""
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.randint(levels, (layout.num_merged,), generator=generator) / levels).to(dtype)
    config = PruneVidConfig(keep_ratio=keep_ratio, selection=selection)
    values = scores.tolist()
    expected: list[int] = []
    start = 0
    sizes = [layout.num_merged] if selection == "global" else layout.group_sizes.tolist()
    for size in sizes:
        expected += best_by_hand(values, range(start, start + size), keep_ratio)
        start += size
    kept = select_tokens(scores, layout, config)
    assert kept.dtype == torch.int64
    assert kept.tolist() == sorted(expected)
    assert torch.equal(kept, reference.select_tokens(scores, layout, config))


def test_selection_switched_off() -> None:
    layout = merge_video(FEATURES, CONFIG).layout
    kept = select_tokens(torch.zeros(layout.num_merged), layout, PruneVidConfig(select=False))
    assert kept.tolist() == list(range(layout.num_merged))


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        pytest.param([0.0], TypeError, "got list", id="list"),
        pytest.param(torch.zeros(1, 20), ValueError, r"got shape \[1, 20\]", id="2-D"),
        pytest.param(torch.zeros(20).long(), TypeError, "got torch.int64", id="int64"),
        pytest.param(torch.zeros(3), ValueError, "each of 20 merged tokens, got 3", id="too few"),
    ],
)
def test_scores_refused(scores: Any, error: type[Exception], message: str) -> None:
    layout = TokenLayout.identity(4, 5, torch.device("cpu"))
    with pytest.raises(error, match=f"^scores .*{message}"):
        select_tokens(scores, layout, CONFIG)


def test_layout_refused() -> None:
    with pytest.raises(TypeError, match="^layout must be a TokenLayout, got Tensor"):
        select_tokens(torch.zeros(4), torch.zeros(4), CONFIG)  # type: ignore[arg-type]


def test_select_keeps_the_device_of_the_scores() -> None:
    layout = TokenLayout.identity(4, 5, torch.device("cpu"))
    scores: Tensor = torch.rand(20)
    assert select_tokens(scores, layout, CONFIG).device == scores.device
