"""How much each visual token matters to the vision side itself, by its last self-attention.

Where that attention is, and how its patches become visual tokens, each family's adapter says
(:meth:`~..engine.interface.ModelAdapter.vision_attention`); a family that says nothing is refused.
Attention runs in the vision tower, so features that come already encoded, without a run of the
tower, cannot be ranked by it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunevid_kernels import MergedVideo

from ..engine.interface import ModelAdapter, VisionAttention
from ..engine.method import PruningMethod
from .attention import attention_received


def importance(vision: VisionAttention, query: Tensor, key: Tensor) -> Tensor:
    """[F, P'] float32: how much attention each patch or token gets, the mean over heads (and, where
    there is no CLS, over rows).

    Args:
        vision: the facts.
        query, key: [F, P, heads * D], what the projections gave.
    """
    queries, keys = (
        rows.unflatten(-1, (vision.num_heads, -1)).transpose(1, 2) for rows in (query, key)
    )  # [F, H, P, D]
    scale = queries.shape[-1] ** -0.5
    if vision.has_class_token:
        received = attention_received(queries[:, :, :1], keys, scale=scale)[:, :, vision.tokens]
        return received.mean(dim=1)
    queries, keys = queries[:, :, vision.tokens], keys[:, :, vision.tokens]
    # Frame by frame: the block of rows is all that is held.
    received = torch.cat(
        [
            attention_received(queries[i : i + 1], keys[i : i + 1], scale=scale)
            for i in range(len(keys))
        ]
    )
    return received.mean(dim=1) / queries.shape[2]


@dataclass(eq=False)
class Seen:
    """What one run of the vision tower has shown, on its way to the decoder.

    Attributes:
        owner: the method that watched, or what watched for several.
        rows: [F, P, heads * D] of the query and the key projection.
        tokens: [T, N, 1 + heads * D]: importance and key of each visual token, once the encoder is
            done.
        num_heads: of the attention.
    """

    owner: object
    rows: dict[str, Tensor] = field(default_factory=dict)
    tokens: Tensor | None = None
    num_heads: int = 1


_seen: ContextVar[Seen | None] = ContextVar("vision_seen", default=None)


class VisionSource(ABC):
    """What watches a model's vision side for all methods, see :mod:`.sharing`."""

    @abstractmethod
    def serves(self, model: nn.Module) -> bool:
        """Whether it watches this model."""

    @abstractmethod
    def forget_last(self) -> None:
        """A method begins: what the prompts before it brought is not what it will be asked."""

    @abstractmethod
    def last_seen(self) -> Seen | None:
        """What the tower showed of the videos that go into the decoder next; None: nothing."""


# Of this context; None: each method watches for itself.
vision_source: ContextVar[VisionSource | None] = ContextVar("vision_source", default=None)


def watch_tower(
    vision: VisionAttention,
    owner: object,
    hooks: ExitStack,
    whole: Callable[[Seen, int], None],
) -> None:
    """Hook the attention that tells which tokens matter.

    Args:
        vision: where it is.
        owner: who watches.
        hooks: takes the removals.
        whole: called at the end of each run with what was seen, its rows, and the leading dimension
            of the encoder's argument.
    """

    def is_elsewhere() -> bool:  # in a thread that does not share
        return isinstance(owner, VisionSource) and vision_source.get() is not owner

    def capture(name: str, projection: nn.Module) -> None:
        def after(module: nn.Module, args: Any, output: Tensor) -> None:
            if (
                module is projection and not is_elsewhere()
            ):  # and not a copy of the model, which has the hook as well
                seen = _seen.get()
                if seen is None or seen.owner is not owner or name in seen.rows:
                    seen = Seen(owner, num_heads=vision.num_heads)
                    _seen.set(seen)
                seen.rows[name] = output

        hooks.callback(projection.register_forward_hook(after).remove)

    def finish(module: nn.Module, args: Any, output: Any) -> None:
        seen = None if is_elsewhere() else _seen.get()
        if module is vision.encoder and seen is not None and seen.owner is owner:
            whole(seen, len(args[0]))
            seen.rows.clear()

    capture("query", vision.query)
    capture("key", vision.key)
    hooks.callback(vision.encoder.register_forward_hook(finish).remove)


class TowerGuided(PruningMethod, ABC):
    """A method that merges by what the vision tower looked at: :meth:`merge_seen` decides."""

    _source: VisionSource | None = None

    @abstractmethod
    def merge_seen(self, features: Tensor, weights: Tensor, keys: Tensor) -> MergedVideo:
        """The tokens of one video that go into the decoder.

        Args:
            features: [T, N, C].
            weights: [T, N] float32, see :func:`importance`.
            keys: [T, N, H, D] float32, of the same layer of the tower.
        """

    def watch(self, model: nn.Module, adapter: ModelAdapter, hooks: ExitStack) -> None:
        vision = adapter.vision_attention(model)
        source = vision_source.get()
        self._source = source if source is not None and source.serves(model) else None
        if self._source is not None:
            self._source.forget_last()
            return

        def whole(seen: Seen, videos: int) -> None:
            seen.tokens = pooled(vision, seen.rows, videos)

        watch_tower(vision, self, hooks, whole)

    def merge(self, features: Tensor, frames: Sequence[int]) -> list[MergedVideo]:
        tokens, num_heads = self._take(list(frames))
        shown = tokens.to(features.device)
        return [
            self.merge_seen(own, video[..., 0], video[..., 1:].unflatten(-1, (num_heads, -1)))
            for own, video in zip(
                features.split(list(frames)), shown.split(list(frames)), strict=True
            )
        ]

    def _take(self, frames: list[int]) -> tuple[Tensor, int]:
        """[sum(frames), N, 1 + H * D] of the videos that the decoder is about to get, and H."""
        if self._source is not None:
            seen = self._source.last_seen()
        else:
            seen = _seen.get()
            _seen.set(None)
            if seen is not None and seen.owner is not self:
                seen = None
        if seen is None or seen.tokens is None:
            raise ValueError(
                f"{self.name} reads the vision tower's attention, but the videos came without a run"
                " of the tower; give pixels"
            )
        # generate repeats encoded videos for its beams and returned sequences.
        repeats = max(1, sum(frames) // len(seen.tokens))
        shown = frames[::repeats]
        if sum(shown) != len(seen.tokens):
            raise ValueError(
                f"the vision tower last saw {len(seen.tokens)} frames, but the prompts have videos "
                f"of {frames} frames; {self.name} cannot tell videos from images in one prompt"
            )
        videos = seen.tokens.split(shown)
        return torch.cat([video for video in videos for _ in range(repeats)]), seen.num_heads


def pooled(vision: VisionAttention, rows: dict[str, Tensor], videos: int) -> Tensor:
    """[T, N, 1 + H * D] float32: importance and key of each visual token.

    Args:
        vision: the facts.
        rows: see :class:`Seen`.
        videos: V of :attr:`VisionAttention.pool`.
    """
    weights = importance(vision, rows["query"], rows["key"])
    keys = rows["key"][:, vision.tokens].float()
    return vision.pool(torch.cat((weights[..., None], keys), dim=-1), videos)
