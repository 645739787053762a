"""One prompt with videos on its way through the decoder: merge, layer-M selection, cache rewrite.

The decoder's own ``forward`` runs, untouched. Before it, the videos' tokens among ``inputs_embeds``
are merged and mask and positions made anew for the shorter prompt. While it runs, hooks that live
only as long select at layer M, cut what has been cached so far, and hand the later layers the mask
and rotary embeddings of the kept tokens. After it, the cache is told what happened to it.

Rows of a batch shrink by different amounts, so they are padded on the left, anew after each stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

from prunevid_kernels import (
    MergedVideo,
    PruneVidConfig,
    compact,
    merge_videos,
    select_tokens,
)

from .cache import PrunedState, attach_state, gather_entries
from .interface import PromptVisuals
from .masks import PromptPadding
from .prompt import MergedPrompt, Piece, split_prompt
from .report import PruneCall, StageTimer, VideoRecord
from .scoring import ProjectionTap, PromptScorer


class Prefill:
    """The pruning of one decoder call.

    Args:
        config: what to do.
        positions: see :class:`ModelAdapter`.
        decoder: the text decoder.
        prompts: what is not text in each prompt of the batch.
        cache: the call's key/value cache, None where the call uses none.
        group: see :class:`~.scoring.PromptScorer`.
        is_current: whether the running context is the one this call belongs to. Another thread may
            run the same modules, hooks included.
        is_active: goes into the cache's state.
    """

    def __init__(
        self,
        config: PruneVidConfig,
        positions: str,
        decoder: nn.Module,
        prompts: Sequence[PromptVisuals],
        cache: Cache | None,
        *,
        group: Any,
        is_current: Callable[[], bool],
        is_active: Callable[[], bool],
    ) -> None:
        self._config = config
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
        self._scores: list[list[Tensor]] = []
        self._kept: list[list[Tensor]] = []

    # ---------------------------------------------------------------------------------- before

    def begin(
        self, embeds: Tensor, padding: PromptPadding, position_ids: Tensor | None
    ) -> dict[str, Tensor | None]:
        """Merge, and hook the layers for the selection.

        Args:
            embeds: [B, S, C] the prompts, visual features in place.
            padding: of ``embeds`` and of what the cache holds already.
            position_ids: the caller's, [B or 1, S] with any leading dimensions.

        Returns:
            The decoder's new ``inputs_embeds``, ``attention_mask`` and ``position_ids``.
        """
        self._fed = embeds.shape[1]
        self._padding = padding
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
        self._kv_mask = self._mask([prompt.length for prompt in self._prompts], embeds.device)
        if self._renumbers:
            self._next_position = padding.next_position(position_ids, embeds.device)
        if self._config.select:
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
            videos = merge_videos(
                torch.cat(features) if len(features) > 1 else features[0],
                [span.num_frames for span in spans],
                self._config,
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
            return positions if self._kv_mask is None else positions * self._block_mask()
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

    def _block_mask(self) -> Tensor:
        assert self._kv_mask is not None
        return self._kv_mask[:, -self._held :]

    def _sources(self, row: int, device: torch.device) -> Tensor:
        """[L] the caller's place of each merged token; of a merged one, its first source's."""
        parts = []
        for piece in self._prompts[row].pieces:
            if piece.kind == "video":
                parts.append(piece.start + self._merged[row][piece.video].layout.merged_anchor)
            else:
                parts.append(torch.arange(piece.start, piece.stop, device=device))
        return torch.cat(parts)

    def _mask(self, lengths: Sequence[int], device: torch.device) -> Tensor | None:
        """[B, past + longest] bool for prompts of these lengths; None if nothing is padding."""
        longest = max(lengths)
        past = self._padding.past_mask
        if past is None and min(lengths) == longest and not self._padding.needs_mask:
            return None
        places = torch.arange(longest, device=device)
        block = (
            places >= torch.tensor([longest - length for length in lengths], device=device)[:, None]
        )
        if past is None:
            past = block.new_ones(len(lengths), self._padding.held)
        return torch.cat((past, block), dim=1)

    # ---------------------------------------------------------------------------------- at layer M

    def _hook_layers(self) -> None:
        layers = self._decoder.layers
        selecting = layers[self._config.layer]
        self._tap = ProjectionTap(selecting.self_attn, self._is_current)
        self._tap.hook(self._hooks)
        self._hooks.callback(
            selecting.register_forward_hook(self._after_selecting, with_kwargs=True).remove
        )
        for layer in layers[self._config.layer + 1 :]:
            self._hooks.callback(
                layer.register_forward_pre_hook(self._before_later, with_kwargs=True).remove
            )

    def _after_selecting(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any], hidden: Tensor
    ) -> Tensor | None:
        """Score, select, and cut hidden states, caches and rotary embeddings."""
        if not self._is_current():
            return None
        assert self._cache is not None
        with self._timer.measure("score", hidden.device):
            self._select(module, kwargs["position_embeddings"])
        with self._timer.measure("gather", hidden.device):
            index, lengths = self._kept_index(hidden.device)  # [B, K]
            past = self._padding.held
            earlier = torch.arange(past, device=index.device).expand(len(index), past)
            # Before the cut, while the later layers' caches tell how long the past is.
            self._kv_mask = self._mask(lengths, hidden.device)
            hidden = compact([hidden], index, dim=1)[0]
            if self._config.layer + 1 < len(self._decoder.layers):
                self._late_kwargs = self._later_inputs(hidden, index, kwargs)
            entries = torch.cat((earlier, past + index), dim=1)
            gather_entries(self._cache, self._config.layer + 1, entries)
        self._held = index.shape[1]
        self._tap.release()
        return hidden

    def _select(self, layer: Any, position_embeddings: tuple[Tensor, Tensor]) -> None:
        assert self._cache is not None
        scorer = PromptScorer(
            self._tap,
            layer.self_attn,
            self._config.score,
            position_embeddings=position_embeddings,
            cache=self._cache,
            layer=self._config.layer,
            past=self._padding.held,
            kv_mask=self._kv_mask,
            group=self._group,
        )
        for row, (prompt, videos) in enumerate(zip(self._prompts, self._merged, strict=True)):
            scores = [
                scorer.score(row, prompt, index, len(video.tokens))
                for index, video in enumerate(videos)
            ]
            self._scores.append(scores)
            self._kept.append(
                [
                    select_tokens(score, video.layout, self._config)
                    for score, video in zip(scores, videos, strict=True)
                ]
            )

    def _kept_index(self, device: torch.device) -> tuple[Tensor, list[int]]:
        """[B, K] the merged places to keep, padded on the left with 0, and how many a row has."""
        rows = []
        for row, prompt in enumerate(self._prompts):
            shift = self._held - prompt.length
            parts = []
            for piece, start in zip(prompt.pieces, prompt.starts, strict=True):
                if piece.kind == "video":
                    parts.append(self._kept[row][piece.video] + (shift + start))
                else:
                    stop = start + piece.stop - piece.start
                    parts.append(torch.arange(shift + start, shift + stop, device=device))
            rows.append(torch.cat(parts))
        lengths = [len(row) for row in rows]
        longest = max(lengths)
        return torch.stack([F.pad(row, (longest - len(row), 0)) for row in rows]), lengths

    def _later_inputs(
        self, hidden: Tensor, index: Tensor, kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the layers behind the selection get instead of the decoder's."""
        mask = create_causal_mask(
            config=self._decoder.config,
            inputs_embeds=hidden,
            attention_mask=self._kv_mask,
            past_key_values=self._cache,
            # Given positions, it would look for packed sequences in them.
            position_ids=None,
            layer_idx=self._config.layer + 1,
        )
        embeddings = [part.expand(len(index), -1, -1) for part in kwargs["position_embeddings"]]
        return {
            "attention_mask": mask,
            "position_embeddings": tuple(compact(embeddings, index, dim=1)),
            # FlashAttention takes gaps in the positions for the borders of packed sequences.
            "position_ids": None,
        }

    def _before_later(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        if not self._is_current():
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
        )

    def _record(self) -> PruneCall:
        videos = []
        for row, (visuals, merged) in enumerate(zip(self._visuals, self._merged, strict=True)):
            for index, (span, video) in enumerate(zip(visuals.videos, merged, strict=True)):
                everything = torch.arange(len(video.tokens), device=video.tokens.device)
                videos.append(
                    VideoRecord(
                        prompt=row,
                        span=(span.start, span.stop),
                        layout=video.layout,
                        scores=self._scores[row][index] if self._scores else None,
                        kept=self._kept[row][index] if self._kept else everything,
                    )
                )
        return PruneCall(
            kind="pruned",
            num_layers=len(self._decoder.layers),
            layer=self._config.layer if self._config.select else None,
            videos=tuple(videos),
            other_tokens=tuple(_other_tokens(prompt.pieces) for prompt in self._prompts),
            image_tokens=tuple(
                sum(stop - start for start, stop in visuals.images) for visuals in self._visuals
            ),
            timer=self._timer,
        )


def _other_tokens(pieces: Sequence[Piece]) -> int:
    return sum(piece.stop - piece.start for piece in pieces if piece.kind != "video")
