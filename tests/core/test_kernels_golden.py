"""The Triton kernels against the reference on the golden cases, and the near-tie check itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl
from golden import Run, arrays, features, stage1_runs
from oracle import assert_clusters, assert_decisions, average_by_map, refined, same_layout
from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig, dpc_knn, merge_video, segment_frames
from prunevid_kernels.kernels import _device
from prunevid_kernels.kernels.segments import _refined

# With --full only: the largest cases, a copy in another number format, and what differs
# from a case of every run in its values, not in a border of a kernel. The reference takes them all.
IN_FULL = {
    "bikes_ov_c64",
    "carphone_distorted_ov_c64",
    "bigbuckbunny_ov_c64",
    "bikes_pllava_c64_f16",
    "bigbuckbunny_pllava_c256",
    "bikes_pllava_c64",
    "carphone_pristine_pllava_c64",
    "carphone_distorted_pllava_c64",
    "bikes_stllm_c64",
    "carphone_pristine_stllm_c64",
    "bigbuckbunny_stllm_c64",
    "square",
    "patches29",
    "patches31",
    "patches14",
    "patches15",
    "frames24",
    "frames25",
    "frames26",
    "square_exact",
    "bigbuckbunny_pllava_c64",
    "cuts_return",
    "random",
    "patches30",
}
SMALL = ("frames7", "patches2")
RATIOS = ("seg010_cl075",)
DEFAULT_RUNS = [run for run in stage1_runs() if run.name == "tau080" and run.case not in IN_FULL]
FULL_RUNS = [run for run in stage1_runs() if run.name == "tau080" and run.case in IN_FULL]
OTHER_RUNS = [run for run in stage1_runs() if run.case in SMALL and run.name != "tau080"]
OTHER_RUNS += [run for run in stage1_runs() if run.case == "ratios" and run.name in RATIOS]


def assert_agree(x: Tensor, config: PruneVidConfig, kernel: MergedVideo) -> None:
    """The same layout as the reference's; tokens as near to float64's as the reference's are."""
    expected = merge_video(x, config, impl="reference")
    assert same_layout(kernel.layout, expected.layout)
    truth = average_by_map(x, expected.layout)
    eager_error = (expected.tokens.double() - truth).abs().max()
    kernel_error = (kernel.tokens.double() - truth).abs().max()
    assert kernel_error <= eager_error + 2.0**-22 * truth.abs().max()


@pytest.fixture
def gpu_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block sizes that ship for GPUs, whose loops run more than once where the interpreter's
    large blocks need one round."""
    monkeypatch.setattr(_device, "architecture", lambda device: "none of the table")


def test_enough_cases() -> None:
    assert len(DEFAULT_RUNS) == 17 and len(FULL_RUNS) == 24
    assert len(OTHER_RUNS) == 2 * len(SMALL) + 1


@pytest.mark.sample(8)
@pytest.mark.parametrize(
    "run",
    [
        *DEFAULT_RUNS,
        *OTHER_RUNS,
        *(pytest.param(run, marks=pytest.mark.full) for run in FULL_RUNS),
    ],
    ids=str,
)
def test_golden_cases_are_merged_as_by_the_reference(run: Run) -> None:
    x = run.features()
    assert_agree(x, run.config, merge_video(x, run.config, impl="triton"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("case", ["frames8", "patches15"])
def test_merge_half_precision(case: str, dtype: torch.dtype) -> None:
    x = features(case).to(dtype)
    config = PruneVidConfig()
    merged = merge_video(x, config, impl="triton")
    assert merged.tokens.dtype == dtype
    assert same_layout(merged.layout, merge_video(x.float(), config, impl="reference").layout)
    expected = merge_video(x, config, impl="reference")
    # One rounding to the dtype each, of sums that differ by float32 error.
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(merged.tokens, expected.tokens, rtol=step, atol=step * 2.0**-10)


@pytest.mark.usefixtures("gpu_blocks")
def test_merge_with_gpu_blocks() -> None:
    x, config = features("frames7"), PruneVidConfig()
    assert_agree(x, config, merge_video(x, config, impl="triton"))


@pytest.mark.usefixtures("gpu_blocks")
def test_merge_with_gpu_blocks_of_many_rounds() -> None:
    """Several blocks of tokens, of channels, of split channels and of rows of the distances."""
    generator = torch.Generator().manual_seed(5)
    scene = torch.randn(2, 70, 530, generator=generator).repeat_interleave(2, dim=0)
    x = scene + 0.2 * torch.randn(4, 70, 530, generator=generator)
    x[:, 40:] += torch.randn(4, 30, 530, generator=generator)
    config = PruneVidConfig(segment_ratio=0.5)
    merged = merge_video(x, config, impl="triton")
    assert merged.layout.num_segments == 2
    assert (merged.layout.static_sizes() > 0).all() and (merged.layout.dynamic_sizes() > 0).all()
    assert_agree(x, config, merged)


# ------------------------------------------------------------------------------------------------
# Refinement
# ------------------------------------------------------------------------------------------------


@triton.jit
def _refine_labels_kernel(
    label_ptr, refined_ptr, n, num_labels, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Program (label string): the refinement of the segments kernel, on given labels."""
    row = tl.program_id(0) * n
    j = tl.arange(0, BLOCK_N)
    label = tl.load(label_ptr + row + j, mask=j < n, other=-1)
    refined = _refined(label, n, num_labels, BLOCK_M, BLOCK_N)
    tl.store(refined_ptr + row + j, refined, mask=j < n)


def changes(labels: list[int]) -> list[bool]:
    return [a != b for a, b in zip(labels, labels[1:], strict=False)]


def in_order(labels: list[int]) -> list[int]:
    """The labels renamed in order of appearance: what decides all but their names."""
    names = list(dict.fromkeys(labels))
    return [names.index(label) for label in labels]


@pytest.mark.parametrize("frames", [1, 2, 3, 6, 7, 8, 11, 16, 32, 64])
def test_refinement_in_the_kernel(frames: int) -> None:
    vectors = arrays("refine_units.npz")
    strings, results = vectors[f"t{frames:02d}_in"], vectors[f"t{frames:02d}_out"]
    # Every short string but for the names of its labels; of the long ones a sample.
    distinct = {tuple(in_order(labels)): row for row, labels in enumerate(strings.tolist())}
    rows = list(distinct.values())[: 122 if frames == 6 else max(6, 150 // frames)]
    before, expected = torch.from_numpy(strings[rows]).int(), results[rows].tolist()
    refined = torch.empty_like(before)
    block = triton.next_power_of_2(frames)
    _refine_labels_kernel[(len(before),)](
        before, refined, frames, int(before.max()) + 1, BLOCK_M=max(1, block // 2), BLOCK_N=block
    )
    assert len(before) >= {1: 1, 2: 2, 3: 3, 6: 122}.get(frames, 6)
    assert refined.tolist() == expected


@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize("frames", [6, 11, 16, 32])
def test_refinement_of_whole_segmentation(frames: int, impl: str) -> None:
    """Descriptors of which each label has its own, so that the clusters are the labels."""
    vectors = arrays("refine_units.npz")
    last = len(vectors[f"t{frames:02d}_in"])
    for row in range(5, last, last // 4):
        labels = vectors[f"t{frames:02d}_in"][row].tolist()
        after = vectors[f"t{frames:02d}_out"][row].tolist()
        num_labels = len(set(labels))
        config = PruneVidConfig(segment_ratio=min(1.0, (num_labels + 0.5) / frames))
        segments = segment_frames(torch.eye(32)[labels], config, impl=impl).tolist()
        assert changes(segments) == changes(after)
        assert segments[0] == 0 and max(segments) == sum(changes(after))


# ------------------------------------------------------------------------------------------------
# The float64 check that a near-tie has to pass, on results that are right and results that are not
# ------------------------------------------------------------------------------------------------


def test_float64_agrees_with_the_reference() -> None:
    for case in ("bikes_stllm_c64", "cuts3", "patches31"):
        x = features(case)
        layout = merge_video(x, PruneVidConfig()).layout
        assert_decisions(x, PruneVidConfig(), layout, impl="reference")


def swap_ranks(labels: Tensor) -> Tensor:
    return torch.where(labels == 0, 1, torch.where(labels == 1, 0, labels))


def move_one(labels: Tensor) -> Tensor:
    largest = torch.bincount(labels).argmax()
    moved = labels.clone()
    moved[(labels == largest).nonzero()[-1]] = (largest + 1) % (labels.max() + 1)
    return moved


def join_two(labels: Tensor) -> Tensor:
    """Another point than the right one is the centre of the last cluster."""
    last = labels.max()
    joined = torch.where(labels == last, 0, labels)
    joined[(joined == 0).nonzero()[-1]] = last
    return joined


@pytest.mark.parametrize("corrupt", [swap_ranks, move_one, join_two])
def test_float64_refuses_wrong_clusters(corrupt: Callable[[Tensor], Tensor]) -> None:
    points = torch.randn(40, 16, generator=torch.Generator().manual_seed(3))
    labels = dpc_knn(points[None], 6).labels[0]
    assert_clusters(points, labels, 6, 7)
    with pytest.raises(AssertionError):
        assert_clusters(points, corrupt(labels), 6, 7)


def test_float64_refuses_a_wrong_split() -> None:
    x = features("cuts3")
    for tau in (0.6, 0.95):
        layout = merge_video(x, PruneVidConfig(tau=tau)).layout
        with pytest.raises(AssertionError, match="token"):
            assert_decisions(x, PruneVidConfig(tau=0.8), layout, impl="reference")


def test_refinement_of_the_check() -> None:
    vectors = arrays("refine_units.npz")
    for frames in (6, 16, 64):
        before, after = vectors[f"t{frames:02d}_in"], vectors[f"t{frames:02d}_out"]
        for labels, expected in zip(before.tolist(), after.tolist(), strict=True):
            assert refined(labels) == expected
