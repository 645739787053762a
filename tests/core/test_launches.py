"""How many launches and host copies the public functions take, and that the counter can count."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import GridExecutor

from prunevid_kernels import (
    PruneVidConfig,
    compact,
    merge_videos,
    ops,
    score_visual_tokens,
    select_tokens,
)
from prunevid_kernels.benchmarks.cost.kernels.cases import video_features
from prunevid_kernels.benchmarks.cost.launches import LaunchCounts, count_launches

CPU = torch.device("cpu")
MERGE = 10  # launches of a merge; the first takes the integers of up to three videos along
LONG = 2  # more for a batch with a video of more than 64 frames


def count(work, *inputs):
    return count_launches(work, CPU, inputs)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("frames", "tokens"),
    [
        pytest.param([1], 5, id="one-frame"),
        pytest.param([8], 20, id="one-video"),
        pytest.param([13], 33, id="longer-video"),
        pytest.param([3, 9, 1, 6], 20, id="ragged-batch"),
    ],
)
def test_merge_takes_as_many_launches_and_one_host_copy_whatever_the_batch(frames, tokens):
    features = video_features(sum(frames), tokens, 24, seed=0)
    counts = count(lambda: merge_videos(features, frames, PruneVidConfig(), impl="triton"))
    assert counts == LaunchCounts(triton=MERGE + (len(frames) > 3), host_copies=1)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("frames", "launches"), [(64, MERGE), (65, MERGE + LONG)])
def test_a_video_of_more_than_64_frames_takes_two_launches_more(frames, launches):
    features = video_features(frames, 2, 8, seed=0)
    config = PruneVidConfig(budget=100)
    counts = count(lambda: merge_videos(features, [frames], config, impl="triton"), features)
    assert counts == LaunchCounts(triton=launches)


@pytest.mark.parametrize("frames", [[8], [3, 9, 1, 6]], ids=["one-video", "ragged-batch"])
def test_merge_to_a_budget_never_waits(frames):
    """Neither for results nor for the copy of a table: these frames and budgets have not been seen
    before."""
    features = video_features(sum(frames), 20, 24, seed=0)
    config = PruneVidConfig(budget=0.41)
    counts = count(lambda: merge_videos(features, frames, config, impl="triton"), features)
    assert counts == LaunchCounts(triton=MERGE + (len(frames) > 3))


def test_many_videos_take_more_launches_for_their_table():
    frames = [1] * 21
    features = video_features(sum(frames), 4, 8, seed=0)
    counts = count(lambda: merge_videos(features, frames, PruneVidConfig(budget=3), impl="triton"))
    assert counts == LaunchCounts(triton=MERGE + 2)  # 64 of 22 + 22 + 21 numbers a launch


def test_a_budget_below_one_token_a_group_takes_a_launch_more():
    features = video_features(8, 5, 8, seed=0)
    for budget, launches in ((12, MERGE), (11, MERGE + 1)):
        config = PruneVidConfig(budget=budget)
        counts = count(lambda c=config: merge_videos(features, [8], c, impl="triton"), features)
        assert counts == LaunchCounts(triton=launches)


def test_strided_features_cost_one_copy_on_the_device():
    features = video_features(8, 20, 24, seed=0)
    strided = features.transpose(0, 1).contiguous().transpose(0, 1)
    counts = count(lambda: merge_videos(strided, [8], PruneVidConfig(), impl="triton"), strided)
    assert counts == LaunchCounts(triton=MERGE, torch=1, host_copies=1)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("keys", [37, 700])
def test_scoring_takes_two_launches_and_no_host_copy(keys, key_heads):
    query, key = torch.randn(2, 4, 5, 16), torch.randn(2, key_heads, keys, 16)
    counts = count(
        lambda: score_visual_tokens(query, key, slice(3, 30), causal_offset=31, impl="triton"),
        query,
        key,
    )
    assert counts == LaunchCounts(triton=2)


@pytest.mark.parametrize(("tensors", "launches"), [(22, 1), (32, 1), (33, 2)])
def test_compaction_of_all_layers_is_a_launch_for_32_tensors(tensors, launches):
    keys_and_values = [torch.randn(1, 2, 8, 4) for _ in range(tensors)]
    index = torch.tensor([6, 1])
    expected = [tensor[:, :, index] for tensor in keys_and_values]
    found = []
    counts = count(
        lambda: found.extend(compact(keys_and_values, index, dim=2, impl="triton")),
        *keys_and_values,
        index,
    )
    assert counts == LaunchCounts(triton=launches)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_compaction_of_other_shapes_is_a_launch_for_each():
    tensors = [torch.randn(1, heads, 40, 16) for heads in (1, 2) for _ in range(11)]
    index = torch.arange(0, 40, 3)
    counts = count(lambda: compact(tensors, index, dim=2, impl="triton"), *tensors, index)
    assert counts == LaunchCounts(triton=2)


@pytest.mark.parametrize("selection", ["grouped", "global"])
def test_selection_never_waits_for_the_device(selection, monkeypatch):
    # Scores on the host are looked through for NaN; here the host's memory plays the device's.
    monkeypatch.setattr(ops, "require_no_nan", lambda scores: None)
    config = PruneVidConfig(selection=selection)
    video = merge_videos(video_features(8, 20, 24, seed=0), [8], config)[0]
    scores = torch.rand(video.layout.num_merged)
    counts = count(lambda: select_tokens(scores, video.layout, config), scores)
    assert counts.triton == counts.host_copies == counts.device_copies == 0
    assert 0 < counts.torch < 10


# ------------------------------------------------------------------------------------------------
# What a CUDA graph keeps of a call
# ------------------------------------------------------------------------------------------------


class Allocated(TorchDispatchMode):
    """The storages that a call allocates: inside a capture they come from the graph's own pool."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("empty", "empty_like"):
            self.storages[result.untyped_storage()._cdata] = result
        return result


def budget_merge(x, query, key, cache, index):
    merge_videos(x, [3, 9, 1], PruneVidConfig(budget=0.4), impl="triton")


def scoring(x, query, key, cache, index):
    score_visual_tokens(query, key, slice(3, 30), causal_offset=31, impl="triton")


def compaction(x, query, key, cache, index):
    compact(cache, index, dim=2, impl="triton")


@pytest.mark.parametrize(
    "call", [budget_merge, scoring, compaction], ids=lambda call: call.__name__
)
def test_what_a_capture_uses_belongs_to_it_or_to_the_caller(call, monkeypatch):
    """A table that a cache keeps, or kept, is freed or overwritten while the graph still reads it.
    The call is made before, as before a capture."""
    inputs = [
        video_features(13, 20, 24, seed=0),
        torch.randn(2, 4, 5, 16),
        torch.randn(2, 2, 40, 16),
        [torch.randn(1, 2, 40, 16) for _ in range(3)],
        torch.arange(0, 40, 3),
    ]
    call(*inputs)
    given = {tensor.untyped_storage()._cdata for tensor in pytree.tree_leaves(inputs)}
    foreign = []
    execute = GridExecutor.__call__

    def looked_at(self, *args, **kwargs):
        for tensor in pytree.tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()._cdata
                if storage not in given and storage not in allocated.storages:
                    foreign.append((self.fn.__name__, tensor))
        return execute(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", looked_at)
    with Allocated() as allocated:
        call(*inputs)
    assert allocated.storages and not foreign


# What the counter itself has to tell apart. ``x`` plays a tensor in device memory.
X = torch.ones(3, 4)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        pytest.param(lambda: X + 1, LaunchCounts(torch=1), id="operator"),
        pytest.param(lambda: (X + 1) * 2, LaunchCounts(torch=2), id="result-of-operator"),
        pytest.param(lambda: X[1:].T.reshape(-1), LaunchCounts(torch=1), id="views-and-copy"),
        pytest.param(lambda: torch.empty_like(X), LaunchCounts(), id="allocation"),
        pytest.param(lambda: X[0, 0].item(), LaunchCounts(host_copies=1), id="item"),
        pytest.param(
            lambda: X.nonzero(), LaunchCounts(torch=1, host_copies=1), id="size-to-the-host"
        ),
        pytest.param(
            lambda: torch.empty_like(X, device="cpu").copy_(X),
            LaunchCounts(host_copies=1),
            id="copy-to-the-host",
        ),
        pytest.param(
            lambda: torch.empty_like(X, device="cpu").copy_(X).add_(1).sum(),
            LaunchCounts(host_copies=1),
            id="work-on-the-host-after-it",
        ),
        pytest.param(lambda: torch.arange(9).cumsum(0), LaunchCounts(), id="work-on-the-host"),
        pytest.param(
            lambda: torch.empty_like(X).copy_(torch.tensor([1.0, 2.0, 3.0, 4.0])).add_(X),
            LaunchCounts(torch=1, device_copies=1),
            id="copy-to-the-device",
        ),
    ],
)
def test_counter(work, expected):
    assert count(work, X) == expected


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(lambda: torch.tensor([0, 8], dtype=torch.int32), id="values"),
        pytest.param(lambda: torch.tensor([0, 4]).int() * 2, id="computed-on-the-host"),
    ],
)
def test_a_kernel_s_argument_from_the_host_is_a_copy(table):
    from prunevid_kernels.kernels.segments import segments

    mean = torch.randn(8, 16)
    counts = count(lambda: segments(mean, table(), 8, 0.25, 7), mean)
    assert counts.device_copies == 1


def test_counter_leaves_triton_as_it_was():
    from triton.runtime.jit import JITFunction

    before = JITFunction.run, GridExecutor.__call__
    with pytest.raises(ZeroDivisionError):
        count(lambda: 1 / 0)
    assert (JITFunction.run, GridExecutor.__call__) == before
