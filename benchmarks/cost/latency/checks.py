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
from transformers.cache_utils import DynamicCache

from prunevid_kernels import PruneVidConfig, merge_video
from prunevid_kernels.adapters import PruneCall, apply_method

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
        cache_lengths: entries of each layer in the end.
    """

    fed: Tensor
    merged: Tensor
    logits: Tensor
    first_token: Tensor
    cache_lengths: list[int]
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
    start, stop = video.span
    after = len(trace.fed) - stop  # tokens after the video
    merged = trace.merged[start : len(trace.merged) - after]
    if len(merged) != video.tokens_merged:
        raise IncorrectResultError(
            f"{len(merged)} merged tokens reached the decoder's layers, not {video.tokens_merged}"
        )
    expected = None
    if video.tokens_merged == video.tokens_before:
        expected = trace.fed[start:stop]
    elif method in MERGED_BY_PRUNEVID:
        features = trace.fed[start:stop].unflatten(0, (-1, video.layout.tokens_per_frame))
        expected = merge_video(features, PruneVidConfig.from_mapping(dict(options))).tokens
    if expected is not None:
        _require_close("merged tokens", merged, expected, limit)
    _require_close("text before the video", trace.merged[:start], trace.fed[:start], 0.0)
    _require_close("text after it", trace.merged[-after:], trace.fed[-after:], 0.0)
    by_hand = _logits_by_hand(subject, trace)
    for token, logits in enumerate(by_hand):
        _require_close(f"logits of token {token + 1}", trace.logits[token], logits, limit)


def _trace(subject: Subject, prompts: Prompts, method: str, options: Mapping[str, Any]) -> _Trace:
    model, decoder = subject.video_model.model, subject.decoder
    with ExitStack() as stack:
        stack.enter_context(features_in_place(subject, prompts))
        fed = stack.enter_context(_first_input(decoder))
        merged = stack.enter_context(_first_input(decoder.layers[0]))
        handle = stack.enter_context(apply_method(model, method, options))
        output = generate(model, prompts, TOKENS, with_logits=True)
        call = handle.report.last
    return _Trace(
        fed=fed[0][0],
        merged=merged[0][0],
        logits=torch.cat(output.logits),
        first_token=output.sequences[:, -TOKENS : -TOKENS + 1],
        cache_lengths=[layer.keys.shape[2] for layer in output.past_key_values.layers],
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


def _require_lengths(trace: _Trace) -> None:
    expected = [length + TOKENS - 1 for length in trace.call.cached_tokens[0]]
    if trace.cache_lengths != expected:
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


def _logits_by_hand(subject: Subject, trace: _Trace) -> list[Tensor]:
    """[V] logits of each token that can be followed, from the plain decoder."""
    model, decoder = subject.video_model.model, subject.decoder
    head, cache = model.get_output_embeddings(), DynamicCache()
    rows = _kept_rows(trace)
    with ExitStack() as hooks:
        if trace.call.layer is not None:
            _drop_rows(decoder.layers[trace.call.layer + 1 :], rows, hooks)
        hidden = _run(decoder, trace.merged[None], cache)
    logits = [head(hidden[:, -1])[0]]
    for layer, wanted in zip(cache.layers, trace.call.cached_tokens[0], strict=True):
        if wanted not in (layer.keys.shape[2], len(rows)):
            return logits  # its entries are not those of tokens any more
        if wanted != layer.keys.shape[2]:
            layer.keys, layer.values = layer.keys[:, :, rows], layer.values[:, :, rows]
    # Positions go on after the merged prompt, not after what is left of it.
    place = torch.tensor([[len(trace.merged)]], device=rows.device)
    token = model.get_input_embeddings()(trace.first_token)
    return [*logits, head(_run(decoder, token, cache, place)[:, -1])[0]]


def _run(
    decoder: Any, embeddings: Tensor, cache: DynamicCache, position_ids: Tensor | None = None
) -> Tensor:
    output = decoder(
        inputs_embeds=embeddings,
        past_key_values=cache,
        position_ids=position_ids,
        use_cache=True,
    )
    return output.last_hidden_state


def _kept_rows(trace: _Trace) -> Tensor:
    """Places of the merged prompt that the selection leaves."""
    (video,) = trace.call.videos
    start, device = video.span[0], video.kept.device
    stop = start + video.tokens_merged
    before = torch.arange(start, device=device)
    after = torch.arange(stop, len(trace.merged), device=device)
    return torch.cat((before, video.kept + start, after))


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
