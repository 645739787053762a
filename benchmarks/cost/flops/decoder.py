"""What a prefill costs in FLOPs, from the sequence length of each decoder layer.

Computed from measured lengths; nothing is timed here. Counts are multiply-accumulates, which
is what the PruneVid paper prints as FLOPs; ratios do not depend on that. Two forms:

* ``paper``: ``4 n d^2 + 2 n^2 d + 2 n d m`` for a layer of width d and MLP width m on n tokens, as
  in FastV and PruneVid: full-width keys and values, two MLP matrices, no vocabulary head.
* ``exact``: ``2 n d^2 (1 + h_kv / h) + 2 n^2 d + 3 n d m`` with grouped-query attention and the
  three matrices of a gated MLP, and the vocabulary head for the one row that is sampled. Where the
  heads together are not d wide, one d of each product is their width. Models with linear attention
  gate the output of their other layers, by a projection as wide as the queries'.

A method is a list of lengths, one a layer: the released PruneVid code prunes *after* layer index
10, so eleven layers run at merged length and the others at kept length (``prunevid_lengths``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from prunevid_kernels.adapters.families.shape import DecoderShape, LinearAttention

FlopsForm = Literal["paper", "exact"]


def layer_macs(tokens: float, shape: DecoderShape, form: FlopsForm) -> float:
    """Multiply-accumulates of one decoder layer on ``tokens`` tokens.

    Raises:
        ValueError: an unknown form.
    """
    n, d, m = tokens, shape.hidden_size, shape.mlp_size
    if form == "paper":
        return 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m
    if form == "exact":
        grouped = 1 + shape.num_kv_heads / shape.num_heads
        heads = shape.num_heads * shape.head_dim  # d in most models
        gate = 0 if shape.linear is None else n * d * heads
        return 2 * n * d * heads * grouped + gate + 2 * n**2 * heads + 3 * n * d * m
    raise ValueError(f"form must be 'paper' or 'exact', got {form!r}")


def _linear_layer_macs(tokens: float, shape: DecoderShape, linear: LinearAttention) -> float:
    """A layer of gated linear attention: queries and keys, values, gates and output; a state that
    each token decays, writes and reads; the MLP. Linear in the tokens."""
    n, d = tokens, shape.hidden_size
    projections = n * d * (2 * linear.key + 3 * linear.value)
    return projections + 3 * n * linear.head * linear.value + 3 * n * d * shape.mlp_size


def prefill_macs(tokens_per_layer: Sequence[float], shape: DecoderShape, form: FlopsForm) -> float:
    """Multiply-accumulates of a prefill that runs layer i on ``tokens_per_layer[i]`` tokens.

    Raises:
        ValueError: not one length a layer; an unknown form.
    """
    if len(tokens_per_layer) != shape.num_layers:
        raise ValueError(
            f"tokens_per_layer must have one length for each of the {shape.num_layers} layers,"
            f" got {len(tokens_per_layer)}"
        )
    layers = sum(layer_macs(tokens, shape, form) for tokens in tokens_per_layer)
    if shape.linear is not None and form == "exact":
        # Nothing is selected there, so all layers run on as many tokens.
        n, linear = tokens_per_layer[0], shape.linear
        layers *= 1 - linear.layers / shape.num_layers
        layers += linear.layers * _linear_layer_macs(n, shape, linear)
    head = shape.hidden_size * shape.vocab_size if form == "exact" else 0
    return layers + head


def flops_ratio(
    tokens_per_layer: Sequence[float], unpruned_tokens: float, shape: DecoderShape, form: FlopsForm
) -> float:
    """FLOPs of a pruned prefill as a share of the unpruned one, on ``unpruned_tokens`` throughout.

    Raises:
        ValueError: not one length a layer; an unknown form.
    """
    unpruned = prefill_macs([unpruned_tokens] * shape.num_layers, shape, form)
    return prefill_macs(tokens_per_layer, shape, form) / unpruned


def prunevid_lengths(
    merged_tokens: float, kept_tokens: float, text_tokens: int, *, layer: int, num_layers: int
) -> list[float]:
    """Tokens of each layer when visual tokens are dropped after layer index ``layer``.

    Counts need not be whole: averages over a data set, as published, are not.
    """
    full = min(layer + 1, num_layers)
    merged, kept = merged_tokens + text_tokens, kept_tokens + text_tokens
    return [merged] * full + [kept] * (num_layers - full)
