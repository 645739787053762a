"""Tokens after a pruned prompt: the mask and positions that fit a cache which holds less than was
fed.

Decoding steps, further turns and the candidates of assisted decoding all come this way. A compiled
decoding step runs through here, so nothing waits for the device or reads a tensor.
"""

from __future__ import annotations

from typing import Any

from .cache import cache_of, given_cache, state_of, with_cache
from .calls import Call, tokens_of, without_last
from .masks import continue_pruned, layer_mask
from .prefill import PrunedModel


def continue_prompt(model: PrunedModel, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The decoder's arguments for tokens after a pruned prompt.

    Args:
        model: the pruned model.
        kwargs: the decoder's arguments as the caller means them; its cache was pruned.
    """
    cache, tokens = given_cache(kwargs), tokens_of(kwargs)
    state = cache.pruned_state
    given = kwargs.get("attention_mask"), kwargs.get("position_ids")
    mask, positions = continue_pruned(state, cache, *given, tokens)
    if model.late_layers:
        late, first = state.of_late_layers(), state.late.first
        late_mask, _ = continue_pruned(late, cache, *given, tokens, layer=first)
        cache.late_mask = layer_mask(model.decoder, tokens, late_mask, cache, first)
    return {**kwargs, "attention_mask": mask, "position_ids": positions}


def continue_late_layer(kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """A late layer's arguments, with the mask that :func:`continue_prompt` has left on the cache;
    None where the cache was not pruned. While a prompt is pruned, the prefill's own hook comes
    after this one and has the last word."""
    cache = given_cache(kwargs)
    if cache is None or state_of(cache) is None:
        return None
    return {**kwargs, "attention_mask": cache.late_mask}


def prompt_then_candidates(
    model: PrunedModel, call: Call, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Run a prompt without its candidates, and go on with them after its pruned cache.

    In one pass, the candidates would be question rows, and would see, in the first layers, the
    tokens that are dropped.

    Args:
        model: the pruned model.
        call: the call under way; gets the prompt's last row.
        kwargs: the decoder's arguments.

    Returns:
        The decoder's arguments for the candidates alone.

    Raises:
        ValueError: hidden states or attentions were asked for, which come in two pieces.
    """
    if kwargs.get("output_hidden_states") or kwargs.get("output_attentions"):
        raise ValueError(
            "output_hidden_states and output_attentions are not supported where a pruned "
            "prompt comes with candidate tokens (assisted decoding, logits_to_keep > 1)"
        )
    count, call.candidates = call.candidates, 0
    embeds, positions = kwargs["inputs_embeds"], kwargs.get("position_ids")
    planes: dict[str, Any] = {}  # text has none: the prompt's are the prompt's alone
    if model.planes is not None and kwargs.get(model.planes.mask) is not None:
        planes = {model.planes.mask: kwargs[model.planes.mask][:, :-count]}
    prompt = {
        **kwargs,
        **planes,
        "inputs_embeds": embeds[:, :-count],
        "attention_mask": without_last(kwargs.get("attention_mask"), count),
        "position_ids": None if positions is None else positions[..., :-count],
    }
    outputs = model.decoder(**prompt)
    call.last_hidden = outputs.last_hidden_state[:, -1:]
    candidates = {
        **kwargs,
        **(
            {}
            if model.planes is None
            else dict.fromkeys((model.planes.mask, model.planes.features))
        ),
        "inputs_embeds": embeds[:, -count:],
        "position_ids": None if positions is None else positions[..., -count:],
    }
    return continue_prompt(model, with_cache(candidates, cache_of(outputs)))
