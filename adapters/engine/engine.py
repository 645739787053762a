"""Pruning inside an unmodified transformers model, by hooks.

Hooks sit on three kinds of modules. The *entries*, where a call with videos begins, find out where
the videos are. The *text decoder* gets merged prompts instead of full ones, and, when it continues
a pruned cache, the mask and positions that fit it. The *decoder layers* are hooked only while one
such prompt runs (:mod:`.prefill`). What a sequence needs later lives on its cache (:mod:`.cache`),
what a call needs on the way in a context variable, so nothing is kept on modules and threads do not
meet.

Tried and rejected: subclassing the model (its ``forward`` would have to be copied for each family
and version); a loop of our own over the decoder's layers (loses ``output_hidden_states`` and
whatever else ``forward`` does); pruning between ``generate``'s steps (assisted decoding goes
wrong).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache

from .cache import is_static, require_supported, state_of
from .calls import (
    Announcement,
    Call,
    announced,
    bind_arguments,
    count_candidates,
    current_call,
    discard_call,
    expand_prompts,
    is_first,
    tokens_of,
    without_last,
)
from .interface import ModelAdapter, PromptVisuals
from .masks import continue_pruned, layer_mask, read_padding
from .method import PruningMethod
from .prefill import Prefill
from .report import NothingPrunedWarning, PruneCall, PruneReport
from .scoring import tensor_parallel_group


class Engine:
    """The hooks of one pruned model. Use :func:`prunevid_kernels.adapters.prune`.

    Args:
        model: the model to prune.
        adapter: where things live in it.
        method: what to do.

    Raises:
        ValueError: the model cannot be pruned so; the message says why.
    """

    def __init__(self, model: nn.Module, adapter: ModelAdapter, method: PruningMethod) -> None:
        self._model = model
        self._adapter = adapter
        self._method = method
        self._decoder: Any = adapter.decoder(model)
        self._entries = list(adapter.entries(model))
        self._group = tensor_parallel_group(model)
        _require_supported_decoder(self._decoder, method)
        _require_unpruned(self._decoder)
        self.report = PruneReport()
        self._has_pruned = False
        self._is_active = True
        self._hooks = ExitStack()
        method.watch(model, adapter, self._hooks)
        for entry in self._entries:
            self._hook(entry, self._on_entry, self._on_exit)
        self._hook(self._decoder, self._before_decoder, self._after_decoder)
        self._late_layers: list[nn.Module] = []
        if method.keeps_early_caches and method.layer is not None:
            layers = cast(nn.ModuleList, self._decoder.layers)
            self._late_layers = list(layers[method.layer + 1 :])
        for layer in self._late_layers:
            self._hooks.callback(
                layer.register_forward_pre_hook(self._before_late_layer, with_kwargs=True).remove
            )

    def _hook(self, module: nn.Module, before: Any, after: Any) -> None:
        self._hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        self._hooks.callback(
            module.register_forward_hook(after, with_kwargs=True, always_call=True).remove
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        # A copied model carries copies of its hooks. They still belong to this engine, which does
        # nothing on modules that are not its own: the copy of a pruned model is a plain model.
        return self

    def is_active(self) -> bool:
        return self._is_active

    def owns(self, decoder: nn.Module) -> bool:
        return decoder is self._decoder

    def remove(self) -> None:
        """Unhook the model; again does nothing."""
        if self._call() is not None:
            discard_call()
        self._hooks.close()
        self._is_active = False

    def _call(self) -> Call | None:
        """This model's call that is under way in this context."""
        call = current_call.get()
        return call if call is not None and call.engine is self else None

    def warn_if_idle(self) -> None:
        if not self._has_pruned:
            warnings.warn(
                "the model was pruned, but no prompt with a video reached it: nothing was pruned",
                NothingPrunedWarning,
                stacklevel=3,
            )

    @contextmanager
    def announce(self, prompts: Sequence[PromptVisuals]) -> Iterator[None]:
        """See :meth:`prunevid_kernels.adapters.PruneHandle.videos`."""
        announcement = Announcement(self, list(prompts))
        token = announced.set(announcement)
        try:
            yield
        finally:
            announced.reset(token)
        if not announcement.is_used:
            raise RuntimeError(
                "videos were announced, but no prompt given as inputs_embeds reached the model"
            )

    # ---------------------------------------------------------------------------------- entries

    def _on_entry(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not any(module is entry for entry in self._entries):
            return
        inputs = bind_arguments(module, args, kwargs)
        if torch.compiler.is_compiling():
            if self._adapter.brings_visuals(inputs):
                raise RuntimeError(
                    "a prompt with videos cannot run inside torch.compile while the model is "
                    "pruned; compile the decoding steps only, as generate does"
                )
            return
        call = self._call()
        if call is not None and call.owner is not module and not call.has_started():
            return  # an inner entry of a call that has begun
        discard_call()  # left over from one that was killed, by Ctrl-C for example
        prompts = self._locate(inputs)
        if prompts is None:
            return
        if inputs.get("labels") is not None:
            raise ValueError(
                "labels: the training loss of a pruned prompt is not defined, its tokens are fewer"
            )
        current_call.set(Call(self, module, prompts, count_candidates(inputs)))

    def _locate(self, inputs: Mapping[str, Any]) -> list[PromptVisuals] | None:
        """What the prompts of a call hold; None if it brings no visual features."""
        if self._adapter.brings_visuals(inputs):
            return self._adapter.locate(self._model, inputs)
        embeds, announcement = inputs.get("inputs_embeds"), announced.get()
        if embeds is not None and announcement is not None:
            if announcement.engine is self and not announcement.is_used:
                announcement.is_used = True
                return expand_prompts(announcement.prompts, embeds.shape[0])
        ids, video_id = inputs.get("input_ids"), self._adapter.video_token_id(self._model)
        if ids is not None and video_id is not None:
            if is_first(inputs.get("past_key_values"), ids.shape[1]) and (ids == video_id).any():
                raise ValueError(
                    "the prompt has video tokens but no video features came with it; pixel values "
                    "are missing, or it was cut by prefill_chunk_size, which pruning does not "
                    "support"
                )
        return None

    def _on_exit(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        call = self._call()
        if call is None or call.owner is not module:
            return
        discard_call()
        # output is None when forward raised
        if output is not None and not call.is_done:
            raise RuntimeError(
                "a prompt with videos ran, but its text decoder was never called in a way that "
                "could be pruned (is it compiled?)"
            )

    # ---------------------------------------------------------------------------------- decoder

    def _before_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if module is not self._decoder:
            return None
        kwargs = bind_arguments(module, args, kwargs)
        call = None if torch.compiler.is_compiling() else self._call()
        if call is not None and not call.is_done:
            if any(prompt.videos for prompt in call.prompts):
                return (), self._begin(call, kwargs)
            self._pass_through(kwargs, call.prompts)
            call.is_done = True
            return (), kwargs
        cache = kwargs.get("past_key_values")
        state = state_of(cache)
        if state is not None:
            return (), self._continue(kwargs)
        if torch.compiler.is_compiling() or call is not None:
            return (), kwargs
        batch, length = tokens_of(kwargs).shape[:2]
        if is_first(cache, length):
            self._pass_through(kwargs, [PromptVisuals()] * batch)
        return (), kwargs

    def _begin(self, call: Call, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Start pruning the prompt of a decoder call."""
        method, embeds = self._method, kwargs["inputs_embeds"]
        cache = self._cache_of(kwargs)
        if cache is None and method.needs_cache:
            raise ValueError(
                "pruning inside the decoder needs a key/value cache: use_cache=False runs the "
                "whole sequence anew at each step, answer included; pass use_cache=True, or prune "
                "before the decoder only (select=False)"
            )
        if call.candidates and method.needs_cache:
            return self._prompt_then_candidates(call, kwargs)
        padding, late_padding = (
            read_padding(
                kwargs.get("attention_mask"),
                cache,
                batch=embeds.shape[0],
                length=embeds.shape[1],
                late=late,
            )
            for late in (False, True)
        )
        call.prefill = Prefill(
            method,
            self._adapter.positions,
            self._decoder,
            call.prompts,
            cache,
            group=self._group,
            is_current=lambda: current_call.get() is call,
            is_active=self.is_active,
        )
        inputs = call.prefill.begin(embeds, padding, late_padding, kwargs.get("position_ids"))
        return {**kwargs, **inputs, "past_key_values": cache}

    def _cache_of(self, kwargs: Mapping[str, Any]) -> Cache | None:
        """The cache that the decoder will fill; made here if the decoder would make it."""
        cache = kwargs.get("past_key_values")
        use_cache = kwargs.get("use_cache")
        if cache is None and (self._decoder.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache(config=self._decoder.config)
        if cache is not None:
            require_supported(cache)
            if self._late_layers and is_static(cache):
                raise ValueError(
                    f"{self._method.name} leaves layers with caches of two lengths, which a static "
                    "cache cannot answer for; use a dynamic one"
                )
        return cache

    def _prompt_then_candidates(self, call: Call, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Run the prompt alone first, and go on with the candidates behind its pruned cache.

        In one pass, the candidates would be question rows, and would see, in the first layers, the
        tokens that are dropped.
        """
        if kwargs.get("output_hidden_states") or kwargs.get("output_attentions"):
            raise ValueError(
                "output_hidden_states and output_attentions are not supported where a pruned "
                "prompt comes with candidate tokens (assisted decoding, logits_to_keep > 1)"
            )
        count, call.candidates = call.candidates, 0
        embeds, positions = kwargs["inputs_embeds"], kwargs.get("position_ids")
        mask = kwargs.get("attention_mask")
        prompt = {
            **kwargs,
            "inputs_embeds": embeds[:, :-count],
            "attention_mask": without_last(mask, count),
            "position_ids": None if positions is None else positions[..., :-count],
        }
        outputs = self._decoder(**prompt)
        call.last_hidden = outputs.last_hidden_state[:, -1:]
        candidates = {
            **kwargs,
            "inputs_embeds": embeds[:, -count:],
            "position_ids": None if positions is None else positions[..., -count:],
            "past_key_values": outputs.past_key_values,
        }
        return self._continue(candidates)

    def _continue(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Mask and positions for tokens behind a pruned prompt."""
        cache, tokens = kwargs["past_key_values"], tokens_of(kwargs)
        state, given = (
            cache.pruned_state,
            (kwargs.get("attention_mask"), kwargs.get("position_ids")),
        )
        mask, positions = continue_pruned(state, cache, *given, tokens)
        if self._late_layers:
            late, first = state.of_late_layers(), state.late.first
            late_mask, _ = continue_pruned(late, cache, *given, tokens, layer=first)
            cache.late_mask = layer_mask(self._decoder, tokens, late_mask, cache, first)
        return {**kwargs, "attention_mask": mask, "position_ids": positions}

    def _before_late_layer(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """The mask that :meth:`_continue` has left on the cache. While a prompt is pruned, the
        prefill's own hook comes after this one and has the last word."""
        cache = kwargs.get("past_key_values")
        if module not in self._late_layers or state_of(cache) is None:
            return None
        return args, {**kwargs, "attention_mask": cache.late_mask}  # type: ignore[union-attr]

    def _pass_through(self, kwargs: Mapping[str, Any], prompts: Sequence[PromptVisuals]) -> None:
        """Record prompts without a video."""
        images = tuple(sum(b - a for a, b in prompt.images) for prompt in prompts)
        length = tokens_of(kwargs).shape[1]
        self.report.calls.append(
            PruneCall(
                kind="image-only" if any(images) else "text-only",
                num_layers=len(self._decoder.layers),
                layer=None,
                videos=(),
                other_tokens=(length,) * len(prompts),
                image_tokens=images,
                method=self._method.name,
            )
        )

    def _after_decoder(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any
    ) -> Any:
        if torch.compiler.is_compiling() or module is not self._decoder:
            return None
        call = self._call()
        if call is None or output is None:  # output is None when forward raised
            return None
        if call.prefill is not None and not call.is_done:
            call.close()
            self._finish(call.prefill.end())
            call.is_done = True
        elif call.last_hidden is not None:
            hidden = torch.cat((call.last_hidden, output.last_hidden_state), dim=1)
            output.last_hidden_state, call.last_hidden = hidden, None
            return output
        return None

    def _finish(self, record: PruneCall) -> None:
        self.report.calls.append(record)
        self._has_pruned = True
        if self._method.prunes and not record.has_pruned:
            warnings.warn(
                f"nothing was pruned: all {record.tokens_before} visual tokens of a prompt were "
                f"kept, with {self._method}",
                NothingPrunedWarning,
                stacklevel=2,
            )


def _require_supported_decoder(decoder: Any, method: PruningMethod) -> None:
    kind = decoder.config.model_type
    if kind not in ("llama", "qwen2"):
        raise ValueError(f"pruning supports the text decoders llama and qwen2, got {kind}")
    layer_types = set(getattr(decoder.config, "layer_types", None) or ()) - {"full_attention"}
    if layer_types:
        raise ValueError(f"pruning supports full attention only, the model has {layer_types.pop()}")
    if method.layer is not None and method.layer >= len(decoder.layers):
        raise ValueError(
            f"layer must be less than the model's {len(decoder.layers)} decoder layers, "
            f"got {method.layer}"
        )


def _require_unpruned(decoder: nn.Module) -> None:
    for hook in decoder._forward_pre_hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, Engine) and owner.owns(decoder):
            raise ValueError("model is already pruned; remove the other handle first")
