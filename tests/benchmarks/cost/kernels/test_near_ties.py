"""What our kernels are compared with computes the same, and what judges merges can judge."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from oracle import refined

from prunevid_kernels import MergedVideo, PruneVidConfig, merge_video
from prunevid_kernels.benchmarks.cost.kernels import eager_variants
from prunevid_kernels.benchmarks.cost.kernels.cases import video_features
from prunevid_kernels.benchmarks.cost.kernels.eager_loops import merge_in_loops
from prunevid_kernels.benchmarks.cost.kernels.near_ties import examine


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("frames", "tokens"),
    [
        pytest.param(1, 1, id="1x1"),
        pytest.param(3, 40, id="3x40"),
        pytest.param(11, 31, id="11x31"),
        pytest.param(23, 14, id="23x14"),
    ],
)
@pytest.mark.parametrize("form", ["loops", "vectorised"])
def test_eager_merges_are_the_method(frames, tokens, dtype, form):
    x = video_features(frames, tokens, 48, seed=2, dtype=dtype)
    for config in (PruneVidConfig(), PruneVidConfig(tau=0.6, cluster_ratio=0.3)):
        if form == "loops":
            merged = merge_in_loops(x, config)
        else:
            merged = eager_variants.VectorisedMerge(config)(x)
        verdict = examine(x, config, merged)
        assert not verdict.errors
        assert verdict.near_ties <= 2


def test_vectorised_merge_traces_for_torch_compile():
    x, config = video_features(9, 31, 24, seed=3), PruneVidConfig()

    def trace(function):
        return torch.compile(function, backend="eager", fullgraph=True)

    compiled = eager_variants.VectorisedMerge(config, trace)(x)
    eager = eager_variants.VectorisedMerge(config)(x)
    assert torch.equal(compiled.tokens, eager.tokens)
    assert torch.equal(compiled.layout.source_to_merged, eager.layout.source_to_merged)


def test_segments_of_labels_are_refined_as_the_method_says():
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        length = int(torch.randint(1, 13, (1,), generator=generator))
        labels = torch.randint(0, 4, (length,), generator=generator).tolist()
        text = refined(labels)
        changes = [i for i in range(1, length) if text[i] != text[i - 1]]
        expected = torch.diff(torch.tensor([0, *changes, length])).tolist()
        assert eager_variants.segments_of(labels) == expected


def test_loops_measure_distances_as_code_of_their_kind_does(monkeypatch):
    """By a plain ``torch.cdist``: one of true differences would be a slow baseline."""
    calls = []
    cdist = torch.cdist

    def recorded(a, b, **options):
        calls.append((len(a), options))
        return cdist(a, b, **options)

    x = video_features(9, 40, 24, seed=1)
    monkeypatch.setattr(torch, "cdist", recorded)
    layout = merge_in_loops(x, PruneVidConfig()).layout
    static = layout.static_mask()
    segments = layout.frame_segments()
    starts = layout.segment_lengths.cumsum(0) - layout.segment_lengths
    sizes = [9]
    for segment, start in enumerate(starts.tolist()):
        dynamic = [int((~static[start]).sum())] * int((segments == segment).sum())
        sizes += [size for size in (int(static[start].sum()), *dynamic) if size > 14]
    assert calls == [(size, {}) for size in sizes]
    assert max(sizes) > 25  # from here on it is a matrix product


def mutated(merged: MergedVideo, **changes) -> MergedVideo:
    return MergedVideo(merged.tokens, replace(merged.layout, **changes))


def swap_two_clusters(layout):
    """Two clusters of one clustered group change their rank."""
    group = int(layout.group_sizes.argmax())
    first = int(layout.group_sizes[:group].sum())
    swapped = torch.arange(layout.num_merged)
    last = first + int(layout.group_sizes[group]) - 1
    swapped[first], swapped[last] = last, first
    return {
        "source_to_merged": swapped[layout.source_to_merged],
        "merged_anchor": layout.merged_anchor[swapped],
        "merged_count": layout.merged_count[swapped],
    }


@pytest.fixture(scope="module")
def video():
    """Features, and their merge by the reference at the defaults."""
    x = video_features(20, 40, 64, seed=4)
    return x, merge_video(x, PruneVidConfig(), impl="reference")


class TestExamine:
    """What the float64 examination accepts and what it finds."""

    config = PruneVidConfig()

    def test_accepts_the_reference(self, video):
        verdict = examine(video[0], self.config, video[1])
        assert not verdict.errors and verdict.near_ties == 0
        assert verdict.decisions > 500
        assert 0 < verdict.token_error <= verdict.allowed_error

    @pytest.mark.parametrize("budget", [60, 0.3, 0.45])
    def test_accepts_the_reference_to_a_budget(self, video, budget):
        config = PruneVidConfig(budget=budget)
        verdict = examine(video[0], config, merge_video(video[0], config, impl="reference"))
        assert not verdict.errors and verdict.near_ties == 0

    def test_finds_another_budget(self, video):
        x, merged = video
        errors = examine(x, PruneVidConfig(budget=merged.layout.num_merged - 1), merged).errors
        assert any("not the budget's" in error for error in errors)

    @pytest.mark.parametrize("position", [0, -1])
    def test_finds_a_wrong_average(self, video, position):
        x, merged = video
        tokens = merged.tokens.clone()
        tokens[position, 5] += 1e-4
        errors = examine(x, self.config, MergedVideo(tokens, merged.layout)).errors
        assert len(errors) == 1 and "merged token is off" in errors[0]

    def test_finds_an_average_that_was_never_written(self, video):
        x, merged = video
        tokens = merged.tokens.clone()
        tokens[3] = math.nan
        assert examine(x, self.config, MergedVideo(tokens, merged.layout)).errors

    def test_finds_clusters_out_of_order(self, video):
        x, merged = video
        errors = examine(x, self.config, mutated(merged, **swap_two_clusters(merged.layout))).errors
        assert any("order" in error for error in errors)

    def test_finds_other_segments(self, video):
        x, merged = video
        other = merge_video(x, PruneVidConfig(segment_ratio=0.06), impl="reference")
        assert other.layout.num_segments != merged.layout.num_segments
        errors = examine(x, self.config, other).errors
        assert any("segments" in error for error in errors)

    def test_finds_another_threshold(self, video):
        x, _ = video
        other = merge_video(x, PruneVidConfig(tau=0.5), impl="reference")
        errors = examine(x, self.config, other).errors
        assert any("wrong side" in error for error in errors)

    def test_finds_another_neighbourhood(self, video):
        x, _ = video
        other = merge_video(x, PruneVidConfig(num_neighbors=3), impl="reference")
        assert examine(x, self.config, other).errors

    def test_counts_a_near_tie(self):
        """The origin lies exactly between two mirrored centres: either may have it."""
        blob = 0.3 * torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
        blob[:, 0] += 3
        x = torch.cat((blob, -blob, torch.zeros(1, 8)))[None]
        config = PruneVidConfig(cluster_ratio=0.13)
        merged = merge_video(x, config, impl="reference")
        layout = merged.layout
        assert layout.source_to_merged[0].tolist() == [0] * 8 + [1] * 8 + [0]
        assert examine(x, config, merged).near_ties == 0

        other = layout.source_to_merged.clone()
        other[0, 16] = 1
        tokens = torch.stack((blob.mean(dim=0), -blob.sum(dim=0) / 9))
        changes = {"source_to_merged": other, "merged_count": torch.tensor([8, 9])}
        verdict = examine(x, config, MergedVideo(tokens, replace(layout, **changes)))
        assert (verdict.errors, verdict.near_ties) == ([], 1)

        other[0, 15] = 0  # and this one is no tie
        changes = {"source_to_merged": other, "merged_count": torch.tensor([9, 8])}
        verdict = examine(x, config, MergedVideo(tokens, replace(layout, **changes)))
        assert any("nearer to the centre" in error for error in verdict.errors)
