"""One prompt with videos on its way through the decoder: merge, layer-M selection, cache rewrite.

The decoder's own ``forward`` runs, untouched. Before it, the videos' tokens among ``inputs_embeds``
are merged and mask and positions made anew for the shorter prompt. While it runs, hooks that live
only as long select at layer M, cut what has been cached so far, and hand the later layers the mask
and rotary embeddings of the kept tokens. After it, the cache is told what happened to it. What is
merged, selected and cut is the method's to say (:mod:`.method`).

Rows of a batch shrink by different amounts, so they are padded on the left, anew after each stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache

from prunevid_kernels import MergedVideo, compact

from .cache import LateLayers, PrunedState, attach_state, gather_entries, replace_entries
from .interface import PromptVisuals
from .masks import PromptPadding, layer_mask
from .method import PruningMethod, VideoSelection
from .prompt import MergedPrompt, split_prompt
from .report import PruneCall, StageTimer, VideoRecord
from .scoring import LayerAttention, ProjectionTap


class Prefill:
    """The pruning of one decoder call.

    Args:
        method: what to do.
        positions: see :class:`ModelAdapter`.
        decoder: the text decoder.
        prompts: what is not text in each prompt of the batch.
        cache: the call's key/value cache, None where the call uses none.
        group: see :class:`~.scoring.LayerAttention`.
        is_current: whether the running context is the one this call belongs to. Another thread may
            run the same modules, hooks included.
        is_active: goes into the cache's state.
    """

    def __init__(
        self,
        method: PruningMethod,
        positions: str,
        decoder: nn.Module,
        prompts: Sequence[PromptVisuals],
        cache: Cache | None,
        *,
        group: Any,
        is_current: Callable[[], bool],
        is_active: Callable[[], bool],
    ) -> None:
        self._method = method
        self._renumbers = positions == "renumber"
        self._decoder: Any = decoder
        self._visuals = list(prompts)
        self._cache = cache
        self._group = group
        self._is_current = is_current
        self._is_active = is_active
        self._hooks = ExitStack()
        self._timer = StageTimer()
        self._late_kwargs: dict[str, Any] = {}
        self._late: LateLayers | None = None
        self._selections: list[list[VideoSelection]] = []
        self._lengths: list[list[int]] = []  # entries of each prompt, for each layer

    # ---------------------------------------------------------------------------------- before

    def begin(
        self,
        embeds: Tensor,
        padding: PromptPadding,
        late_padding: PromptPadding,
        position_ids: Tensor | None,
    ) -> dict[str, Tensor | None]:
        """Merge, and hook the layers for the selection.

        Args:
            embeds: [B, S, C] the prompts, visual features in place.
            padding: of ``embeds`` and of what the cache holds already.
            late_padding: the same for the layers behind the selection.
            position_ids: the caller's, [B or 1, S] with any leading dimensions.

        Returns:
            The decoder's new ``inputs_embeds``, ``attention_mask`` and ``position_ids``.
        """
        self._fed = embeds.shape[1]
        self._padding, self._late_padding = padding, late_padding
        pieces = [
            split_prompt(visuals, first, self._fed)
            for visuals, first in zip(self._visuals, padding.first, strict=True)
        ]
        with self._timer.measure("merge", embeds.device):
            self._merged = self._merge(embeds)
            self._prompts = [
                MergedPrompt.build(row, [len(video.tokens) for video in videos])
                for row, videos in zip(pieces, self._merged, strict=True)
            ]
            embeds = self._assemble(embeds)
        self._held = embeds.shape[1]
        lengths = [prompt.length for prompt in self._prompts]
        self._kv_mask = padding.mask(lengths, embeds.device)
        self._lengths = [lengths] * len(self._decoder.layers)
        if self._renumbers:
            self._next_position = padding.next_position(position_ids, embeds.device)
        self._hook_layers()
        return {
            "inputs_embeds": embeds,
            "attention_mask": self._kv_mask,
            "position_ids": self._positions(position_ids, embeds.device),
        }

    def _merge(self, embeds: Tensor) -> list[list[MergedVideo]]:
        """The merged videos of each prompt; those with equally many tokens a frame in one call."""
        merged: list[list[Any]] = [[None] * len(prompt.videos) for prompt in self._visuals]
        by_width: dict[int, list[tuple[int, int]]] = {}
        for row, prompt in enumerate(self._visuals):
            for index, span in enumerate(prompt.videos):
                by_width.setdefault(span.tokens_per_frame, []).append((row, index))
        for width, places in by_width.items():
            spans = [self._visuals[row].videos[index] for row, index in places]
            features = [
                embeds[row, span.start : span.stop].unflatten(0, (span.num_frames, width))
                for (row, _), span in zip(places, spans, strict=True)
            ]
            videos = self._method.merge(
                torch.cat(features) if len(features) > 1 else features[0],
                [span.num_frames for span in spans],
            )
            for (row, index), video in zip(places, videos, strict=True):
                merged[row][index] = video
        return merged

    def _assemble(self, embeds: Tensor) -> Tensor:
        """The merged prompts [B, L, C], padded on the left."""
        longest = max(prompt.length for prompt in self._prompts)
        rows = []
        for row, prompt in enumerate(self._prompts):
            parts = [
                self._merged[row][piece.video].tokens
                if piece.kind == "video"
                else embeds[row, piece.start : piece.stop]
                for piece in prompt.pieces
            ]
            rows.append(F.pad(torch.cat(parts), (0, 0, longest - prompt.length, 0)))
        return torch.stack(rows)

    def _positions(self, position_ids: Tensor | None, device: torch.device) -> Tensor:
        """[B, L] (with any leading dimensions of ``position_ids``); 0 for padding."""
        if self._renumbers:
            rows = [
                F.pad(torch.arange(prompt.length, device=device), (self._held - prompt.length, 0))
                for prompt in self._prompts
            ]
            positions = torch.stack(rows) + self._next_position[:, None]
            return (
                positions if self._kv_mask is None else positions * self._kv_mask[:, -self._held :]
            )
        if position_ids is None:
            position_ids = torch.arange(self._fed, device=device)[None] + self._padding.fed
        sources = torch.stack(
            [
                F.pad(self._sources(row, device), (self._held - prompt.length, 0))
                for row, prompt in enumerate(self._prompts)
            ]
        )
        position_ids = position_ids.expand(*position_ids.shape[:-2], len(sources), self._fed)
        return position_ids.gather(-1, sources.expand(*position_ids.shape[:-1], self._held))

    def _sources(self, row: int, device: torch.device) -> Tensor:
        """[L] the caller's place of each merged token; of a merged one, its first source's."""
        return torch.cat(
            [
                piece.start + self._merged[row][piece.video].layout.merged_anchor
                if piece.kind == "video"
                else torch.arange(piece.start, piece.stop, device=device)
                for piece in self._prompts[row].pieces
            ]
        )

    # ---------------------------------------------------------------------------------- inside

    def _hook_layers(self) -> None:
        layers, selecting = self._decoder.layers, self._method.layer
        if self._method.compresses_caches:
            for index in range(len(layers)):
                self._observe(index, self._compress)
        if selecting is None:
            return
        self._observe(selecting, self._select)
        for layer in layers[selecting + 1 :]:
            self._hooks.callback(
                layer.register_forward_pre_hook(self._before_later, with_kwargs=True).remove
            )

    def _observe(
        self, index: int, act: Callable[[LayerAttention, Tensor, tuple[Tensor, Tensor]], Any]
    ) -> None:
        """Have ``act`` look at the attention of a layer at its end, and change what it hands on."""
        layer = self._decoder.layers[index]
        tap = ProjectionTap(layer.self_attn, self._is_current)

        def after(module: nn.Module, args: Any, *kwargs_and_output: Any) -> Any:
            # While torch puts it up or takes it down, another thread may call it without kwargs.
            if not self._is_current():
                return None
            kwargs, hidden = kwargs_and_output
            assert self._cache is not None
            rotary = kwargs["position_embeddings"]
            attention = LayerAttention(
                tap,
                layer.self_attn,
                position_embeddings=rotary,
                cache=self._cache,
                layer=index,
                past=self._padding.held,
                kv_mask=self._kv_mask,
                group=self._group,
            )
            hidden = act(attention, hidden, rotary)
            tap.release()
            return hidden

        tap.hook(self._hooks)
        self._hooks.callback(layer.register_forward_hook(after, with_kwargs=True).remove)

    def _select(
        self, attention: LayerAttention, hidden: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Select, and cut hidden states, caches and rotary embeddings."""
        assert self._cache is not None
        with self._timer.measure("score", hidden.device):
            self._selections = self._method.select(attention, self._prompts, self._merged)
        with self._timer.measure("gather", hidden.device):
            index, lengths = self._kept_index(hidden.device)  # [B, K]
            # Before the cut, while the later layers' caches tell how long the past is.
            mask = self._late_padding.mask(lengths, hidden.device)
            hidden = compact([hidden], index, dim=1)[0]
            later = attention.layer + 1
            if later < len(self._decoder.layers):
                self._late_kwargs = self._later_inputs(hidden, index, mask, rotary)
            if self._method.keeps_early_caches:
                held = self._late_padding.held + index.shape[1]
                self._late = LateLayers(later, held, mask)
                self._lengths[later:] = [lengths] * len(self._lengths[later:])
            else:
                past = self._padding.held
                earlier = torch.arange(past, device=index.device).expand(len(index), past)
                gather_entries(self._cache, later, torch.cat((earlier, past + index), dim=1))
                self._shorten(lengths, mask)
        return hidden

    def _compress(
        self, attention: LayerAttention, hidden: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Rewrite what one layer has cached; the hidden states go on as they are."""
        assert self._cache is not None
        with self._timer.measure("score", hidden.device):
            entries = self._method.compress(attention, self._prompts)
        with self._timer.measure("gather", hidden.device):
            lengths = [keys.shape[1] for keys, _ in entries]
            longest = max(lengths)
            keys, values = (
                torch.stack([F.pad(row, (0, 0, longest - row.shape[1], 0)) for row in rows])
                for rows in zip(*entries, strict=True)
            )
            replace_entries(self._cache, attention.layer, attention.past, keys, values)
            if attention.layer + 1 == len(self._decoder.layers):
                self._shorten(lengths, self._padding.mask(lengths, hidden.device))
        return hidden

    def _shorten(self, lengths: list[int], mask: Tensor | None) -> None:
        """All layers' caches have been cut to prompts of these lengths."""
        self._held, self._kv_mask = max(lengths), mask
        self._lengths = [lengths] * len(self._lengths)

    def _kept_index(self, device: torch.device) -> tuple[Tensor, list[int]]:
        """[B, K] the merged places to keep, padded on the left with 0, and how many a row has."""
        rows = []
        for row, prompt in enumerate(self._prompts):
            shift = self._held - prompt.length
            parts = []
            for piece, start in zip(prompt.pieces, prompt.starts, strict=True):
                if piece.kind == "video":
                    parts.append(self._selections[row][piece.video].kept + (shift + start))
                else:
                    stop = start + piece.stop - piece.start
                    parts.append(torch.arange(shift + start, shift + stop, device=device))
            rows.append(torch.cat(parts))
        lengths = [len(row) for row in rows]
        longest = max(lengths)
        return torch.stack([F.pad(row, (longest - len(row), 0)) for row in rows]), lengths

    def _later_inputs(
        self, hidden: Tensor, index: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor]
    ) -> dict[str, Any]:
        """What the layers behind the selection get instead of the decoder's."""
        assert self._method.layer is not None
        embeddings = [part.expand(len(index), -1, -1) for part in rotary]
        return {
            "attention_mask": layer_mask(
                self._decoder, hidden, mask, self._cache, self._method.layer + 1
            ),
            "position_embeddings": tuple(compact(embeddings, index, dim=1)),
            # FlashAttention takes gaps in the positions for the borders of packed sequences.
            "position_ids": None,
        }

    def _before_later(
        self, module: nn.Module, args: Any, kwargs: Any = None
    ) -> tuple[Any, dict[str, Any]] | None:
        if not self._is_current():  # kwargs may be missing, see _observe
            return None
        return args, {**kwargs, **self._late_kwargs}

    # ---------------------------------------------------------------------------------- after

    def end(self) -> PruneCall:
        """Tell the cache what happened to it; what happened, for the report.

        Raises:
            ValueError: features that are not finite, where the merge left it to be found out here.
        """
        self._require_finite()
        if self._cache is not None:
            attach_state(self._cache, self._state())
        return self._record()

    def close(self) -> None:
        """Unhook the layers; safe to call at any time, and again."""
        self._hooks.close()

    def _require_finite(self) -> None:
        """With a budget on a GPU the merge does not wait for its own check of the features. By now
        the whole prompt is on its way, and the caller is about to wait for it anyhow."""
        videos = [video for row in self._merged for video in row]
        flags = [video.first_bad_frame for video in videos if video.first_bad_frame is not None]
        frames = torch.stack(flags).tolist() if flags else []
        for index, (frame, video) in enumerate(zip(frames, videos, strict=False)):
            if frame < video.layout.num_frames:
                raise ValueError(
                    f"the tokens of a video must be finite: video {index}, frame {frame} holds a "
                    "NaN or an infinity"
                )

    def _state(self) -> PrunedState:
        fed, held = self._padding.fed + self._fed, self._padding.held + self._held
        offset = None
        if self._renumbers:
            lengths = torch.tensor([prompt.length for prompt in self._prompts])
            offset = self._next_position + lengths.to(self._next_position.device) - held
        return PrunedState(
            fed=fed,
            held=held,
            kv_mask=self._kv_mask,
            position_offset=offset,
            is_active=self._is_active,
            late=self._late,
        )

    def _record(self) -> PruneCall:
        videos = []
        for row, (visuals, merged) in enumerate(zip(self._visuals, self._merged, strict=True)):
            for index, (span, video) in enumerate(zip(visuals.videos, merged, strict=True)):
                everything = torch.arange(len(video.tokens), device=video.tokens.device)
                scores, kept = (
                    self._selections[row][index] if self._selections else (None, everything)
                )
                videos.append(
                    VideoRecord(
                        prompt=row,
                        span=(span.start, span.stop),
                        layout=video.layout,
                        scores=scores,
                        kept=kept,
                    )
                )
        return PruneCall(
            kind="pruned",
            num_layers=len(self._decoder.layers),
            layer=self._method.layer,
            videos=tuple(videos),
            other_tokens=tuple(prompt.other_tokens for prompt in self._prompts),
            image_tokens=tuple(
                sum(stop - start for start, stop in visuals.images) for visuals in self._visuals
            ),
            cached_tokens=() if self._cache is None else tuple(zip(*self._lengths, strict=True)),
            method=self._method.name,
            timer=self._timer,
        )
