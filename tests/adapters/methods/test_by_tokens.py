"""The methods that look at tokens alone, against the reference vectors of tests/data/methods."""

from __future__ import annotations

import pytest
import torch
from vectors import cases, features

from prunevid_kernels.adapters import PromptVisuals, VideoSpan
from prunevid_kernels.adapters.methods.by_tokens.cdpruner import CdPruner, diverse, relevance
from prunevid_kernels.adapters.methods.by_tokens.dycoke import DyCoke, dropped_share
from prunevid_kernels.adapters.methods.by_tokens.evs import Evs
from prunevid_kernels.adapters.methods.by_tokens.vidcom2 import (
    VidCom2,
    frame_shares,
    typicality,
)


@pytest.mark.parametrize("case", cases("evs"))
def test_evs(case):
    merged = Evs(pruning_rate=float(case["pruning_rate"])).merge_video(features(case))
    assert len(merged.tokens) == case["count"]
    assert merged.layout.merged_anchor.tolist() == case["kept"].tolist()
    assert merged.tokens.equal(features(case).flatten(0, 1)[case["kept"]])


@pytest.mark.parametrize("case", cases("vidcom2"))
def test_vidcom2(case):
    x, ratio = features(case), float(case["ratio"])
    scores = typicality(x)
    assert (scores.of_video - torch.from_numpy(case["video_score"])).abs().max() <= 1e-5
    assert (scores.of_frame - torch.from_numpy(case["frame_score"])).abs().max() <= 1e-5
    shares = frame_shares(scores, ratio)
    assert (shares - torch.from_numpy(case["scales"])).abs().max() <= 1e-5
    about = VidCom2(ratio=ratio, exact=False).merge_video(x)
    assert about.layout.merged_anchor.tolist() == case["kept"].tolist()
    exact = VidCom2(pruning_rate=float(case["pruning_rate"])).merge_video(x)
    assert exact.layout.merged_anchor.tolist() == case["kept_exact"].tolist()


@pytest.mark.parametrize("case", cases("dycoke"))
def test_dycoke(case):
    x = features(case)
    frames, width, _ = x.shape
    kept = DyCoke(float(case["k"])).merge_video(x).layout.merged_anchor
    expected = case["kept"].tolist()
    if frames % 2:  # the original loses the last frame
        kept = kept[kept < (frames - 1) * width]
    if case.name == "d":  # 80 and 81 are equal tokens at the border: the original took the later
        assert {80, 81} & set(expected) == {81}
        expected = sorted({80, *expected} - {81})
    assert kept.tolist() == expected


def test_dycoke_of_any_length():
    x = torch.randn(5, 10, 8, generator=torch.Generator().manual_seed(0))
    sizes = {
        frames: DyCoke(0.5).merge_video(x[:frames]).layout.group_sizes[1:].tolist()
        for frames in range(1, 6)
    }
    assert sizes == {
        1: [10],
        2: [10, 5],
        3: [10, 5, 10],
        4: [10, 5, 10, 5],
        5: [10, 5, 5, 5, 10],
    }


@pytest.mark.parametrize(("frames", "share"), [(32, 0.35), (7, 0.6), (1, 1.0)])
def test_dycoke_keeps_a_share(frames, share):
    x = torch.randn(frames, 100, 4, generator=torch.Generator().manual_seed(0))
    kept = len(DyCoke(dropped_share(share, frames)).merge_video(x).tokens)
    assert share - 0.01 <= kept / (100 * frames) <= share


def test_dycoke_cannot_keep_less_than_its_whole_frames():
    with pytest.raises(ValueError, match="9 of 32 frames whole, a share of 0.28; it cannot"):
        dropped_share(0.25, 32)


@pytest.mark.parametrize("method", [Evs(0.3), VidCom2(0.3), VidCom2(0.3, exact=False), DyCoke()])
def test_one_frame_and_bfloat16(method):
    x = torch.randn(1, 7, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    merged = method.merge_video(x)
    assert merged.tokens.dtype == torch.bfloat16
    assert merged.tokens.equal(x[0][merged.layout.merged_anchor])
    assert len(merged.tokens) == (2 if isinstance(method, VidCom2) else 7)
    assert merged.first_bad_frame == 1


def test_features_that_are_not_finite_are_noted():
    x = torch.ones(3, 4, 5)
    x[1, 2, 3] = torch.inf
    assert Evs().merge_video(x).first_bad_frame == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ratio": 0.0}, ValueError, r"ratio must be in \(0, 1\], got 0.0"),
        ({"pruning_rate": 1}, ValueError, "pruning_rate must be less than 1, got 1"),
        ({"pruning_rate": "x"}, TypeError, "pruning_rate must be a number"),
        ({"ratio": 0.5, "pruning_rate": 0.5}, ValueError, "give ratio or pruning_rate"),
    ],
)
def test_rates_that_cannot_be_are_refused(options, error, message):
    for method in (Evs, VidCom2):
        with pytest.raises(error, match=message):
            method(**options)


@pytest.mark.parametrize("case", cases("cdpruner"))
def test_cdpruner(case):
    image, text = torch.from_numpy(case["image_embeds"]), torch.from_numpy(case["text_embeds"])
    quality = relevance(image, text, negated=True)
    kept = diverse(features(case), quality, case["keep"].item())
    assert kept.tolist() == case["kept"].tolist()


def test_relevance_of_words_that_all_tokens_are_alike_to():
    tokens = torch.ones(2, 3, 4)
    assert relevance(tokens, torch.ones(5, 4), negated=False).eq(1).all()
    assert relevance(tokens, torch.ones(0, 4), negated=False).eq(1).all()


def test_cdpruner_of_duplicates():
    x = torch.ones(2, 6, 4)
    x[:, 3:] = torch.tensor([1.0, -1, 1, -1])
    kept = CdPruner(keep=2).merge_video(x).layout.merged_anchor
    assert kept.tolist() == [0, 3, 6, 9]
    assert len(CdPruner(keep=9).merge_video(x).tokens) == 12


def test_cdpruner_reads_the_question():
    """What a prompt's text after the video is decides which tokens are kept; text before does not
    count, nor does the other video."""
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(1, 40, 8, generator=generator)
    prompt = PromptVisuals(videos=(VideoSpan(2, 2, 6), VideoSpan(17, 2, 6)), images=((30, 32),))
    method = CdPruner(keep=2)

    def merged():
        method.read_prompts([prompt], embeds)
        spans = [
            embeds[0, video.start : video.stop].unflatten(0, (2, 6)) for video in prompt.videos
        ]
        return [video.layout.merged_anchor for video in method.merge(torch.cat(spans), [2, 2])]

    words = [[*range(14, 17), 29, *range(32, 40)], [29, *range(32, 40)]]
    for video, (found, places) in enumerate(zip(merged(), words, strict=True)):
        span = prompt.videos[video]
        x = embeds[0, span.start : span.stop].unflatten(0, (2, 6))
        assert found.equal(method.merge_asked(x, embeds[0, places]).layout.merged_anchor)
    before = merged()
    embeds[0, :2] += 1
    assert all(a.equal(b) for a, b in zip(before, merged(), strict=True))
    with pytest.raises(RuntimeError, match="of prompts that it has not read"):
        method.merge(torch.ones(2, 5, 8), [2])
