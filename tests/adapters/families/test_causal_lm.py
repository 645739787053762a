"""Prompts given as ``inputs_embeds``: the caller says where the videos are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from paths import GOLDEN as DATA
from slow_pruning import SlowDecoder
from tiny_models import text_tokens
from transformers import LlamaConfig, LlamaForCausalLM

from prunevid_kernels import MergedVideo, PruneVidConfig, TokenLayout
from prunevid_kernels.adapters import PromptVisuals, VideoSpan, prune
from prunevid_kernels.adapters.engine.interface import ModelAdapter
from prunevid_kernels.adapters.methods import prunevid

STEPS = 8


def video(frames: int, seed: int) -> torch.Tensor:
    """[frames, 16, 32]"""
    return torch.randn(frames, 16, 32, generator=torch.Generator().manual_seed(seed))


def padded_batch(model) -> tuple[list, torch.Tensor, torch.Tensor, list[PromptVisuals]]:
    """Prompts with videos of different length, one with two of them, and one with none."""
    prompts = [
        [("text", text_tokens(4)), ("video", video(8, 1)), ("text", text_tokens(6, 1))],
        [
            ("video", video(3, 2)),
            ("text", text_tokens(2, 2)),
            ("video", video(11, 3)),
            ("text", text_tokens(5, 3)),
        ],
        [("text", text_tokens(8, 4))],
    ]
    rows, visuals = [], []
    for prompt in prompts:
        parts = [
            model.get_input_embeddings()(torch.tensor(value))
            if kind == "text"
            else value.flatten(0, 1)
            for kind, value in prompt
        ]
        starts = np.cumsum([0] + [len(part) for part in parts]).tolist()
        spans = [
            VideoSpan(start, *value.shape[:2])
            for (kind, value), start in zip(prompt, starts, strict=False)
            if kind == "video"
        ]
        rows.append(torch.cat(parts))
        visuals.append(spans)
    longest = max(map(len, rows))
    embeds = torch.stack(
        [torch.nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows]
    )
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    announced = [
        PromptVisuals(
            videos=tuple(
                VideoSpan(span.start + longest - len(row), span.num_frames, span.tokens_per_frame)
                for span in spans
            )
        )
        for row, spans in zip(rows, visuals, strict=True)
    ]
    return prompts, embeds, mask, announced


@pytest.mark.parametrize("score", ["nope", "rope"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_batch_of_different_videos_against_slow(build_lm, kind, score):
    model, config = build_lm(kind), PruneVidConfig(layer=2, score=score)
    prompts, embeds, mask, announced = padded_batch(model)
    with prune(model, config) as handle, handle.videos(announced):
        result = model.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=STEPS,
            return_dict_in_generate=True,
            output_logits=True,
        )
    assert [record.prompt for record in handle.report.last.videos] == [0, 1, 1]
    assert [record.tokens_before for record in handle.report.last.videos] == [128, 48, 176]
    for row, prompt in enumerate(prompts):
        slow = SlowDecoder(model.model, model.lm_head, config)
        slow.feed_prompt(prompt)
        tokens, logits = slow.greedy(STEPS)
        assert result.sequences[row].tolist() == tokens
        assert (torch.stack(result.logits)[:, row].double() - logits).abs().max() <= 1e-5


def test_beams_repeat_the_announced_prompts(build_lm):
    model = build_lm()
    _, embeds, mask, announced = padded_batch(model)
    with prune(model, PruneVidConfig(layer=2)) as handle, handle.videos(announced):
        model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=4, num_beams=2)
    assert [record.prompt for record in handle.report.last.videos] == [0, 1, 2, 2, 3, 3]


def test_announcement_that_nothing_uses_is_an_error(build_lm):
    model = build_lm()
    _, embeds, mask, announced = padded_batch(model)
    with prune(model, PruneVidConfig(layer=2)) as handle:
        with pytest.raises(RuntimeError, match="no prompt that needs it reached the model"):
            with handle.videos(announced):
                model(input_ids=torch.tensor([text_tokens(4)]))
        with handle.videos(announced):
            model(inputs_embeds=embeds, attention_mask=mask)
    assert [call.kind for call in handle.report.calls] == ["text-only", "pruned"]


def test_announcement_for_another_batch_is_an_error(build_lm):
    model = build_lm()
    _, embeds, _, announced = padded_batch(model)
    handle = prune(model, PruneVidConfig(layer=2))
    try:
        with pytest.raises(ValueError, match="announced for 2 prompts, but the batch has 3"):
            with handle.videos(announced[:2]):
                model(inputs_embeds=embeds)
        with pytest.raises(ValueError, match="not overlap others and lie in its unpadded part"):
            with handle.videos([PromptVisuals(videos=(VideoSpan(180, 8, 16),))]):
                model(inputs_embeds=embeds[:1])
    finally:
        handle.remove()


# ------------------------------------------------------------------------------ positions


def watch_positions(model) -> tuple[list[torch.Tensor], Any]:
    """The positions of each call to come, and the hook that sees them."""
    seen: list[torch.Tensor] = []
    hook = model.model.rotary_emb.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("position_ids", args[-1])),
        with_kwargs=True,
    )
    return seen, hook


class KeepingAdapter(ModelAdapter):
    """A model family that wants every token to keep the position its caller gave it."""

    positions = "keep"

    def decoder(self, model):
        return model.model

    def entries(self, model):
        return [model]

    def brings_visuals(self, inputs):
        return False

    def locate(self, model, inputs):
        raise AssertionError("announced only")


def test_kept_positions_are_the_callers(build_lm):
    """A merged token sits where its first source token sat, the answer after the full prompt."""
    from prunevid_kernels.adapters.engine.engine import Engine
    from prunevid_kernels.adapters.methods.prunevid import PruneVid

    model = build_lm()
    _, embeds, mask, announced = padded_batch(model)
    seen, rotary = watch_positions(model)
    engine = Engine(model, KeepingAdapter(), PruneVid(PruneVidConfig(layer=2)))
    try:
        with engine.announce(announced):
            model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=3)
    finally:
        engine.remove()
        rotary.remove()
    caller = (mask.cumsum(-1) - 1).clamp(min=0)
    record = engine.report.last.videos[0]
    start, stop = record.span
    assert record.prompt == 0
    expected = torch.cat(
        (
            caller[0, mask[0].bool()][:4],
            caller[0, start + record.layout.merged_anchor],
            caller[0, stop:],
        )
    )
    assert seen[0][0, -len(expected) :].equal(expected)
    assert seen[1][:, -1].tolist() == mask.sum(1).tolist()
    assert seen[2][:, -1].tolist() == (mask.sum(1) + 1).tolist()


# ------------------------------------------------------------------------------ golden results


def golden_cases() -> list:
    return json.loads((DATA / "index.json").read_text())["decoder_e2e"]


@pytest.mark.parametrize("case", golden_cases(), ids=lambda case: case["id"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_reference_decoder(case, attention, monkeypatch):
    """The released code's own results on a small decoder: hidden states, positions, caches."""
    arrays = np.load(DATA / "decoder_e2e.npz")
    data = {
        name.removeprefix(f"{case['id']}_"): torch.from_numpy(arrays[name])
        for name in arrays.files
        if name.startswith(f"{case['id']}_")
    }
    config = LlamaConfig(
        hidden_size=case["hidden"],
        intermediate_size=case["inter"],
        num_hidden_layers=case["layers"],
        num_attention_heads=case["heads"],
        rms_norm_eps=case["rms_eps"],
        vocab_size=8,
        rope_parameters={"rope_type": "default", "rope_theta": case["rope_theta"]},
    )
    config._attn_implementation = attention
    model = LlamaForCausalLM(config).eval()
    weights = {
        name.removeprefix("w."): value.float() for name, value in data.items() if name[:2] == "w."
    }
    missing = model.model.load_state_dict(weights, strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["embed_tokens.weight"], [])

    # The stored prompt is merged already, so the merge hands out the stored structure.
    first, last = case["span"]
    count = last + 1 - first
    layout = TokenLayout.from_sizes(
        data["window_sizes"].long(),
        data["static_sizes"].long(),
        (data["dynamic_sizes"] // data["window_sizes"])
        .long()
        .repeat_interleave(data["window_sizes"]),
        source_to_merged=torch.arange(count)[:, None],
        merged_anchor=torch.arange(count),
        merged_count=torch.ones(count, dtype=torch.int64),
    )
    monkeypatch.setattr(
        prunevid,
        "merge_videos",
        lambda features, frames, config: [MergedVideo(features.flatten(0, 1), layout)],
    )
    rotated, rotary = watch_positions(model)
    pruned_config = PruneVidConfig(layer=case["M"], keep_ratio=case["alpha"])
    span = PromptVisuals(videos=(VideoSpan(first, count, 1),))
    with prune(model, pruned_config) as handle, handle.videos([span]):
        outputs = model(inputs_embeds=data["embeds_f16"].float()[None], output_hidden_states=True)
        cache = outputs.past_key_values
        lengths = [[layer.keys.shape[2] for layer in cache.layers]]
        assert_near(outputs.hidden_states[-1][0], data["prefill_out"])
        for embed, expected in zip(data["decode_embeds_f16"], data["decode_out"], strict=True):
            outputs = model(
                inputs_embeds=embed.float()[None, None],
                past_key_values=cache,
                output_hidden_states=True,
            )
            assert_near(outputs.hidden_states[-1][0, 0], expected)
            lengths.append([layer.keys.shape[2] for layer in cache.layers])
    rotary.remove()

    assert lengths == case["kv_lengths"]
    assert [positions.item() for positions in rotated[1:]] == case["decode_position_ids"]
    kept = handle.report.last.videos[0].kept + first
    positions = torch.cat((torch.arange(first), kept, torch.arange(last + 1, case["S"])))
    if len(data["kept_positions"]):
        assert positions.equal(data["kept_positions"].long())
    assert_near(cache.layers[0].keys[0], data["key_cache_layer0"])
    assert_near(cache.layers[-1].keys[0], data["key_cache_last"])


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()
