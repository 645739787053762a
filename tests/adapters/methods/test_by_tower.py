"""The methods that look at the tower's attention, against the reference vectors of
tests/data/methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from vectors import cases, features

from prunevid_kernels.adapters import apply_method
from prunevid_kernels.adapters.methods.by_tower import fastvid, flashvid
from prunevid_kernels.adapters.methods.by_tower.fastvid import FastVid
from prunevid_kernels.adapters.methods.by_tower.flashvid import FlashVid
from prunevid_kernels.adapters.methods.by_tower.holitom import HoliTom, best_windows
from prunevid_kernels.adapters.methods.by_tower.visionzip import VisionZip
from prunevid_kernels.adapters.methods.comparing import cosine, density_scores

NO_KEYS = torch.zeros(0)


def weights(case):
    return torch.from_numpy(case["attention"])


def assert_close(tokens, case, leave_out=()):
    """``leave_out``: rows that the README of the vectors names, where equal centres share their
    members in an order that the originals leave to the library."""
    difference = (tokens - torch.from_numpy(case["merged"])).abs().amax(dim=-1)
    difference[list(leave_out)] = 0
    assert difference.max() <= 1e-4


@pytest.mark.parametrize("case", cases("fastvid"))
def test_fastvid(case):
    x = features(case)
    options = {
        name: case[name].item() for name in ("retention_ratio", "c", "tau", "d", "p", "beta")
    }
    cut = fastvid.segments(x.mean(dim=1), options["c"], options["tau"])
    assert [stop - start for start, stop in cut] == case["segments"].tolist()
    merged = FastVid(**options).merge_seen(x, weights(case), NO_KEYS)
    kept = merged.layout.merged_anchor
    assert kept.tolist() == case["kept"].tolist()
    tied = {296, 297} if case.name == "i" else ()
    assert_close(merged.tokens, case, [i for i, place in enumerate(kept.tolist()) if place in tied])
    assert_a_layout(merged, x)


@pytest.mark.parametrize("case", cases("fastvid"))
def test_density_scores(case):
    x, expected = features(case), torch.from_numpy(case["density_score"])
    kept = x.shape[1] - expected.shape[1]
    salient = torch.sort(weights(case), dim=1, descending=True, stable=True).indices[:, :kept]
    is_rest = torch.ones(x.shape[:2], dtype=torch.bool).scatter_(1, salient, False)
    rest = x[is_rest].unflatten(0, (len(x), -1))
    assert (density_scores(rest, 4)[0] - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("case", cases("holitom"))
def test_holitom(case):
    x, tau = features(case), case["tau"].item()
    windows, saved = best_windows(cosine(x[:-1], x[1:]) > tau, 1024)
    assert [list(window) for window in windows] == case["windows"].tolist()
    assert saved == case["reduced"]
    method = HoliTom(case["retain_ratio"].item(), tau, case["beta"].item(), case["k"].item())
    merged = method.merge_seen(x, weights(case), NO_KEYS)
    assert merged.layout.static_sizes().tolist() == case["static_sizes"].tolist()
    assert merged.layout.merged_anchor.tolist() == case["anchors"].tolist()
    assert_close(merged.tokens, case)
    assert_a_layout(merged, x)


def test_holitom_windows_are_no_longer_than_asked():
    same = torch.ones(6, 3, dtype=torch.bool)
    assert best_windows(same, 3) == ([(0, 2), (3, 5), (6, 6)], 12)
    assert best_windows(same, 1) == ([(i, i) for i in range(7)], 0)


@pytest.mark.parametrize("case", cases("visionzip"))
def test_visionzip(case):
    x, keys = features(case), torch.from_numpy(case["keys"])
    importance = torch.from_numpy(case["cls_attention"]).sum(dim=1)
    dom, ctx = case["dominant"].item(), case["contextual"].item()
    merged = VisionZip(dom=dom, ctx=ctx).merge_seen(x, importance, keys[:, :, None])
    anchors = merged.layout.merged_anchor.view(len(x), -1) % x.shape[1]
    assert anchors[:, :dom].tolist() == case["dominant_idx"].tolist()
    assert_close(merged.tokens.unflatten(0, (len(x), -1)), case)
    assert_a_layout(merged, x)


@pytest.mark.parametrize(
    ("ratio", "width", "expected"),
    [(0.25, 196, (41, 8)), (0.1, 144, (12, 2)), (0.01, 16, (0, 1)), (1.0, 1, (0, 1))],
)
def test_visionzip_counts(ratio, width, expected):
    assert VisionZip(ratio).counts(width) == expected


@pytest.mark.parametrize("case", cases("flashvid"))
def test_flashvid(case):
    x = features(case)
    names = (
        "retention_ratio alpha expansion segment_threshold temporal_threshold min_segments event"
    )
    options = {name: case[name].item() for name in names.split()}
    method = FlashVid(**options)
    parts = flashvid.segments(x.mean(dim=1), method.segment_threshold, method.min_segments)
    lengths = [length for length in case["segments"].tolist() if length]
    assert [stop - start for start, stop in parts] == lengths
    selected = method._selection(x, weights(case), parts, case["selected"].shape[1])
    assert selected.flatten().nonzero()[:, 0].tolist() == case["selected"].flatten().tolist()
    merged = method.merge_seen(x, weights(case), NO_KEYS)
    anchors = merged.layout.merged_anchor.tolist()
    assert anchors == case["anchors"].tolist()
    tied = {80, 81} if case.name == "i" else ()
    assert_close(merged.tokens, case, [i for i, place in enumerate(anchors) if place in tied])
    assert_a_layout(merged, x)


def assert_a_layout(merged, x):
    """Every merged token has its first source at its anchor, in its own frame or segment."""
    layout = merged.layout
    assert layout.group_sizes.sum() == len(merged.tokens) == len(layout.merged_anchor)
    assert merged.first_bad_frame == len(x)
    source, anchors = layout.source_to_merged, layout.merged_anchor
    assert -1 <= source.min() and source.max() < len(merged.tokens)
    at_anchor = source.flatten()[anchors]
    # A place can be given out twice, selected and merged; the first of the two is recorded.
    assert np.array_equal(anchors[at_anchor], anchors)
    frame_of_group = (~layout.group_is_static).cumsum(0) - 1
    frames = anchors // x.shape[1]
    dynamic = ~layout.group_is_static[layout.merged_groups()]
    assert frames[dynamic].equal(frame_of_group[layout.merged_groups()][dynamic])


@pytest.mark.parametrize(
    "method",
    [FastVid(0.3), FastVid(0.3, p=1), HoliTom(0.3), VisionZip(0.3), FlashVid(0.3), FastVid(1.0),
     HoliTom(1.0), VisionZip(1.0), FlashVid(1.0)],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7, 4), (6, 1, 4), (5, 9, 4)], ids=str)
@pytest.mark.parametrize("kind", ["random", "still"])
def test_small_videos_and_halves(method, shape, kind):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).bfloat16()
    if kind == "still":
        x = x[:1].expand(shape).contiguous()
    importance = torch.rand(shape[:2], generator=generator)
    keys = torch.randn(*shape[:2], 2, 3, generator=generator)
    merged = method.merge_seen(x, importance, keys)
    assert merged.tokens.dtype == torch.bfloat16
    assert merged.tokens.isfinite().all()
    assert len(merged.tokens) >= 1
    assert_a_layout(merged, x)


@pytest.mark.parametrize("name", ["fastvid", "flashvid", "holitom", "visionzip"])
def test_a_model_without_a_known_tower_is_refused(build_lm, name):
    options = {"layer": 1} if name == "flashvid" else {}
    with pytest.raises(ValueError, match="LlamaForCausalLM has no attention on its vision side"):
        apply_method(build_lm(), name, options)


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        (FastVid, {"c": 0}, ValueError, "c must be an integer >= 1, got 0"),
        (FastVid, {"beta": 1.5}, ValueError, r"beta must be in \[0, 1\], got 1.5"),
        (HoliTom, {"tau": "x"}, TypeError, r"tau must be a number in \[-1, 1\], got 'x'"),
        (HoliTom, {"retain_ratio": 0}, ValueError, r"retain_ratio must be in \(0, 1\], got 0"),
        (VisionZip, {"dom": 3}, ValueError, "give both dom and ctx, or neither; got 3, None"),
        (VisionZip, {"dom": 3, "ctx": 0}, ValueError, "ctx must be an integer >= 1, got 0"),
        (FlashVid, {"alpha": 2}, ValueError, r"alpha must be in \(0, 1\], got 2"),
        (FlashVid, {"layer": -1}, ValueError, "layer must be an integer >= 0, got -1"),
    ],
)
def test_options_that_cannot_be_are_refused(method, options, error, message):
    with pytest.raises(error, match=message):
        method(**options)
