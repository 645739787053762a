"""Whether a pruned model computes what its method says, before any of its times is believed.

One prompt is answered with two tokens under the method, and again by hand: the plain decoder gets
the merged embeddings, hooks of a few lines take the dropped rows out after the selecting layer and
out of the caches, and both tokens' logits have to agree. What the method decided (which tokens
it kept) is taken from its report; the merge of PruneVid is done anew. Counts and cache lengths have
to be those that the report tells. A method that rewrites caches beyond dropping entries is
followed to its first token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, LinearAttentionLayer

from prunevid_kernels import PruneVidConfig, TokenLayout, apply_layout, merge_video
from prunevid_kernels.adapters import PruneCall, apply_method
from prunevid_kernels.adapters.engine.cache import cache_of, with_cache

from ..harness import IncorrectResultError
from .subjects import Prompts, Subject, features_in_place

TOKENS = 2
MERGED_BY_PRUNEVID = ("prunevid", "merge_only")


@dataclass(frozen=True)
class _Trace:
    """What a method did with one prompt.

    Attributes:
        fed: [S, C] embeddings as the decoder was called with them.
        merged: [L, C] those that its first layer got.
        logits: [TOKENS, V].
        first_token: [1, 1] what the second step was fed.
        given: the other arguments of that call.
        rows: of the merged prompt.
        cache_lengths: entries of each layer in the end.
    """

    fed: Tensor
    given: dict[str, Any]
    rows: _Rows
    merged: Tensor
    logits: Tensor
    first_token: Tensor
    cache_lengths: list[int | None]
    call: PruneCall


@torch.inference_mode()
def check_method(
    subject: Subject, prompts: Prompts, method: str, options: Mapping[str, Any]
) -> None:
    """Compare a method with doing the same by hand, on the first of the prompts.

    Raises:
        IncorrectResultError: they differ.
    """
    trace = _trace(subject, prompts.first(), method, options)
    (video,) = trace.call.videos
    limit = 1e-4 if trace.logits.dtype == torch.float32 else 2e-2
    if not bool(trace.logits.isfinite().all()):
        raise IncorrectResultError("logits of the pruned model are not finite")
    _require_lengths(trace)
    rows = trace.rows
    found = len(trace.merged) - len(rows.text)
    if found != video.tokens_merged:
        raise IncorrectResultError(
            f"{found} merged tokens reached the decoder's layers, not {video.tokens_merged}"
        )
    expected = None
    own = trace.fed[prompts.places]
    if video.tokens_merged == video.tokens_before:
        expected = own
    elif method in MERGED_BY_PRUNEVID:
        features = own.unflatten(0, (-1, video.layout.tokens_per_frame))
        expected = merge_video(features, PruneVidConfig.from_mapping(dict(options))).tokens
    if expected is not None:
        _require_close("merged tokens", trace.merged[rows.merged], expected, limit)
    _require_close("text", trace.merged[rows.text], trace.fed[rows.source[rows.text]], 0.0)
    by_hand = _logits_by_hand(subject, trace)
    for token, logits in enumerate(by_hand):
        _require_close(f"logits of token {token + 1}", trace.logits[token], logits, limit)


def _trace(subject: Subject, prompts: Prompts, method: str, options: Mapping[str, Any]) -> _Trace:
    model, decoder = subject.video_model.model, subject.decoder
    with ExitStack() as stack:
        stack.enter_context(features_in_place(subject, prompts))
        fed = stack.enter_context(_first_input(decoder))
        given = stack.enter_context(_first_kwargs(decoder))
        merged = stack.enter_context(_first_input(decoder.layers[0]))
        handle = stack.enter_context(apply_method(model, method, options))
        stack.enter_context(subject.video_model.telling(prompts.inputs))
        output = generate(model, prompts, TOKENS, with_logits=True)
        call = handle.report.last
    return _Trace(
        fed=fed[0][0],
        given=given[0],
        rows=_rows(len(fed[0][0]), prompts.places, call.videos[0].layout),
        merged=merged[0][0],
        logits=torch.cat(output.logits),
        first_token=output.sequences[:, -TOKENS : -TOKENS + 1],
        cache_lengths=_lengths(cache_of(output)),
        call=call,
    )


def generate(model: Any, prompts: Prompts, tokens: int, *, with_logits: bool = False) -> Any:
    """Exactly ``tokens`` greedy tokens a prompt, whatever the model takes for an end.

    Raises:
        IncorrectResultError: there were fewer.
    """
    output = model.generate(
        **prompts.inputs,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=with_logits,
    )
    found = output.sequences.shape[1] - prompts.inputs["input_ids"].shape[1]
    if found != tokens:
        raise IncorrectResultError(f"{found} tokens were generated, not {tokens}")
    return output


@contextmanager
def _first_input(module: nn.Module) -> Iterator[list[Tensor]]:
    """The embeddings or hidden states of the module's first call."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not seen:
            seen.append((args[0] if args else kwargs["inputs_embeds"]).clone())

    hook = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def _first_kwargs(module: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """The other arguments of the module's first call."""
    seen: list[dict[str, Any]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not seen:
            seen.append(dict(kwargs))

    hook = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def _lengths(cache: Any) -> list[int | None]:
    """Entries of each layer; None where a layer has a state in place of them."""
    return [
        None if isinstance(layer, LinearAttentionLayer) else layer.keys.shape[2]
        for layer in cache.layers
    ]


def _require_lengths(trace: _Trace) -> None:
    expected = [length + TOKENS - 1 for length in trace.call.cached_tokens[0]]
    told = zip(trace.cache_lengths, expected, strict=True)
    if any(found is not None and found != length for found, length in told):
        raise IncorrectResultError(
            f"the caches hold {trace.cache_lengths} entries, the report says {expected}"
        )


def _require_close(what: str, found: Tensor, expected: Tensor, limit: float) -> None:
    if found.shape != expected.shape:
        raise IncorrectResultError(
            f"{what}: shape {list(found.shape)}, by hand {list(expected.shape)}"
        )
    difference = (found.double() - expected.double()).norm().item()
    scale = expected.double().norm().item()
    if not difference <= limit * scale:
        raise IncorrectResultError(
            f"{what}: {difference / max(scale, 1e-30):.3g} away from doing it by hand, of"
            f" {limit:g} allowed"
        )


# ------------------------------------------------------------------------------------------------
# By hand
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """A merged prompt's rows: text stays in its place, a merged token stands in the frame of its
    first source.

    Attributes:
        source: [L] place in the whole prompt of each row, of a merged one that of its first source.
        text: [L - K] the rows of text.
        merged: [K] the rows of the merged tokens, in their order.
    """

    source: Tensor
    text: Tensor
    merged: Tensor


def _rows(length: int, places: Tensor, layout: TokenLayout) -> _Rows:
    """The rows of a prompt of ``length`` tokens with a video's at ``places`` [T * N]."""
    is_text = torch.ones(length, dtype=torch.bool, device=places.device)
    is_text[places] = False
    text = is_text.nonzero()[:, 0]
    anchor, width = layout.merged_anchor, layout.tokens_per_frame
    frame = places[anchor - anchor % width]
    order = torch.cat((text, frame)).sort(stable=True).indices
    rows = order.argsort()
    source = torch.cat((text, places[anchor]))[order]
    return _Rows(source, rows[: len(text)], rows[len(text) :])


def _inputs_by_hand(subject: Subject, trace: _Trace) -> tuple[dict[str, Any], Tensor]:
    """Positions, and planes where there are any, of the merged prompt; and the position of the
    token after it."""
    model, source = subject.video_model.model, trace.rows.source
    adapter = subject.video_model.family.adapter()
    if adapter.positions == "renumber":
        # Positions go on after the merged prompt, not after what is left of it.
        return {}, torch.tensor([[len(source)]], device=source.device)
    positions = trace.given["position_ids"][-adapter.position_axes :, :1, source]
    inputs: dict[str, Any] = {"position_ids": positions}
    planes = adapter.planes(model)
    if planes is not None and trace.given.get(planes.features) is not None:
        layout = trace.call.videos[0].layout
        size = layout.source_to_merged.shape
        is_merged = torch.zeros(len(source), dtype=torch.bool, device=source.device)
        is_merged[trace.rows.merged] = True
        in_order = trace.rows.merged.argsort()
        inputs[planes.mask] = is_merged[None]
        inputs[planes.features] = [
            apply_layout(plane.unflatten(0, size), layout)[in_order]
            for plane in trace.given[planes.features]
        ]
    return inputs, positions[..., -1:] + 1


def _logits_by_hand(subject: Subject, trace: _Trace) -> list[Tensor]:
    """[V] logits of each token that can be followed, from the plain decoder."""
    model, decoder = subject.video_model.model, subject.decoder
    head, cache = model.get_output_embeddings(), DynamicCache(config=decoder.config)
    rows = _kept_rows(trace)
    with ExitStack() as hooks:
        if trace.call.layer is not None:
            _drop_rows(decoder.layers[trace.call.layer + 1 :], rows, hooks)
        inputs, place = _inputs_by_hand(subject, trace)
        hidden = _run(decoder, trace.merged[None], cache, **inputs)
    logits = [head(hidden[:, -1])[0]]
    for layer, wanted in zip(cache.layers, trace.call.cached_tokens[0], strict=True):
        if isinstance(layer, LinearAttentionLayer):
            continue
        if wanted not in (layer.keys.shape[2], len(rows)):
            return logits  # its entries are not those of tokens any more
        if wanted != layer.keys.shape[2]:
            layer.keys, layer.values = layer.keys[:, :, rows], layer.values[:, :, rows]
    token = model.get_input_embeddings()(trace.first_token)
    return [*logits, head(_run(decoder, token, cache, position_ids=place)[:, -1])[0]]


def _run(decoder: Any, embeddings: Tensor, cache: DynamicCache, **inputs: Any) -> Tensor:
    output = decoder(inputs_embeds=embeddings, use_cache=True, **with_cache(inputs, cache))
    return output.last_hidden_state


def _kept_rows(trace: _Trace) -> Tensor:
    """Places of the merged prompt that the selection leaves."""
    (video,) = trace.call.videos
    return torch.cat((trace.rows.text, trace.rows.merged[video.kept])).sort().values


def _drop_rows(layers: nn.ModuleList, rows: Tensor, hooks: ExitStack) -> None:
    """Let the layers run on these rows of the prompt only."""

    def drop(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        hidden, mask = args[0], kwargs.get("attention_mask")
        if module is layers[0]:
            hidden = hidden[:, rows]
        late = {
            "position_embeddings": tuple(part[:, rows] for part in kwargs["position_embeddings"]),
            "attention_mask": None if mask is None else mask[:, :, rows][..., rows],
            "position_ids": None,
        }
        return (hidden, *args[1:]), {**kwargs, **late}

    for layer in layers:
        hooks.callback(layer.register_forward_pre_hook(drop, with_kwargs=True).remove)
