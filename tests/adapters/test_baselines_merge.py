"""LLaVA-PruMerge+, random drop and drop all: what goes into the decoder, and how it goes on."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from slow_baselines import slow_prumerge
from slow_pruning import SlowDecoder, assert_same, pieces
from tiny_models import (
    CONFIG,
    clip,
    generate,
    left_pad,
    question,
    text_config,
    text_tokens,
    video_tokens,
)
from tiny_st_llm import checkpoint_folder

from prunevid_kernels import PruneVidConfig, merge_video
from prunevid_kernels.adapters import prune
from prunevid_kernels.adapters.pllava import Pllava, PllavaConfig
from prunevid_kernels.adapters.st_llm import StLlm
from prunevid_kernels.benchmarks.baselines.prumerge import kept_tokens
from prunevid_kernels.benchmarks.baselines.vision import vision_attention
from prunevid_kernels.benchmarks.methods import apply_method

DECODER_METHODS = ["fastv", "prumerge", "look_m", "random_drop", "drop_all"]
NOTHING = PruneVidConfig(merge=False, select=False)


def slow_video(model, pixels, tokens) -> tuple[torch.Tensor, int]:
    """The merged tokens of a clip, from the eager vision tower's own attention matrix."""
    core = model.model
    outputs = core.vision_tower(pixels, output_hidden_states=True, output_attentions=True)
    layer = vision_attention(model)
    normed = next(m for n, m in core.vision_tower.named_modules() if n.endswith("layer_norm1"))(
        outputs.hidden_states[-2]
    )
    weights = outputs.attentions[-1].mean(dim=(1, 2))  # [F, P] received, the mean over rows
    weights = core.apply_pooling(weights[..., None])[..., 0].double()
    keys = core.apply_pooling(layer.key(normed)).double()
    merged = []
    for frame in range(len(pixels)):
        merged += slow_prumerge(tokens[frame].double(), weights[frame], keys[frame], 32)
    return torch.stack(merged), len(merged)


def test_prumerge_padded_batch(build):
    model = build("qwen2", "eager")
    prompts = [
        text_tokens(3) + video_tokens(8) + text_tokens(9, 1),
        text_tokens(2, 2) + video_tokens(8) + text_tokens(4, 3),
    ]
    clips = torch.stack([clip(8, 0), clip(8, 1)])
    ids, mask = left_pad(prompts)
    with apply_method(model, "prumerge", {}) as handle:
        result = generate(
            model, {"input_ids": ids, "attention_mask": mask, "pixel_values_videos": clips}
        )
    for row, prompt in enumerate(prompts):
        merged_pieces, count = [], 0
        for kind, value in pieces(model, prompt, clips[row : row + 1]):
            if kind == "video":
                value, count = slow_video(model, clips[row], value)
                kind = "other"
            merged_pieces.append((kind, value))
        slow = SlowDecoder(model.model.language_model, model.lm_head, NOTHING)
        slow.feed_prompt(merged_pieces)
        video = handle.report.last.videos[row]
        assert video.tokens_merged == video.tokens_kept == count < 128
        assert video.layout.merged_count.sum() == 128
        assert_same(result, row, slow)


def test_prumerge_is_the_same_on_sdpa_and_in_beams(build):
    inputs = question(frames=4)
    with apply_method(build("qwen2", "eager"), "prumerge", {}):
        expected = generate(build("qwen2", "eager"), inputs)
    model = build("qwen2", "sdpa")
    with apply_method(model, "prumerge", {}) as handle:
        assert generate(model, inputs).sequences.equal(expected.sequences)
        counts = [video.tokens_kept for video in handle.report.last.videos]
        generate(model, inputs, num_beams=2)
    assert [video.tokens_kept for video in handle.report.last.videos] == counts * 2


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
            handle._engine._method._take([2])
        with pytest.raises(ValueError, match="without a run of the tower"):
            handle._engine._method._take([3])
    with pytest.raises(ValueError, match="attention is known for llava_onevision, pllava, st_llm"):
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


@pytest.mark.parametrize("config", [CONFIG, PruneVidConfig(select=False)], ids=["both", "merge"])
def test_random_drop_has_the_counts_of_prunevid(model, config):
    inputs = question()
    options = {"layer": config.layer, "select": config.select}
    with prune(model, config) as handle:
        generate(model, inputs)
    expected = handle.report.last
    results = []
    for seed in (0, 0, 1):
        with apply_method(model, "random_drop", {**options, "seed": seed}) as handle:
            results.append(generate(model, inputs))
        call = handle.report.last
        assert call.visual_tokens_per_layer() == expected.visual_tokens_per_layer()
        assert call.cached_tokens == expected.cached_tokens
    assert results[0].sequences.equal(results[1].sequences)
    assert not torch.equal(results[0].logits[0], results[2].logits[0])


@pytest.mark.parametrize("name", ["random_drop", "drop_all"])
def test_what_is_dropped_is_gone(model, name):
    """Against the slow decoder, told which tokens are taken and which are kept."""
    inputs = question()
    with apply_method(model, name, {"layer": 1}) as handle:
        result = generate(model, inputs)
    video = handle.report.last.videos[0]
    slow_pieces = pieces(model, inputs["input_ids"][0].tolist(), inputs["pixel_values_videos"])
    (place,) = [i for i, (kind, _) in enumerate(slow_pieces) if kind == "video"]
    features = slow_pieces[place][1]
    taken = features.flatten(0, 1)[video.layout.merged_anchor]
    if name == "drop_all":
        taken = merge_video(features, CONFIG).tokens
        assert video.tokens_kept == 0
    slow_pieces[place] = ("video", taken[:, None])
    config = PruneVidConfig(layer=1, merge=False)
    slow = SlowDecoder(model.model.language_model, model.lm_head, config)
    slow.feed_prompt(slow_pieces, forced=[video.kept.tolist()])
    assert_same(result, 0, slow)


@pytest.mark.parametrize("kind", ["qa", "conversation"])
@pytest.mark.parametrize("name", DECODER_METHODS)
def test_st_llm(tmp_path, kind, name):
    model = StLlm.from_pretrained(checkpoint_folder(tmp_path, kind), dtype=torch.float32)
    side = model.config.vision_config.image_size
    pixels = torch.randn(1, 4, 3, side, side, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 7]]), "pixel_values": pixels}
    options = {"layer": 1} if name in ("random_drop", "drop_all") else {}
    plain = model(**inputs).logits
    with apply_method(model, name, options) as handle:
        model.generate(**inputs, max_new_tokens=3, do_sample=False)
        model(**inputs)
    call = handle.report.last
    assert call.has_pruned and call.tokens_before == 4 * model.config.num_query_tokens
    assert model(**inputs).logits.equal(plain)


@cache
def tiny_pllava() -> Pllava:
    torch.manual_seed(0)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 4,
    }
    config = PllavaConfig(
        text_config=text_config("llama").to_dict(),
        vision_config=vision,
        image_token_index=2,
        num_frames=4,
        pooling_shape=(4, 4, 4),
        frame_shape=(8, 8),
    )
    return Pllava(config).eval()


@pytest.mark.parametrize("frames", [3, 4])
@pytest.mark.parametrize("name", DECODER_METHODS)
def test_pllava(name, frames):
    model, pixels = tiny_pllava(), clip(frames)[None]
    inputs = {"input_ids": torch.tensor([[9, 2, *text_tokens(6)]]), "pixel_values": pixels}
    options = {"layer": 1} if name in ("random_drop", "drop_all") else {}
    plain = model(**inputs).logits
    with apply_method(model, name, options) as handle:
        model.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None)
    call = handle.report.last
    assert call.has_pruned and call.tokens_before == 4 * 16
    assert model(**inputs).logits.equal(plain)


def test_prumerge_of_pllava_reads_the_row_of_cls():
    """The kept tokens follow from the eager attention of the layer whose output is projected."""
    model, pixels = tiny_pllava(), clip(4)
    model.vision_tower.set_attn_implementation("eager")
    outputs = model.vision_tower(pixels, output_attentions=True, output_hidden_states=True)
    row = outputs.attentions[-2][:, :, 0, 1:].mean(dim=1)  # [F, 64] CLS to patches
    pooled = row.view(4, 4, 2, 4, 2).mean(dim=(2, 4)).flatten(1)
    expected = [int(kept_tokens(weights / weights.sum()).sum()) + 1 for weights in pooled]
    with apply_method(model, "prumerge", {}) as handle:
        model(input_ids=torch.tensor([[9, 2, *text_tokens(6)]]), pixel_values=pixels[None])
    layout = handle.report.last.videos[0].layout
    assert layout.dynamic_sizes().tolist() == [sum(expected)]
    for frame, weights in enumerate(pooled):
        kept = kept_tokens(weights / weights.sum()).nonzero()[:, 0] + 16 * frame
        assert set(kept.tolist()) <= set(layout.merged_anchor.tolist())
