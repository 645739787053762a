"""Pruning that keeps everything changes nothing, to the last bit; and so does removing it."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CONFIG, features, generate, left_pad, question, text_tokens, video_tokens
from transformers import StaticCache

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import NothingPrunedWarning, prune

KEEP_ALL = [
    pytest.param(PruneVidConfig(layer=1, merge=False, keep_ratio=1.0), id="nope"),
    pytest.param(PruneVidConfig(layer=1, merge=False, keep_ratio=1.0, score="rope"), id="rope"),
    pytest.param(PruneVidConfig(layer=4, merge=False, keep_ratio=1.0), id="last-layer"),
    pytest.param(PruneVidConfig(merge=False, select=False), id="neither-step"),
]


def same(first, second) -> bool:
    return torch.equal(first.sequences, second.sequences) and all(
        torch.equal(a, b) for a, b in zip(first.logits, second.logits, strict=True)
    )


@pytest.mark.sample(6)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("config", KEEP_ALL)
def test_keeping_everything_is_bit_identical(build, kind, attention, config):
    model, inputs = build(kind, attention), question()
    expected = generate(model, inputs)
    with pytest.warns(NothingPrunedWarning, match="nothing was pruned"):
        with prune(model, config) as handle:
            result = generate(model, inputs)
    assert same(result, expected)
    assert handle.report.last.tokens_kept == handle.report.last.tokens_before == 128
    assert same(generate(model, inputs), expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_keeping_everything_of_a_padded_batch(build, attention):
    model = build("qwen2", attention)
    inputs = batch()
    expected = generate(model, inputs)
    with pytest.warns(NothingPrunedWarning), prune(model, KEEP_ALL[0].values[0]):
        assert same(generate(model, inputs), expected)


def test_keeping_everything_of_a_padded_batch_without_positions(model):
    """A bare forward call numbers its padding; so does a pruned one."""
    expected = model(**batch()).logits
    with pytest.warns(NothingPrunedWarning), prune(model, KEEP_ALL[0].values[0]):
        result = model(**batch()).logits
    is_token = batch()["attention_mask"].bool()
    assert result[is_token].equal(expected[is_token])


def test_keeping_everything_in_a_static_cache(model):
    inputs = question()
    expected = generate(model, inputs, cache_implementation="static")
    with pytest.warns(NothingPrunedWarning), prune(model, KEEP_ALL[0].values[0]):
        result = generate(model, inputs, cache_implementation="static")
    assert isinstance(result.past_key_values, StaticCache)
    assert same(result, expected)


def test_text_passes_through_a_pruned_model_bit_identical(model):
    ids, mask = left_pad([text_tokens(9), text_tokens(6, 1)])
    inputs = {"input_ids": ids, "attention_mask": mask}
    expected = generate(model, inputs)
    with prune(model, CONFIG) as handle:
        assert same(generate(model, inputs), expected)
        generate(model, question())
    assert [call.kind for call in handle.report.calls] == ["text-only", "pruned"]
    assert "text-only, passed through (2 prompts)" in str(handle.report)


def test_images_pass_through_bit_identical(model):
    inputs = image_question()
    expected = generate(model, inputs)
    with pytest.warns(NothingPrunedWarning, match="no prompt with a video"):
        with prune(model, CONFIG) as handle:
            assert same(generate(model, inputs), expected)
    assert handle.report.last.kind == "image-only"
    assert "image tokens untouched" in str(handle.report)


def test_select_off_equals_a_plain_model_on_merged_embeddings(model):
    """What merge alone means: the decoder gets shorter inputs, and nothing else differs."""
    from prunevid_kernels import merge_video

    inputs = question()
    config = PruneVidConfig(select=False)
    with prune(model, config) as handle:
        result = generate(model, inputs)
    video = merge_video(features(model, inputs["pixel_values_videos"][0]), config)
    embed, ids = model.get_input_embeddings(), inputs["input_ids"]
    newline = model.model.image_newline[None]
    embeds = torch.cat((embed(ids[0, :5]), video.tokens, newline, embed(ids[0, -7:])))
    expected = model.generate(
        inputs_embeds=embeds[None],
        max_new_tokens=9,
        return_dict_in_generate=True,
        output_logits=True,
    )
    assert torch.equal(result.sequences[:, -9:], expected.sequences)
    torch.testing.assert_close(
        torch.stack(result.logits), torch.stack(expected.logits), rtol=0, atol=1e-5
    )
    assert handle.report.last.layer is None
    assert handle.report.last.videos[0].scores is None
    assert handle.report.last.retained_ratio_per_layer == [len(video.tokens) / 128] * 5


def batch() -> dict[str, torch.Tensor]:
    ids, mask = left_pad(
        [
            text_tokens(3) + video_tokens(8) + text_tokens(4, 1),
            text_tokens(9, 2) + video_tokens(8) + text_tokens(6, 3),
        ]
    )
    pixels = torch.cat([question(8, seed)["pixel_values_videos"] for seed in (1, 2)])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values_videos": pixels}


def image_question() -> dict[str, torch.Tensor]:
    pixels = question(2)["pixel_values_videos"]  # [1, 2 patches, 3, H, W]
    tokens = 64 + 8 * (8 + 1)  # the whole image, and one tile with a newline after each row
    ids = text_tokens(4) + [1] * tokens + text_tokens(5, 1)
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
        "pixel_values": pixels,
        "image_sizes": torch.tensor([[32, 32]]),
    }
