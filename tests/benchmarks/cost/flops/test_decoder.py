"""The arithmetic reproduces the published PLLaVA ratios to the printed digit."""

from __future__ import annotations

import pytest
import torch
import transformers

from prunevid_kernels.adapters.families import SIZES
from prunevid_kernels.adapters.families.shape import DecoderShape, LinearAttention
from prunevid_kernels.benchmarks.cost.flops.decoder import (
    flops_ratio,
    layer_macs,
    prefill_macs,
    prunevid_lengths,
)

VICUNA_7B = SIZES["pllava-7b"].shape.decoder
QWEN2_7B = SIZES["llava-onevision-7b"].shape.decoder
VISUAL = 2304  # 16 frames of 12 x 12 tokens

# Published ratio; layers that run on the first share of the visual tokens; the two shares.
PUBLISHED = [
    pytest.param("0.33", 2, 1.0, 0.300, id="FastV"),
    pytest.param("0.53", 32, 0.557, 0.557, id="PruMerge"),
    pytest.param("0.23", 11, 0.405, 0.162, id="PruneVid"),
    pytest.param("0.69", 32, 0.715, 0.715, id="static-merge"),
    pytest.param("0.48", 32, 0.500, 0.500, id="spatial-merge"),
    pytest.param("0.34", 32, 0.361, 0.361, id="both-merges"),
    pytest.param("0.59", 11, 1.0, 0.400, id="attention-only"),
    pytest.param("0.20", 11, 0.361, 0.141, id="all-stages"),
]


def pllava_ratio(full_layers: int, first: float, then: float, text_tokens: int) -> float:
    lengths = prunevid_lengths(
        VISUAL * first, VISUAL * then, text_tokens, layer=full_layers - 1, num_layers=32
    )
    return flops_ratio(lengths, VISUAL + text_tokens, VICUNA_7B, "paper")


@pytest.mark.parametrize("text_tokens", range(9, 16))
@pytest.mark.parametrize(("published", "full_layers", "first", "then"), PUBLISHED)
def test_published_pllava_ratio(
    published: str, full_layers: int, first: float, then: float, text_tokens: int
) -> None:
    assert f"{pllava_ratio(full_layers, first, then, text_tokens):.2f}" == published


@pytest.mark.parametrize("text_tokens", [8, 16])
def test_other_text_lengths_do_not_reproduce_the_table(text_tokens: int) -> None:
    rows = [case.values for case in PUBLISHED]
    printed = [f"{pllava_ratio(*row[1:], text_tokens):.2f}" for row in rows]
    assert printed != [row[0] for row in rows]


def test_llava_onevision_published_ratios_do_not_follow_from_its_dimensions() -> None:
    """The paper prints 0.30 and 0.20; its own hyper-parameters give 0.312 and 0.235."""
    visual = 32 * 196

    def ratio(merged: float, kept: float, layer: int) -> float:
        lengths = prunevid_lengths(visual * merged, visual * kept, 0, layer=layer, num_layers=28)
        return flops_ratio(lengths, visual, QWEN2_7B, "paper")

    assert ratio(1.0, 0.3, 1) == pytest.approx(0.312, abs=0.001)
    assert ratio(0.425, 0.17, 10) == pytest.approx(0.235, abs=0.003)


def test_exact_form_counts_grouped_heads_three_mlp_matrices_and_one_vocabulary_row() -> None:
    shape = DecoderShape(
        hidden_size=8, mlp_size=20, num_layers=2, num_heads=4, num_kv_heads=2, vocab_size=50
    )
    n = 3
    queries_and_output = 2 * n * 8 * 8
    keys_and_values = 2 * n * 8 * 4
    attention = 2 * n * n * 8
    mlp = 3 * n * 8 * 20
    assert layer_macs(n, shape, "exact") == queries_and_output + keys_and_values + attention + mlp
    one_layer = layer_macs(n, shape, "exact")
    assert prefill_macs([n, n], shape, "exact") == 2 * one_layer + 8 * 50


def test_unpruned_lengths_give_ratio_one() -> None:
    for form in ("paper", "exact"):
        assert flops_ratio([100] * 28, 100, QWEN2_7B, form) == 1.0


def test_selection_at_the_last_layer_or_beyond_keeps_every_layer_at_merged_length() -> None:
    assert prunevid_lengths(10, 4, 3, layer=4, num_layers=5) == [13] * 5
    assert prunevid_lengths(10, 4, 3, layer=1, num_layers=5) == [13, 13, 7, 7, 7]


def test_wrong_number_of_layers_is_named() -> None:
    with pytest.raises(ValueError, match="one length for each of the 32 layers, got 3"):
        prefill_macs([1, 2, 3], VICUNA_7B, "paper")


def test_unknown_form_is_named() -> None:
    with pytest.raises(ValueError, match="form must be 'paper' or 'exact', got 'guess'"):
        layer_macs(1, VICUNA_7B, "guess")  # type: ignore[arg-type]


def test_exact_form_counts_the_projections_of_gated_and_linear_attention() -> None:
    """Those of transformers' own layers; one of each, on three tokens."""
    linear = LinearAttention(layers=1, key=32, value=64, head=16)
    shape = DecoderShape(64, 96, 2, 4, 2, 50, 16, linear)
    config = transformers.Qwen3_5TextConfig(
        **shape.config_values(),
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        layer_types=["linear_attention", "full_attention"],
    )
    with torch.device("meta"):
        layers = transformers.Qwen3_5TextModel(config).layers
    weights = {
        name: module.weight.numel()
        for name, module in layers.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith(("in_proj_a", "in_proj_b"))
    }
    n = 3
    attention = 2 * n**2 * 64
    states = 3 * n * linear.head * linear.value
    head = shape.hidden_size * shape.vocab_size
    expected = n * sum(weights.values()) + attention + states + head
    assert prefill_macs([n, n], shape, "exact") == expected
