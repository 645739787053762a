"""Pruning under FlashAttention's masks, in half precision, and under torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from slow_pruning import assert_close, slow_prompt
from tiny_models import CONFIG, generate, logits_of, question, two_prompts
from transformers import AttentionInterface, CompileConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import apply_method, prune

SCORES = pytest.mark.parametrize("score", ["nope", "rope"])


def flash_shaped_attention(
    module, query, key, value, attention_mask, scaling, dropout=0.0, position_ids=None, **kwargs
):
    """Eager attention with FlashAttention's conventions: the mask is 2-D or absent, its length
    says how much of a static cache is filled, and positions with a gap mean packed sequences."""
    if position_ids is not None and query.shape[0] == 1:
        assert position_ids.shape[-1] == query.shape[2]
        assert (position_ids.diff(dim=-1) == 1).all(), "taken for packed sequences"
    queries, keys = query.shape[2], key.shape[2]
    visible = torch.ones(1, 1, queries, keys, dtype=torch.bool)
    if module.is_causal:
        filled = keys if attention_mask is None else attention_mask.shape[-1]
        key, value = key[:, :, :filled], value[:, :, :filled]
        visible = torch.ones(queries, filled, dtype=torch.bool).tril(filled - queries)[None, None]
        if attention_mask is not None:
            assert attention_mask.ndim == 2
            visible = visible & attention_mask[:, None, None, :].bool()
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    logits = (query @ key.transpose(2, 3) * scaling).masked_fill(~visible, -torch.inf)
    return (logits.softmax(-1).nan_to_num(0.0) @ value).transpose(1, 2).contiguous(), None


@pytest.fixture
def flash_model(build):
    AttentionInterface.register("padding_2d", flash_shaped_attention)
    AttentionMaskInterface.register("padding_2d", ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    return build("qwen2", "padding_2d")


@pytest.mark.sample(3)
@SCORES
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("batch", ["one", "padded"])
def test_flash_shaped_masks(flash_model, build, batch, cache, score):
    inputs = question() if batch == "one" else two_prompts()
    config = PruneVidConfig(layer=1, score=score)
    with prune(build("qwen2", "eager"), config):
        expected = generate(build("qwen2", "eager"), inputs)
    with prune(flash_model, config):
        kwargs: dict[str, Any] = {}
        if cache == "static":
            # A real one is recognised by name and gets its mask whatever it says; this must have
            # padding to get one.
            inputs = inputs if batch == "padded" else with_padding(inputs)
            kwargs["cache_implementation"] = "static"
        result = generate(flash_model, inputs, **kwargs)
    assert result.sequences[:, -9:].equal(expected.sequences[:, -9:])
    assert_close(logits_of(result), logits_of(expected))


@pytest.mark.parametrize("name", ["fastv", "look_m"])
@pytest.mark.parametrize("batch", ["one", "padded"])
def test_flash_shaped_masks_of_baselines(flash_model, build, batch, name):
    """Behind FastV's cut, layers have masks of their own; Look-M cuts each layer's cache."""
    inputs = question() if batch == "one" else two_prompts()
    with apply_method(build("qwen2", "eager"), name, {}):
        expected = generate(build("qwen2", "eager"), inputs)
    with apply_method(flash_model, name, {}):
        result = generate(flash_model, inputs)
    assert result.sequences.equal(expected.sequences)
    assert_close(logits_of(result), logits_of(expected))


def with_padding(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    pad = torch.nn.functional.pad
    return {
        **inputs,
        "input_ids": pad(inputs["input_ids"], (3, 0)),
        "attention_mask": pad(inputs["attention_mask"], (3, 0)),
    }


@pytest.mark.sample(1)
@SCORES
def test_bfloat16(build, score):
    """As near to exact arithmetic as the unpruned model in bfloat16 is; rounding is all that
    differs, so the choice of tokens, which rounding may change, is given to the slow decoder."""
    half, config = build("qwen2", "sdpa", torch.bfloat16), PruneVidConfig(layer=1, score=score)
    keep_all = PruneVidConfig(layer=1, merge=False, keep_ratio=1.0)
    errors, unpruned_errors, shared = [], [], []
    for seed in range(6):
        inputs = question(6, seed)
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(torch.bfloat16)
        unpruned = half(**inputs).logits[0, -1].double()
        unpruned_errors.append(unpruned - slow_prompt(half, inputs, keep_all).logits())
        with prune(half, config) as handle:
            result = half(**inputs)
        kept = handle.report.last.videos[0].kept.tolist()
        exact = slow_prompt(half, inputs, config, [kept]).logits()
        errors.append(result.logits[0, -1].double() - exact)
        chosen = slow_prompt(half, inputs, config).kept[0]
        shared.append(len(set(kept) & set(chosen)) / len(kept))
    assert result.logits.dtype == result.past_key_values.layers[0].keys.dtype == torch.bfloat16
    assert torch.cat(errors).std() <= 2 * torch.cat(unpruned_errors).std()
    assert min(shared) >= 0.8


@pytest.mark.sample(1)
@pytest.mark.parametrize("batch", ["one", "padded"])
def test_compiled_decoding_in_one_graph(build, batch):
    """``fullgraph=True``: a hook that breaks the graph, or reads a tensor, raises."""
    model = build("llama")
    inputs = [question(), question(4, seed=2)] if batch == "one" else [two_prompts()]
    compile_config = CompileConfig(fullgraph=True, backend="eager", mode=None)
    compile_config._compile_all_devices = True
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with prune(model, CONFIG) as handle:
        for each in inputs:
            expected = generate(model, each)
            compiled = generate(
                model, each, cache_implementation="static", compile_config=compile_config
            )
            assert compiled.sequences.equal(expected.sequences)
            assert_close(logits_of(compiled), logits_of(expected))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "compiled anew"
    assert len(handle.report.pruned_calls) == 2 * len(inputs)
