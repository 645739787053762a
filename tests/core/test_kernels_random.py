"""The Triton kernels against the reference on random videos of ugly shapes (hypothesis).

The videos have what the method looks for: scenes that come back, a background that stands still,
tokens that move, exact duplicates. A kernel may differ from the reference only where float64 cannot
tell the two apart by more than float32's error; the examples are the same on every run, and those
that do are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracle import assert_decisions, assert_invariants, average_by_map, same_layout
from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig, merge_video, merge_videos

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# A failing example is reported as it is: looking for a smaller one takes the interpreter minutes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
near_ties: list[str] = []


@dataclass(frozen=True)
class Shape:
    """What decides a video, or a batch of them; everything random follows from the seed."""

    frames: tuple[int, ...]
    tokens: int
    channels: int
    dtype: torch.dtype
    strides: str
    kind: str
    seed: int

    def features(self) -> Tensor:
        """[sum of frames, tokens, channels] of the strides that were asked for."""
        generator = torch.Generator().manual_seed(self.seed)

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        videos = []
        for frames in self.frames:
            scenes = noise(4, self.tokens, self.channels)
            cuts = torch.rand(frames, generator=generator) < 0.3
            scene = torch.randint(4, (frames,), generator=generator)
            shown = scene[(torch.arange(frames) * cuts).cummax(dim=0).values]  # [T]
            video = scenes[shown]
            if self.kind == "noisy":
                moving = torch.rand(self.tokens, 1, generator=generator) < 0.4
                video = video + (0.1 + moving) * noise(frames, self.tokens, self.channels)
            elif self.kind == "duplicates":  # few distinct tokens, frames exactly repeated
                video = video[:, torch.randint(self.tokens, (self.tokens,), generator=generator)]
                video = video.round()
            videos.append(video)
        return strided(torch.cat(videos).to(self.dtype), self.strides)


def strided(x: Tensor, strides: str) -> Tensor:
    """The same values in another order of memory."""
    if strides == "transposed":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if strides == "channels first":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if strides == "every other":
        return x.repeat_interleave(2, dim=2)[:, :, ::2]
    return x.contiguous()


def shapes(*, max_frames: int, videos: int = 1) -> st.SearchStrategy[Shape]:
    few = st.integers(1, 8)
    return st.builds(
        Shape,
        frames=st.lists(few | st.integers(1, max_frames), min_size=videos, max_size=videos).map(
            tuple
        ),
        tokens=st.integers(1, 20) | st.integers(1, 70),
        channels=st.integers(1, 70).filter(lambda c: c & (c - 1) != 0),
        dtype=st.sampled_from(DTYPES),
        strides=st.sampled_from(["contiguous", "transposed", "channels first", "every other"]),
        kind=st.sampled_from(["noisy", "duplicates", "random"]),
        seed=st.integers(0, 2**31),
    )


configs = st.builds(
    PruneVidConfig,
    tau=st.sampled_from([0.5, 0.8, 0.95]),
    segment_ratio=st.sampled_from([0.1, 0.25, 0.5, 1.0]),
    cluster_ratio=st.sampled_from([0.05, 0.29, 0.5, 1.0]),
    num_neighbors=st.sampled_from([1, 3, 7]),
    min_cluster_tokens=st.sampled_from([1, 5, 14]),
)


def assert_agree(x: Tensor, config: PruneVidConfig, kernel: MergedVideo) -> None:
    """Equal decisions up to near-ties, which are proven and counted; tokens within the budget."""
    expected = merge_video(x, config, impl="reference")
    assert_invariants(x, config, kernel)
    if not same_layout(kernel.layout, expected.layout):
        assert_decisions(x, config, expected.layout, impl="reference")
        assert_decisions(x, config, kernel.layout, impl="triton")
        near_ties.append(f"{list(x.shape)} {config}")
    eager_error = (expected.tokens - average_by_map(x, expected.layout)).abs().max()
    kernel_error = (kernel.tokens - average_by_map(x, kernel.layout)).abs().max()
    largest = x.abs().max().double()
    if x.dtype == torch.bfloat16:  # Triton's interpreter cuts off what a GPU rounds to nearest
        assert kernel_error <= torch.finfo(x.dtype).eps * largest
    else:
        assert kernel_error <= eager_error + 2.0**-22 * largest


def assert_identical(a: MergedVideo, b: MergedVideo) -> None:
    assert torch.equal(a.tokens, b.tokens)
    assert same_layout(a.layout, b.layout)


@pytest.fixture(scope="module", autouse=True)
def count_near_ties() -> Iterator[None]:
    yield
    assert len(near_ties) <= 1, near_ties


@settings(max_examples=9, phases=PHASES)
@given(shape=shapes(max_frames=40), config=configs)
def test_a_random_video_is_merged_as_by_the_reference(shape: Shape, config: PruneVidConfig) -> None:
    x = shape.features()
    assert_agree(x, config, merge_video(x, config, impl="triton"))


@settings(max_examples=3, phases=PHASES)
@given(shape=st.integers(1, 4).flatmap(lambda b: shapes(max_frames=8, videos=b)), config=configs)
def test_a_video_s_result_does_not_depend_on_its_batch(
    shape: Shape, config: PruneVidConfig
) -> None:
    """A video's result is the same, bit for bit, in a batch and, computed again, alone."""
    x = shape.features()
    batch = merge_videos(x, list(shape.frames), config, impl="triton")
    expected = merge_videos(x, list(shape.frames), config, impl="reference")
    assert len(batch) == len(shape.frames)
    for number, video in enumerate(x.split(list(shape.frames))):
        assert_agree(video, config, batch[number])
        assert_identical(batch[number], merge_video(video, config, impl="triton"))
        assert_identical(expected[number], merge_video(video, config, impl="reference"))
