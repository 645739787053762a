"""A method that the library does not know, in one short class: the seam for others' methods."""

from __future__ import annotations

import pytest
import torch
from families import EACH_FAMILY
from slow_pruning import SlowDecoder, assert_same
from tiny_models import generate
from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig
from prunevid_kernels.adapters import prune_by
from prunevid_kernels.adapters.engine.method import PruningMethod, VideoSelection
from prunevid_kernels.adapters.methods.subset import subset_layout


class EveryOther(PruningMethod):
    """Every other token into the decoder; after layer 1, the half that questions look at most."""

    name = "every_other"
    layer = 1
    prunes = True

    def merge_video(self, features: Tensor) -> MergedVideo:
        tokens = features.flatten(0, 1)
        taken = torch.arange(0, len(tokens), 2, device=tokens.device)
        return MergedVideo(tokens[taken], subset_layout(*features.shape[:2], taken))

    def select_video(self, attention, place, video) -> VideoSelection:
        scores = attention.score("rope", place)
        return VideoSelection(scores, scores.topk(len(scores) // 2).indices.sort().values)


@pytest.mark.sample(4)
@EACH_FAMILY
@pytest.mark.parametrize("inputs", ["question", "batch"])
def test_against_the_slow_decoder(family, inputs):
    """Told which tokens are taken and kept, it gives the same answers."""
    model, inputs = family.build(), getattr(family, inputs)()
    plain = model(**inputs).logits
    with prune_by(model, EveryOther()) as handle:
        result = generate(model, inputs)
    assert model(**inputs).logits.equal(plain)
    call = handle.report.last
    assert call.method == "every_other"
    videos = iter(call.videos)
    for row, pieces in enumerate(family.prompts(model, inputs)):
        kept = []
        for place, (kind, features) in enumerate(pieces):
            if kind == "video":
                video = next(videos)
                taken = features.flatten(0, 1)[::2]
                assert video.tokens_merged == len(taken)
                assert video.tokens_kept == len(taken) // 2
                pieces[place] = ("video", taken[:, None])
                kept.append(video.kept.tolist())
        slow = family.slow(model, SlowDecoder, PruneVidConfig(layer=1, merge=False))
        slow.feed_prompt(pieces, forced=kept)
        assert_same(result, row, slow)
