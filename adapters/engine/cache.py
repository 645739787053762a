"""What a pruned key/value cache has to remember, and how it answers for it.

The caller (``generate``, a chat loop) goes on counting the tokens it has fed; the cache holds
fewer. So a pruned cache gives two answers: ``get_seq_length()`` is the caller's count, by which
``generate`` slices its inputs, ``get_query_offset()`` is the number of entries held, by which masks
are built. The state lives on the cache object and nowhere else, so a cache can be copied, reordered
by beam search, cropped by assisted decoding, or continued much later. The cache keeps its identity:
its class is swapped for a subclass of itself, and swapped back by ``reset()``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache as memoize
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    LinearAttentionLayer,
    StaticLayer,
)
from transformers.masking_utils import create_causal_mask

from prunevid_kernels import compact

_NAMES = ("cache", "past_key_values")
# Since transformers 5.24 the first. It renames what comes by the second at each model's door, where
# hooks come before it, so that what a call brings is looked for under both.
CACHE = next(name for name in _NAMES if name in signature(create_causal_mask).parameters)


@dataclass(frozen=True)
class LateLayers:
    """The layers after a selection, where the earlier ones have kept everything they had cached.

    Attributes:
        first: index of the first of them.
        held: entries of each.
        kv_mask: [B, held] bool, False for padding; None if there is none.
    """

    first: int
    held: int
    kv_mask: Tensor | None


@dataclass(frozen=True)
class PrunedState:
    """A cache at the moment its prompt was pruned; all that came later follows from the cache's
    length.

    Attributes:
        fed: tokens that the caller had fed, padding included.
        held: entries of each layer, save for the late ones.
        kv_mask: [B, held] bool, False for padding; None if there is none. A static cache, whose
            length no graph may read, has it at full capacity, True after ``held``.
        position_offset: [B] int64: the position of a token, less its place in the cache; None where
            the caller's own positions hold.
        is_active: whether the model that the cache belongs to is still pruned.
        late: the layers that hold fewer entries than the first; None if all hold the same.
    """

    fed: int
    held: int
    kv_mask: Tensor | None
    position_offset: Tensor | None
    is_active: Callable[[], bool]
    late: LateLayers | None = None

    def of_late_layers(self) -> PrunedState:
        """The state as it looks from the late layers, which there are."""
        assert self.late is not None
        return replace(self, held=self.late.held, kv_mask=self.late.kv_mask)

    def select_rows(self, index: Tensor) -> PrunedState:
        """The state of a batch with these rows of it."""

        def rows(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.index_select(0, index.to(tensor.device))

        late = self.late and replace(self.late, kv_mask=rows(self.late.kv_mask))
        return replace(
            self,
            kv_mask=rows(self.kv_mask),
            position_offset=rows(self.position_offset),
            late=late,
        )


class PrunedCache:
    """Mixed in before the class of a cache, see :func:`attach_state`.

    Attributes:
        pruned_state: what happened.
        late_mask: the attention mask of the late layers in the call under way.
    """

    pruned_state: PrunedState
    late_mask: Any = None

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.pruned_state.is_active():
            raise RuntimeError(
                "this key/value cache was pruned, but its model no longer is, so that tokens would "
                "get wrong positions; continue it while the model is pruned"
            )
        return super().update(*args, **kwargs)  # type: ignore[misc]

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        held = super().get_seq_length(layer_idx)  # type: ignore[misc]
        return held + (self.pruned_state.fed - self.pruned_state.held)

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        return super().get_seq_length(layer_idx)  # type: ignore[misc]

    def crop(self, tokens_to_remove: int) -> None:
        since_pruning = int(self.get_query_offset()) - self.pruned_state.held
        if tokens_to_remove > 0 or -tokens_to_remove > since_pruning:
            raise ValueError(
                f"a pruned cache can be cropped by at most the {since_pruning} tokens fed since "
                f"its prompt, given as a negative number, got {tokens_to_remove}"
            )
        super().crop(tokens_to_remove)  # type: ignore[misc]

    def reset(self) -> None:
        super().reset()  # type: ignore[misc]
        detach_state(self)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self.pruned_state = self.pruned_state.select_rows(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        keys = _first_layer(self).keys
        rows = torch.arange(keys.shape[0] // repeats).repeat_interleave(repeats)
        self.pruned_state = self.pruned_state.select_rows(rows)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)  # type: ignore[misc]
        self.pruned_state = self.pruned_state.select_rows(indices)


@memoize
def _pruned_class(base: type) -> type:
    return type(f"Pruned{base.__name__}", (PrunedCache, base), {})


# Layers of this type keep a state of fixed size in place of keys and values.
RECURRENT = "linear_attention"


def _first_layer(cache: Any) -> Any:
    """The first layer that keeps keys and values; None where there is none."""
    kept = (layer for layer in cache.layers if not isinstance(layer, LinearAttentionLayer))
    return next(kept, None)


def state_of(cache: Cache | None) -> PrunedState | None:
    """The state of a pruned cache, None for any other."""
    return cache.pruned_state if isinstance(cache, PrunedCache) else None


def attach_state(cache: Cache, state: PrunedState) -> None:
    """Make ``cache`` answer for its pruned prompt."""
    if is_static(cache) and state.kv_mask is not None:
        free = _first_layer(cache).get_max_length() - state.held
        padded = torch.nn.functional.pad(state.kv_mask, (0, free), value=True)
        state = replace(state, kv_mask=padded)
    if not isinstance(cache, PrunedCache):
        cache.__class__ = _pruned_class(type(cache))  # type: ignore[arg-type]
    cache.pruned_state = state


def detach_state(cache: Any) -> None:
    """Make ``cache``, emptied, what it was before :func:`attach_state`."""
    del cache.pruned_state
    vars(cache).pop("late_mask", None)
    cache.__class__ = type(cache).__mro__[2]


def is_static(cache: Cache) -> bool:
    return isinstance(_first_layer(cache), StaticLayer)


def _require_supported(cache: Cache, *, is_cut: bool) -> None:
    """Refuse the caches whose entries cannot be gathered.

    Args:
        cache: of a call.
        is_cut: whether entries will be taken out; if not, layers may be without any.

    Raises:
        ValueError: names the kind of the cache or of its layer.
    """
    if getattr(cache, "offloading", False):
        raise ValueError("pruning does not support offloaded key/value caches")
    known = {DynamicLayer, StaticLayer, *([] if is_cut else [LinearAttentionLayer])}
    kinds = {type(layer) for layer in cache.layers} - known
    if kinds:
        raise ValueError(
            "pruning supports caches of DynamicLayer or StaticLayer (full attention, not "
            f"quantized, no sliding window, no linear attention), got {kinds.pop().__name__}"
        )


def given_cache(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a call, under either name; None: no cache.

    Raises:
        ValueError: one under each name.
    """
    given = [arguments[name] for name in _NAMES if arguments.get(name) is not None]
    if len(given) > 1:
        raise ValueError("cache and past_key_values are one argument: give one of them")
    return given[0] if given else None


def with_cache(arguments: Mapping[str, Any], cache: Any) -> dict[str, Any]:
    """The arguments of a call with this cache, under the one name that is not out of date."""
    others = {name: value for name, value in arguments.items() if name not in _NAMES}
    return {**others, CACHE: cache}


def cache_of(output: Any) -> Any:
    """The cache that a model or ``generate`` hands back with its output; None: no cache."""
    return getattr(output, CACHE)


def cache_to_fill(kwargs: Mapping[str, Any], config: Any, *, is_cut: bool) -> Cache | None:
    """The cache that a decoder will fill; made here if the decoder would make it.

    Args:
        kwargs: the decoder's arguments.
        config: of the decoder.
        is_cut: whether the method takes entries out of it.

    Raises:
        ValueError: a cache of a kind that cannot be pruned.
    """
    cache, use_cache = given_cache(kwargs), kwargs.get("use_cache")
    if cache is None and (config.use_cache if use_cache is None else use_cache):
        cache = DynamicCache(config=config)
    if cache is not None:
        _require_supported(cache, is_cut=is_cut)
    return cache


def gather_entries(cache: Cache, num_layers: int, index: Tensor) -> None:
    """Cut the entries of the first layers, keys and values of all of them in one launch for each
    device.

    Args:
        cache: of a call.
        num_layers: how many layers.
        index: [B, K] the entries to keep.
    """
    by_device: dict[torch.device, list[Any]] = {}
    for layer in cache.layers[:num_layers]:
        by_device.setdefault(layer.keys.device, []).append(layer)
    for device, layers in by_device.items():
        tensors = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        gathered = compact(tensors, index.to(device), dim=2)
        for layer, keys, values in zip(layers, gathered[::2], gathered[1::2], strict=True):
            _store(layer, keys, values)


def replace_entries(cache: Cache, layer: int, past: int, keys: Tensor, values: Tensor) -> None:
    """Let one layer hold other entries after its first ones.

    Args:
        cache: of a call.
        layer: index of the layer.
        past: the entries that stay as they are.
        keys: [B, Hkv, K, D] instead of the keys that it has after those.
        values: [B, Hkv, K, D].
    """
    held: Any = cache.layers[layer]
    _store(
        held,
        torch.cat((held.keys[:, :, :past], keys), dim=2),
        torch.cat((held.values[:, :, :past], values), dim=2),
    )


def _store(layer: Any, keys: Tensor, values: Tensor) -> None:
    if not isinstance(layer, StaticLayer):
        layer.keys, layer.values = keys, values
        return
    kept = keys.shape[2]
    for buffer, entries in ((layer.keys, keys), (layer.values, values)):
        buffer[:, :, :kept] = entries  # in place: compiled graphs hold the address
        buffer[:, :, kept:] = 0
    layer.cumulative_length.fill_(kept)
