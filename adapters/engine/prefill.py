"""A batch of prompts with videos on its way through the decoder, one step after the other:

1. :func:`begin`: read the padding, merge the videos, make mask and positions anew, hook the layers.
2. The decoder's own ``forward`` runs, untouched, on the shorter prompts.
3. ``_select``, at the end of the method's layer: choose; cut the hidden states; give the later
   layers their mask and rotary embeddings; cut what has been cached so far. For methods that
   rewrite each layer's cache: ``_compress``, at the end of each layer.
4. :func:`finish`: tell the cache what happened to it, and write the record.

What is merged, chosen and cut is the method's to say (:mod:`.method`). The hooks on layers live as
long as the prompt. Another thread may run the same modules, hooks included; they act for the prompt
of the running context alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache

from prunevid_kernels import compact

from .cache import (
    LateLayers,
    PrunedState,
    attach_state,
    gather_entries,
    replace_entries,
    with_cache,
)
from .calls import current_call
from .interface import PromptVisuals
from .layer_attention import LayerAttention
from .masks import Held, PromptPadding, layer_mask, read_padding
from .method import PruningMethod, Selections, keep_all
from .prompt import MergedBatch, VisualPlanes, merge_planes, merge_prompts, merged_positions
from .report import PruneCall, StageTimer, VideoRecord

Rotary: TypeAlias = tuple[Tensor, Tensor]  # cos and sin, [B or 1, L, D] each


@dataclass(frozen=True)
class PrunedModel:
    """What stays the same as long as a model is pruned.

    Attributes:
        method: what to do.
        decoder: the text decoder.
        renumbers: whether merged tokens get positions of their own, see
            :attr:`~.interface.ModelAdapter.positions`.
        position_axes: see :attr:`~.interface.ModelAdapter.position_axes`.
        planes: what the decoder adds to visual tokens after its first layers, if anything.
        late_layers: the layers that hold less than the first, where a method leaves such.
        group: see :class:`~.layer_attention.LayerAttention`.
        is_active: whether the model is still pruned.
    """

    method: PruningMethod
    decoder: Any
    renumbers: bool
    position_axes: int
    planes: VisualPlanes | None
    late_layers: Sequence[nn.Module]
    group: Any
    is_active: Callable[[], bool]


@dataclass(eq=False)
class Prefill:
    """How far the pruning of one decoder call has come.

    Attributes:
        model: the pruned model.
        cache: the call's key/value cache, None where the call uses none.
        visuals: what is not text in each prompt.
        fed: tokens of each prompt, padding included.
        padding: of the prompts and of what the cache held before.
        late_padding: the same for the layers after the selection.
        batch: the merged prompts.
        next_position: [B] the position of each prompt's first token; None where the caller's hold.
        early: what the layers up to the selection hold of the prompts.
        late: what those after it hold.
        selections: what was chosen; None before, and where nothing is.
        timer: seconds of each stage.
        hooks: takes the removals of the layers' hooks.
    """

    model: PrunedModel
    cache: Cache | None
    visuals: Sequence[PromptVisuals]
    fed: int
    padding: PromptPadding
    late_padding: PromptPadding
    batch: MergedBatch
    next_position: Tensor | None
    early: Held
    late: Held
    timer: StageTimer
    selections: Selections | None = None
    hooks: ExitStack = field(default_factory=ExitStack)


# ------------------------------------------------------------------------------ before the decoder


def begin(
    model: PrunedModel,
    visuals: Sequence[PromptVisuals],
    cache: Cache | None,
    kwargs: dict[str, Any],
) -> tuple[Prefill, dict[str, Any]]:
    """Merge the videos of a decoder call, and hook its layers for what comes later.

    Args:
        model: the pruned model.
        visuals: what is not text in each prompt of the batch.
        cache: the call's key/value cache, None where it uses none.
        kwargs: the decoder's arguments.

    Returns:
        The prefill, and the decoder's arguments for the merged prompts.
    """
    embeds, position_ids = kwargs["inputs_embeds"], kwargs.get("position_ids")
    batch_size, fed, _ = embeds.shape
    device = embeds.device
    padding, late_padding = read_padding(
        kwargs.get("attention_mask"), cache, batch=batch_size, length=fed
    )
    timer = StageTimer()
    with timer.measure("merge", device):
        batch, embeds = merge_prompts(model.method.merge, visuals, embeds, padding.first)
        planes = {} if model.planes is None else merge_planes(model.planes, kwargs, batch, visuals)
    held = padding.hold(batch.lengths, device)
    next_position = padding.next_position(position_ids, device) if model.renumbers else None
    prefill = Prefill(
        model=model,
        cache=cache,
        visuals=visuals,
        fed=fed,
        padding=padding,
        late_padding=late_padding,
        batch=batch,
        next_position=next_position,
        early=held,
        late=held,
        timer=timer,
    )
    _hook_layers(prefill)
    positions = merged_positions(
        batch,
        position_ids,
        fed=padding.fed,
        length=fed,
        first=padding.first,
        next_position=next_position,
        axes=model.position_axes,
        device=device,
    )
    merged = {
        **kwargs,
        **planes,
        "inputs_embeds": embeds,
        "attention_mask": held.kv_mask,
        "position_ids": positions,
    }
    return prefill, with_cache(merged, cache)


# ------------------------------------------------------------------------------ inside the decoder


def _hook_layers(prefill: Prefill) -> None:
    method = prefill.model.method
    if method.compresses_caches:
        for index in range(len(prefill.model.decoder.layers)):
            _observe(prefill, index, _compress)
    if method.layer is not None:
        _observe(prefill, method.layer, _select)


def _observe(
    prefill: Prefill,
    index: int,
    act: Callable[[Prefill, LayerAttention, Tensor, Rotary], Tensor],
) -> None:
    """Have ``act`` look at the attention of a layer at its end, and change what it hands on."""
    layer = prefill.model.decoder.layers[index]
    projections: dict[str, Tensor] = {}

    def catch(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if _is_running(prefill):
                projections[name] = output

        return hook

    def after(module: nn.Module, args: Any, *kwargs_and_output: Any) -> Any:
        # While torch puts it up or takes it down, another thread may call it without kwargs.
        if not _is_running(prefill):
            return None
        kwargs, hidden = kwargs_and_output
        if len(projections) < 2:
            raise RuntimeError(
                f"decoder layer {index} ran, but its projections did not call their hooks, so "
                "pruning could not see its attention (is the layer compiled?)"
            )
        assert prefill.cache is not None
        rotary = kwargs["position_embeddings"]
        attention = LayerAttention(
            layer.self_attn,
            **projections,
            position_embeddings=rotary,
            cache=prefill.cache,
            layer=index,
            past=prefill.padding.held,
            kv_mask=prefill.early.kv_mask,
            group=prefill.model.group,
        )
        projections.clear()
        return act(prefill, attention, hidden, rotary)

    for name, short in (("query", "q"), ("key", "k")):
        module = _last_before_rotation(layer.self_attn, short)
        prefill.hooks.callback(module.register_forward_hook(catch(name)).remove)
    prefill.hooks.callback(layer.register_forward_hook(after, with_kwargs=True).remove)


def _last_before_rotation(attention: Any, short: str) -> nn.Module:
    """What gives a layer's queries (``q``) or keys (``k``) as they are rotated: the norm of their
    heads where there is one, else the projection."""
    norm: nn.Module | None = getattr(attention, f"{short}_norm", None)
    return getattr(attention, f"{short}_proj") if norm is None else norm


def _is_running(prefill: Prefill) -> bool:
    """Whether the running context is the one that the prompt belongs to."""
    call = current_call.get()
    return call is not None and call.prefill is prefill


def _select(prefill: Prefill, attention: LayerAttention, hidden: Tensor, rotary: Rotary) -> Tensor:
    """Choose what to keep, and cut hidden states, caches and what the later layers get."""
    assert prefill.cache is not None
    model, device = prefill.model, hidden.device
    with prefill.timer.measure("score", device):
        prefill.selections = model.method.select(attention, prefill.batch)
    with prefill.timer.measure("gather", device):
        kept = [[selection.kept for selection in row] for row in prefill.selections]
        index, lengths = prefill.batch.kept_places(kept, device)  # [B, K]
        # Before the cut, while the later layers' caches tell how long the past is.
        held = prefill.late_padding.hold(lengths, device)
        hidden = compact([hidden], index, dim=1)[0]
        _hand_on(prefill, attention.layer + 1, hidden, index, held, rotary)
        prefill.late = held
        if not model.method.keeps_early_caches:
            past = prefill.padding.held
            earlier = torch.arange(past, device=device).expand(len(index), past)
            places = torch.cat((earlier, past + index), dim=1)
            gather_entries(prefill.cache, attention.layer + 1, places)
            prefill.early = held
    return hidden


def _hand_on(
    prefill: Prefill, later: int, hidden: Tensor, index: Tensor, held: Held, rotary: Rotary
) -> None:
    """Give the layers from ``later`` on the inputs of the kept places ``index`` [B, K]."""
    layers = prefill.model.decoder.layers[later:]
    if not len(layers):
        return
    embeddings = [part.expand(len(index), -1, -1) for part in rotary]
    inputs = {
        "attention_mask": layer_mask(
            prefill.model.decoder, hidden, held.kv_mask, prefill.cache, later
        ),
        "position_embeddings": tuple(compact(embeddings, index, dim=1)),
        # FlashAttention takes gaps in the positions for the borders of packed sequences.
        "position_ids": None,
    }

    def before(module: nn.Module, args: Any, kwargs: Any = None) -> Any:
        if not _is_running(prefill):  # kwargs may be missing, see _observe
            return None
        return args, {**kwargs, **inputs}

    for layer in layers:
        prefill.hooks.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)


def _compress(
    prefill: Prefill, attention: LayerAttention, hidden: Tensor, rotary: Rotary
) -> Tensor:
    """Rewrite what one layer has cached; the hidden states go on as they are."""
    assert prefill.cache is not None
    with prefill.timer.measure("score", hidden.device):
        entries = prefill.model.method.compress(attention, prefill.batch.prompts)
    with prefill.timer.measure("gather", hidden.device):
        lengths = [keys.shape[1] for keys, _ in entries]
        longest = max(lengths)
        keys, values = (
            torch.stack([F.pad(row, (0, 0, longest - row.shape[1], 0)) for row in rows])
            for rows in zip(*entries, strict=True)
        )
        replace_entries(prefill.cache, attention.layer, attention.past, keys, values)
        if attention.layer + 1 == len(prefill.model.decoder.layers):
            prefill.early = prefill.late = prefill.padding.hold(lengths, hidden.device)
    return hidden


# ------------------------------------------------------------------------------- after the decoder


def finish(prefill: Prefill) -> PruneCall:
    """Tell the cache what happened to it; the record of the call.

    Raises:
        ValueError: features that are not finite, where the merge left it to be found out here.
    """
    _require_finite(prefill.batch)
    if prefill.cache is not None:
        attach_state(prefill.cache, _state(prefill))
    return _record(prefill)


def _require_finite(batch: MergedBatch) -> None:
    """With a budget on a GPU the merge does not wait for its own check of the features. By now the
    whole prompt is on its way, and the caller is about to wait for it anyhow."""
    videos = [video for row in batch.videos for video in row]
    flags = [video.first_bad_frame for video in videos if video.first_bad_frame is not None]
    frames = torch.stack(flags).tolist() if flags else []
    for index, (frame, video) in enumerate(zip(frames, videos, strict=False)):
        if frame < video.layout.num_frames:
            raise ValueError(
                f"the tokens of a video must be finite: video {index}, frame {frame} holds a "
                "NaN or an infinity"
            )


def _state(prefill: Prefill) -> PrunedState:
    early, late, offset = prefill.early, prefill.late, None
    if prefill.next_position is not None:
        lengths = torch.tensor(prefill.batch.lengths).to(prefill.next_position.device)
        offset = prefill.next_position + lengths - early.total
    late_layers = None
    if prefill.model.late_layers:
        assert prefill.model.method.layer is not None
        first = prefill.model.method.layer + 1
        late_layers = LateLayers(first, late.total, late.kv_mask)
    return PrunedState(
        fed=prefill.padding.fed + prefill.fed,
        held=early.total,
        kv_mask=early.kv_mask,
        position_offset=offset,
        is_active=prefill.model.is_active,
        late=late_layers,
    )


def _record(prefill: Prefill) -> PruneCall:
    model, batch = prefill.model, prefill.batch
    selections = prefill.selections or [[keep_all(video) for video in row] for row in batch.videos]
    videos = [
        VideoRecord(
            prompt=row,
            span=(span.start, span.stop),
            layout=video.layout,
            scores=selection.scores,
            kept=selection.kept,
        )
        for row, of_prompt in enumerate(zip(prefill.visuals, batch.videos, selections, strict=True))
        for span, video, selection in zip(
            of_prompt[0].videos, of_prompt[1], of_prompt[2], strict=True
        )
    ]
    num_layers = len(model.decoder.layers)
    num_early = num_layers if model.method.layer is None else model.method.layer + 1
    cached = [
        (early,) * num_early + (late,) * (num_layers - num_early)
        for early, late in zip(prefill.early.lengths, prefill.late.lengths, strict=True)
    ]
    return PruneCall(
        kind="pruned",
        num_layers=num_layers,
        layer=model.method.layer,
        videos=tuple(videos),
        other_tokens=tuple(prompt.other_tokens for prompt in batch.prompts),
        image_tokens=tuple(
            sum(stop - start for start, stop in prompt.images) for prompt in prefill.visuals
        ),
        cached_tokens=() if prefill.cache is None else tuple(cached),
        method=model.method.name,
        timer=prefill.timer,
    )
