"""LLaVA-PruMerge+, random drop and drop all: what goes into the decoder, and how it goes on."""

from __future__ import annotations

import pytest
import torch
from families import EACH_FAMILY, EACH_VARIANT, FAMILIES, each
from families_apart import INTERNVL, SMOLVLM
from slow_baselines import slow_prumerge
from slow_pruning import SlowDecoder, assert_same
from tiny_models import CONFIG, generate, question

from prunevid_kernels import PruneVidConfig, merge_video
from prunevid_kernels.adapters import apply_method, prune
from prunevid_kernels.adapters.methods.by_tower.prumerge import kept_tokens

NOTHING = PruneVidConfig(merge=False, select=False)


def assert_slow_prumerge(family, inputs, attention) -> None:
    """Merged from the eager vision side's own attention matrices, then decoded slowly."""
    model, eager = family.build(attention), family.build("eager")
    with apply_method(model, "prumerge", {}) as handle, family.telling(handle, inputs):
        result = generate(model, inputs)
    videos = zip(handle.report.last.videos, family.shown(eager, inputs), strict=True)
    for row, pieces in enumerate(family.prompts(model, inputs)):
        slow = family.slow(model, SlowDecoder, NOTHING)
        for place, (kind, value) in enumerate(pieces):
            if kind in ("video", "frames"):
                video, (weights, keys) = next(videos)
                features, between = value if kind == "frames" else (value, [[]] * len(value))
                frames = zip(features.double(), weights, keys, strict=True)
                merged = [slow_prumerge(*frame, 32) for frame in frames]
                count = sum(map(len, merged))
                assert video.prompt == row
                assert video.tokens_merged == video.tokens_kept == count
                assert count < video.layout.merged_count.sum() == len(features.flatten(0, 1))
                rows = list(merged[0])
                for text, tokens in zip(between, merged[1:], strict=False):
                    rows += [*slow.embed(text).double(), *tokens]
                pieces[place] = ("other", torch.stack(rows))
        slow.feed_prompt(pieces)
        assert_same(result, row, slow)


@pytest.mark.sample(4)
@EACH_VARIANT
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_prumerge(family, attention):
    assert_slow_prumerge(family, family.question(), attention)


@pytest.mark.sample(2)
@each(*FAMILIES, INTERNVL, SMOLVLM)
def test_prumerge_padded_batch(family):
    assert_slow_prumerge(family, family.batch(), "sdpa")


@EACH_FAMILY
def test_prumerge_in_beams(family):
    """Encoded once, merged for each beam."""
    model, inputs = family.build(), family.question()
    with apply_method(model, "prumerge", {}) as handle:
        generate(model, inputs)
        counts = [video.tokens_kept for video in handle.report.last.videos]
        generate(model, inputs, num_beams=2)
    assert {video.tokens_kept for video in handle.report.last.videos} == set(counts)


def test_prumerge_needs_a_run_of_the_tower(model, build_lm):
    with apply_method(model, "prumerge", {}) as handle:
        generate(model, question(frames=3))
        inputs = question(frames=3)
        pixels = inputs.pop("pixel_values_videos")
        encoded = model.model.get_video_features(
            pixels, vision_feature_layer=-1, vision_feature_select_strategy="full"
        )
        assert encoded is not None
        with pytest.raises(ValueError, match="the vision tower last saw 3 frames"):
            handle._engine._model.method._take([2])
        with pytest.raises(ValueError, match="without a run of the tower"):
            handle._engine._model.method._take([3])
    with pytest.raises(ValueError, match="LlamaForCausalLM has no attention on its vision side"):
        apply_method(build_lm(), "prumerge", {})


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        pytest.param([1.0] * 9, [*range(0, 9, 3)], id="no-outlier"),
        pytest.param([1.0] * 11 + [50.0], [0, 4, 8, 11], id="one-outlier"),
        pytest.param([5.0, 1.0, 1.0], [0, 1, 2], id="nothing-left-over"),
        pytest.param([2.0], [0], id="one-token"),
    ],
)
def test_kept_tokens(weights, expected):
    assert kept_tokens(torch.tensor(weights)).nonzero()[:, 0].tolist() == expected


@EACH_FAMILY
@pytest.mark.parametrize("config", [CONFIG, PruneVidConfig(select=False)], ids=["both", "merge"])
def test_random_drop_has_the_counts_of_prunevid(family, config):
    model, inputs = family.build(), family.question()
    options = {"layer": config.layer, "select": config.select}
    with prune(model, config) as handle:
        model(**inputs)
    expected = handle.report.last
    results = []
    for seed in (0, 0, 1):
        with apply_method(model, "random_drop", {**options, "seed": seed}) as handle:
            results.append(model(**inputs).logits[:, -1])
        call = handle.report.last
        assert call.visual_tokens_per_layer() == expected.visual_tokens_per_layer()
        assert call.cached_tokens == expected.cached_tokens
    assert results[0].equal(results[1])
    assert not results[0].equal(results[2])


@pytest.mark.sample(4)
@EACH_VARIANT
@pytest.mark.parametrize("name", ["random_drop", "drop_all"])
def test_what_is_dropped_is_gone(family, name):
    """Against the slow decoder, told which tokens are taken and which are kept."""
    model, inputs = family.build(), family.question()
    with apply_method(model, name, {"layer": 1}) as handle:
        result = generate(model, inputs)
    video = handle.report.last.videos[0]
    (pieces,) = family.prompts(model, inputs)
    (place,) = [i for i, (kind, _) in enumerate(pieces) if kind == "video"]
    features = pieces[place][1]
    taken = features.flatten(0, 1)[video.layout.merged_anchor]
    if name == "drop_all":
        taken = merge_video(features, CONFIG).tokens
        assert video.tokens_kept == 0
    pieces[place] = ("video", taken[:, None])
    slow = family.slow(model, SlowDecoder, PruneVidConfig(layer=1, merge=False))
    slow.feed_prompt(pieces, forced=[video.kept.tolist()])
    assert_same(result, 0, slow)
