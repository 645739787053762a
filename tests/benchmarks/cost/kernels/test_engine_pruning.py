"""EVS and VidCom2 beside the merge: they keep what their description says, and their checks can
fail."""

from __future__ import annotations

import math

import pytest
import torch

from prunevid_kernels.benchmarks.cost.harness import IncorrectResultError
from prunevid_kernels.benchmarks.cost.kernels import engine_pruning as engines
from prunevid_kernels.benchmarks.cost.kernels.cases import video_features


def test_evs_keeps_the_first_frame_and_what_moves():
    still = torch.randn(1, 6, 8).expand(4, 6, 8).clone()
    still[2, 3] = torch.randn(8)
    tokens, places = engines.evs(still, 8)
    assert places.tolist() == [0, 1, 2, 3, 4, 5, 2 * 6 + 3, 3 * 6 + 3]
    assert torch.equal(tokens, still.flatten(0, 1)[places])


def test_evs_compares_in_the_features_dtype():
    x = video_features(5, 30, 64, seed=0, dtype=torch.bfloat16)
    assert engines.dissimilarity(x).dtype == torch.bfloat16
    assert engines.evs(x, 60)[0].dtype == torch.bfloat16


def least_typical(x, kept):
    """Places that VidCom2 keeps: its description, token by token, in double precision."""
    frames, n, channels = x.shape
    flat = x.double().flatten(0, 1)
    variances = ((flat - flat.mean(0)) ** 2).mean(0).tolist()
    quiet = sorted(range(channels), key=lambda channel: variances[channel])[: channels // 2]
    unit = x.double()[..., quiet]
    unit = unit / unit.norm(dim=-1, keepdim=True)

    def gaussians(token, center):
        square = float(((token - center) ** 2).sum())
        return sum(math.exp(-square / (2 * a)) for a in (1 / 8, 1 / 4, 1 / 2, 1, 2))

    video = [[gaussians(token, unit.mean((0, 1))) for token in frame] for frame in unit]
    typical = [
        [video[t][i] + gaussians(unit[t, i], unit[t].mean(0)) for i in range(n)]
        for t in range(frames)
    ]
    unlike = [-sum(row) / n for row in video]
    weights = [math.exp((value - max(unlike)) / 0.01) for value in unlike]
    softmax = [weight / sum(weights) for weight in weights]
    chosen, others = [], []
    for t, row in enumerate(typical):
        share = min(1, kept / (frames * n) * (1 + softmax[t] - 1 / frames))
        count = max(1, round(share * n))
        order = sorted(range(n), key=lambda position: row[position])
        chosen += [(row[i], t * n + i) for i in order[:count]]
        others += [(row[i], t * n + i) for i in order[count:]]
    found = sorted(chosen)[:kept]
    found += sorted(others)[: kept - len(found)]
    return sorted(place for _, place in found), len(chosen)


@pytest.mark.parametrize("kept", [7, 40, 63, 100, 139, 140])
def test_vidcom2_keeps_the_least_typical(kept):
    x = video_features(7, 20, 32, seed=3)
    expected, _ = least_typical(x, kept)
    tokens, places = engines.vidcom2(x, kept)
    assert places.tolist() == expected
    assert torch.equal(tokens, x.flatten(0, 1)[places])


def test_vidcom2_is_filled_up_and_cut():
    """Both happen among the numbers of the test above."""
    x = video_features(7, 20, 32, seed=3)
    differences = [least_typical(x, kept)[1] - kept for kept in (7, 40, 63, 100, 139, 140)]
    assert min(differences) < 0 < max(differences)


def test_a_frame_unlike_the_video_keeps_more():
    x = 0.3 * torch.randn(6, 40, 32) + torch.randn(32)
    x[4] = torch.randn(40, 32)
    _, places = engines.vidcom2(x, 60)
    counts = torch.bincount(places // 40, minlength=6)
    assert counts.argmax() == 4 and counts[4] > 1.5 * 60 / 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ["evs", "vidcom2"])
def test_checks_accept_and_find(name, dtype):
    x = video_features(8, 30, 64, seed=1, dtype=dtype)
    run, check = getattr(engines, name), getattr(engines, f"check_{name}")
    tokens, places = run(x, 100)
    check(x, (tokens, places), kept=100)
    with pytest.raises(IncorrectResultError, match="99 tokens are kept, not 100"):
        check(x, (tokens[1:], places[1:]), kept=100)
    with pytest.raises(IncorrectResultError, match="not those at the kept places"):
        check(x, (tokens + 1, places), kept=100)
    is_dropped = torch.ones(240, dtype=torch.bool).index_fill(0, places, False)
    others = torch.cat((is_dropped.nonzero()[:50, 0], places[50:])).sort().values
    with pytest.raises(IncorrectResultError, match="dropped one|not those that float64 keeps"):
        check(x, (x.flatten(0, 1)[others], others), kept=100)


@pytest.mark.parametrize("name", ["evs", "vidcom2"])
def test_traces_for_torch_compile(name):
    x = video_features(5, 20, 16, seed=2)
    run = getattr(engines, name)
    traced = torch.compile(run, backend="eager", fullgraph=True)
    assert torch.equal(traced(x, 40)[1], run(x, 40)[1])
