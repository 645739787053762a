"""Pruning inside an unmodified transformers model, by hooks.

Hooks sit on three kinds of modules, and this is the way of a prompt past them:

1. The *entries*, where a call begins, find out where the videos are (``_at_entry``).
2. The *text decoder* gets merged prompts instead of whole ones (``_before_decoder``), and, when it
   continues a pruned cache, the mask and positions that fit it (:mod:`.decoding`).
3. The *decoder layers* are hooked only while one such prompt runs (:mod:`.prefill`).
4. After the decoder, the call is written down (``_after_decoder``, ``_after_entry``).

What a sequence needs later lives on its cache (:mod:`.cache`), what a call needs on the way in a
context variable (:mod:`.calls`), so nothing is kept on modules and threads do not meet. A model may
be pruned and restored while other threads run it: hooks act once all are up; a prompt that began
pruned ends pruned, and the hooks go with the last of those.

Tried and rejected: subclassing the model (its ``forward`` would have to be copied for each family
and version); a loop of our own over the decoder's layers (loses ``output_hidden_states`` and
whatever else ``forward`` does); pruning between ``generate``'s steps (assisted decoding goes
wrong).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from .cache import cache_to_fill, given_cache, is_static, state_of
from .calls import (
    Announcement,
    Call,
    announced,
    bind_arguments,
    count_candidates,
    current_call,
    end_call,
    read_prompts,
    tokens_of,
)
from .decoding import continue_late_layer, continue_prompt, prompt_then_candidates
from .interface import ModelAdapter, PromptVisuals
from .layer_attention import tensor_parallel_group
from .method import PruningMethod
from .prefill import PrunedModel, begin, finish
from .prompt import require_visuals
from .report import NothingPrunedWarning, PruneCall, PruneReport
from .supported import (
    refuse_compiled_prompt,
    require_supported_decoder,
    require_uncompiled,
    transformers_model,
)

_pruning = threading.Lock()  # of two threads that prune one model, the second is refused


class Engine:
    """The hooks of one pruned model. Use :func:`prunevid_kernels.adapters.prune`.

    Args:
        model: the model to prune, inside a PEFT wrapper or not.
        adapter: where things live in it.
        method: what to do.

    Raises:
        ValueError: the model cannot be pruned so; the message says why.
    """

    def __init__(self, model: nn.Module, adapter: ModelAdapter, method: PruningMethod) -> None:
        require_uncompiled([model])
        inner = transformers_model(model)
        decoder: Any = adapter.decoder(inner)
        entries = list(adapter.entries(inner))
        require_supported_decoder(inner, decoder, adapter, method)
        require_uncompiled([*entries, *decoder.modules()])
        self._inner, self._adapter = inner, adapter
        # A wrapper's own forward may take anything; what it takes is what the model takes.
        self._forwards = {id(entry): entry.forward for entry in entries}
        if model is not inner:
            entries.insert(0, model)
            self._forwards[id(model)] = inner.forward
        self._entries = entries
        late = []
        if method.keeps_early_caches and method.layer is not None:
            late = list(decoder.layers[method.layer + 1 :])
        self._model = PrunedModel(
            method=method,
            decoder=decoder,
            renumbers=adapter.positions == "renumber",
            position_axes=adapter.position_axes,
            planes=adapter.planes(inner),
            late_layers=late,
            group=tensor_parallel_group(inner),
            is_active=self.is_active,
        )
        self.report = PruneReport()
        self._has_pruned = False
        self._has_refused = False  # a prompt with a video, with an error
        self._is_active = False
        self._running: set[Call] = set()
        self._lock = threading.RLock()
        self._hooks = ExitStack()
        with _pruning:
            if find_engine(decoder) is not None:
                raise ValueError("model is already pruned; remove the other handle first")
            with ExitStack() as undo:
                undo.callback(self._hooks.close)
                method.watch(inner, adapter, self._hooks)
                self._hook_modules()
                undo.pop_all()
            self._is_active = True

    def _hook_modules(self) -> None:
        for entry in self._entries:
            self._hook(entry, self._at_entry, self._after_entry)
        self._hook(self._model.decoder, self._before_decoder, self._after_decoder)
        for layer in self._model.late_layers:
            handle = layer.register_forward_pre_hook(self._before_late_layer, with_kwargs=True)
            self._hooks.callback(handle.remove)

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

    def prunes(self, module: nn.Module) -> bool:
        """Whether a module is the decoder of this engine's model, which is still pruned."""
        return self._is_active and module is self._model.decoder

    def remove(self) -> None:
        """Stop pruning, and unhook the model; again does nothing.

        Prompts that other threads are in the middle of end as they began, and the hooks, which do
        nothing else by then, go with the last of them.
        """
        with self._lock:
            self._is_active = False
        call = self._call()
        if call is not None:
            end_call(call)
        self._unhook_if_over()

    def forget(self, call: Call) -> None:
        """A call has ended."""
        with self._lock:
            self._running.discard(call)
        self._unhook_if_over()

    def _unhook_if_over(self) -> None:
        with self._lock:
            if not self._is_active and not self._running:
                self._hooks.close()

    def warn_if_idle(self) -> None:
        if not self._has_pruned and not self._has_refused and not self._running:
            warnings.warn(
                "the model was pruned, but no prompt with a video reached it: nothing was pruned",
                NothingPrunedWarning,
                stacklevel=3,
            )

    @contextmanager
    def announce(self, prompts: Sequence[PromptVisuals]) -> Iterator[None]:
        """See :meth:`prunevid_kernels.adapters.PruneHandle.videos`."""
        announcement = Announcement(self, require_visuals(prompts))
        token = announced.set(announcement)
        try:
            yield
        finally:
            announced.reset(token)
        if not announcement.is_used:
            raise RuntimeError(
                "videos were announced, but no prompt that needs it reached the model: one of "
                "inputs_embeds, or of a model that does not tell a video from images"
            )

    def _call(self) -> Call | None:
        """This model's call that is under way in this context."""
        call = current_call.get()
        return call if call is not None and call.engine is self else None

    # -------------------------------------------------------------------- 1. where the videos are

    def _at_entry(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any = None) -> None:
        # While torch puts the hook up or takes it down, it calls it without kwargs.
        if kwargs is None or id(module) not in self._forwards:
            return
        if torch.compiler.is_compiling():
            inputs = bind_arguments(self._forwards[id(module)], args, kwargs)
            if self._is_active and self._adapter.brings_visuals(inputs):
                refuse_compiled_prompt()
            return
        call = current_call.get()
        if call and call.engine is self and call.entry is not module and call.stage == "entered":
            return  # an inner entry of a call that has begun
        if call is not None:
            end_call(call)  # left over from one that was killed, by Ctrl-C for example
        if not self._is_active:
            return
        inputs = bind_arguments(self._forwards[id(module)], args, kwargs) if args else kwargs
        announcement = announced.get()
        if announcement is not None and announcement.engine is not self:
            announcement = None
        try:
            prompts = read_prompts(self._adapter, self._inner, inputs, announcement)
        except ValueError:
            self._has_refused = True
            raise
        if prompts is None:
            return
        has_videos = any(prompt.videos for prompt in prompts)
        if has_videos and inputs.get("labels") is not None:
            self._has_refused = True
            raise ValueError(
                "labels: the training loss of a pruned prompt is not defined, its tokens are fewer"
            )
        call = Call(self, module, prompts, count_candidates(inputs), has_videos)
        with self._lock:
            if self._is_active:
                self._running.add(call)
                current_call.set(call)

    # ------------------------------------------------------------------------- 2. into the decoder

    def _before_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Any = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if kwargs is None or module is not self._model.decoder:
            return None
        kwargs = bind_arguments(module.forward, args, kwargs) if args else kwargs
        call = None if torch.compiler.is_compiling() else self._call()
        if call is not None and call.stage != "done":
            if call.has_videos:
                return (), self._begin(call, kwargs)
            self._pass_through(call, kwargs)
        elif self._is_active and state_of(given_cache(kwargs)) is not None:
            return (), continue_prompt(self._model, kwargs)
        return (), kwargs

    def _begin(self, call: Call, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Start pruning the prompt of a decoder call."""
        method = self._model.method
        config = self._model.decoder.config
        cache = cache_to_fill(kwargs, config, is_cut=method.needs_cache)
        if cache is None and method.needs_cache:
            raise ValueError(
                "pruning inside the decoder needs a key/value cache: use_cache=False runs the "
                "whole sequence anew at each step, answer included; pass use_cache=True, or prune "
                "before the decoder only (select=False)"
            )
        if cache is not None and self._model.late_layers and is_static(cache):
            raise ValueError(
                f"{method.name} leaves layers with caches of two lengths, which a static cache "
                "cannot answer for; use a dynamic one"
            )
        embeds = kwargs["inputs_embeds"]
        method.read_prompts(call.prompts, embeds[:, : embeds.shape[1] - call.candidates])
        if call.candidates and method.needs_cache:
            return prompt_then_candidates(self._model, call, kwargs)
        call.prefill, inputs = begin(self._model, call.prompts, cache, kwargs)
        call.stage = "running"
        return inputs

    def _pass_through(self, call: Call, kwargs: Mapping[str, Any]) -> None:
        images = tuple(sum(stop - start for start, stop in each.images) for each in call.prompts)
        num_layers, length = len(self._model.decoder.layers), tokens_of(kwargs).shape[1]
        name = self._model.method.name
        self.report.calls.append(PruneCall.passed_through(name, num_layers, length, images))
        call.stage = "done"

    def _before_late_layer(
        self, module: nn.Module, args: Any, kwargs: Any = None
    ) -> tuple[Any, dict[str, Any]] | None:
        if kwargs is None or not self._is_active or module not in self._model.late_layers:
            return None
        inputs = continue_late_layer(kwargs)
        return None if inputs is None else (args, inputs)

    # ------------------------------------------------------------------------ 4. out of the model

    def _after_decoder(self, module: nn.Module, args: Any, *kwargs_and_output: Any) -> Any:
        if torch.compiler.is_compiling() or module is not self._model.decoder:
            return None
        call, output = self._call(), kwargs_and_output[-1]
        if call is None or output is None:  # output is None when forward raised
            return None
        if call.prefill is not None and call.stage == "running":
            call.prefill.hooks.close()
            self._write_down(finish(call.prefill))
            call.stage = "done"
        elif call.last_hidden is not None:
            hidden = torch.cat((call.last_hidden, output.last_hidden_state), dim=1)
            output.last_hidden_state, call.last_hidden = hidden, None
            return output
        return None

    def _write_down(self, record: PruneCall) -> None:
        self.report.calls.append(record)
        self._has_pruned = True
        if self._model.method.prunes and not record.has_pruned:
            warnings.warn(
                f"nothing was pruned: all {record.tokens_before} visual tokens of a prompt were "
                f"kept, with {self._model.method}",
                NothingPrunedWarning,
                stacklevel=2,
            )

    def _after_entry(self, module: nn.Module, args: Any, *kwargs_and_output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        call, output = self._call(), kwargs_and_output[-1]
        if call is None or call.entry is not module:
            return
        end_call(call)
        # output is None when forward raised
        self._has_refused |= output is None and call.has_videos
        if output is not None and call.has_videos and call.stage != "done":
            raise RuntimeError(
                "a prompt with videos ran, but its text decoder was never called in a way that "
                "could be pruned (is it compiled?)"
            )


def find_engine(model: nn.Module) -> Engine | None:
    """The engine that prunes a model, or the decoder or wrapper of one."""
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):
            engine = getattr(hook, "__self__", None)
            if isinstance(engine, Engine) and engine.prunes(module):
                return engine
    return None


def unprune(model: nn.Module) -> bool:
    """Restore a model whose handle was lost, as one is in a notebook.

    Args:
        model: pruned or not, in a wrapper or not.

    Returns:
        Whether it was pruned.
    """
    engine = find_engine(model)
    if engine is not None:
        engine.remove()
    return engine is not None
