"""All methods on all families: a padded batch is merged, decoded as the slow decoder would from the
same tokens, and the model is restored. The regular run takes a sample of the pairs."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES
from slow_baselines import SlowFastV
from slow_pruning import SlowDecoder, assert_same
from tiny_models import generate

from prunevid_kernels import MergedVideo, PruneVidConfig
from prunevid_kernels.adapters import apply_method, prune_by
from prunevid_kernels.adapters.methods.registry import METHODS, build_method
from prunevid_kernels.adapters.methods.vision import TowerGuided

NOTHING = PruneVidConfig(merge=False, select=False)
WITHOUT_GRID = "st_llm"  # its tokens are queries: test_baselines.py holds what downsampling says
# The methods of other papers and the plain baselines. The others are compared in test_registry.py,
# test_decoder.py and test_merge.py.
OPTIONS = {"flashvid": {"layer": 1}}
NEW = (
    "evs vidcom2 dycoke fastvid holitom visionzip flashvid cdpruner downsample fewer_frames".split()
)
PAIRS = [
    pytest.param(
        family,
        name,
        id=f"{family.name}-{name}",
        # One family a method, each in turn.
        marks=[] if index % len(FAMILIES) == place else pytest.mark.full,
    )
    for index, name in enumerate(NEW)
    for place, family in enumerate(FAMILIES)
    if (family.name, name) != (WITHOUT_GRID, "downsample")
]


@pytest.mark.sample(5)
@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_a_batch_is_decoded_as_slowly_from_the_same_tokens(family, name):
    model, inputs = family.build(), family.batch()
    plain = model(**inputs).logits
    method, merged = build_method(name, OPTIONS.get(name, {})), []
    merge = method.merge

    def watched(*arguments) -> list[MergedVideo]:
        videos = merge(*arguments)
        merged.extend(videos)
        return videos

    method.merge = watched
    with prune_by(model, method) as handle:
        result = generate(model, inputs)
    assert model(**inputs).logits.equal(plain)
    call = handle.report.last
    assert call.method == name
    assert 0 < call.tokens_kept < call.tokens_before
    videos = iter(zip(merged, call.videos, strict=True))
    for row, pieces in enumerate(family.prompts(model, inputs)):
        kept = []
        for place, (kind, _) in enumerate(pieces):
            if kind == "video":
                video, record = next(videos)
                pieces[place] = ("video", video.tokens[:, None])
                kept.append(record.kept.tolist())
        if method.layer is None:
            slow = family.slow(model, SlowDecoder, NOTHING)
            slow.feed_prompt(pieces)
        else:  # the layers up to it hold everything
            slow = family.slow(model, SlowFastV, method.layer + 1, 1.0)
            slow.feed_prompt(pieces, forced=kept)
        assert_same(result, row, slow)


@pytest.mark.parametrize("name", ["cdpruner", "holitom"])
def test_beams_keep_what_one_prompt_keeps(name):
    """The video is encoded once and merged for each beam, the question with it."""
    family = FAMILIES[0]
    model, inputs = family.build(), family.question()
    with apply_method(model, name, {}) as handle:
        generate(model, inputs, tokens=2)
        (expected,) = handle.report.last.videos
        generate(model, inputs, tokens=2, num_beams=2)
    beams = handle.report.last.videos
    assert len(beams) in (1, 2)
    for video in beams:
        assert video.layout.merged_anchor.equal(expected.layout.merged_anchor)


@pytest.mark.parametrize("name", [*NEW, "prumerge"])
def test_tensors_are_made_on_the_device_of_the_features(name):
    """Or in host memory: whatever the caller's default device is."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 9, 4, generator=generator)
    weights = torch.rand(6, 9, generator=generator)
    keys = torch.randn(6, 9, 2, 3, generator=generator)
    method = build_method(name, {"grid": (3, 3)} if name == "downsample" else {})

    def merged():
        if isinstance(method, TowerGuided):
            return method.merge_seen(x, weights, keys)
        return method.merge_video(x)

    expected = merged()
    with torch.device("meta"):
        found = merged()
    assert found.tokens.equal(expected.tokens)
    assert found.layout.group_sizes.equal(expected.layout.group_sizes)
    assert found.layout.source_to_merged.equal(expected.layout.source_to_merged)


def test_every_method_is_in_a_matrix():
    elsewhere = "full prunevid merge_only select_only fastv prumerge look_m random_drop drop_all"
    assert {*elsewhere.split(), *NEW} == set(METHODS)
