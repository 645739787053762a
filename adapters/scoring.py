"""How much each question attends to each visual token, read off the decoder layer that selects.

The layer runs as it is, on whatever attention implementation the user chose: its attention
probabilities are never asked for, since fused kernels have none and eager attention in half
precision breaks some checkpoints. Instead the outputs of its query and key projections are tapped
by hooks, and the few question rows that matter are scored from them. Rotated keys need no second
rotation: they are in the key/value cache.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from prunevid_kernels import score_visual_tokens

from .prompt import MergedPrompt


class ProjectionTap:
    """Holds the query and key projections [B, heads, L, D] of one attention module while hooked."""

    def __init__(self, attention: nn.Module, is_current: Callable[[], bool]) -> None:
        self._attention: Any = attention
        self._is_current = is_current
        self._outputs: dict[str, Tensor] = {}

    def hook(self, hooks: ExitStack) -> None:
        for name in ("q_proj", "k_proj"):
            hooks.callback(
                getattr(self._attention, name).register_forward_hook(self._capture(name)).remove
            )

    def _capture(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def capture(module: nn.Module, args: Any, output: Tensor) -> None:
            if self._is_current():
                self._outputs[name] = output

        return capture

    def heads(self, name: str) -> Tensor:
        output = self._outputs[name]
        return output.unflatten(-1, (-1, self._attention.head_dim)).transpose(1, 2)

    def release(self) -> None:
        self._outputs.clear()


class PromptScorer:
    """Scores the videos of one batch of merged prompts.

    Args:
        tap: the layer's projections.
        attention: the attention module, for its scale.
        mode: ``"nope"``: un-rotated queries and keys, every row sees every token of the prompt, and
            of the prompt alone (un-rotated keys of earlier turns are not kept anywhere).
            ``"rope"``: the layer's own causal attention, earlier turns included.
        position_embeddings: the layer's (cos, sin), [B or 1, L, D] each.
        cache: holds the layer's rotated keys, this prompt's included.
        layer: index of the layer.
        past: entries of the cache before this prompt.
        kv_mask: [B, past + L] bool, None if there is no padding.
        group: process group of a tensor-parallel model, whose ranks have some of the heads each.
    """

    def __init__(
        self,
        tap: ProjectionTap,
        attention: nn.Module,
        mode: Literal["nope", "rope"],
        *,
        position_embeddings: tuple[Tensor, Tensor],
        cache: Cache,
        layer: int,
        past: int,
        kv_mask: Tensor | None,
        group: Any,
    ) -> None:
        self._query, self._key = tap.heads("q_proj"), tap.heads("k_proj")
        self._scale = float(attention.scaling)  # type: ignore[arg-type]
        self._mode = mode
        self._position_embeddings = position_embeddings
        self._past = past
        self._kv_mask = kv_mask
        self._group = group
        if mode == "rope":
            length = past + self._query.shape[2]
            self._key = cache.layers[layer].keys[:, :, :length].to(self._query.device)

    def score(self, row: int, prompt: MergedPrompt, video: int, size: int) -> Tensor:
        """[size] float32: the most attention that any question row pays to each merged token of a
        video."""
        padding = self._query.shape[2] - prompt.length
        start = prompt.video_start(video)
        runs = prompt.question_runs(video)
        if self._mode == "nope":
            scores = [
                self._score(self._queries(row, padding, run), row, padding, start, size)
                for run in runs
            ]
        else:
            shift = self._past + padding
            scores = [
                self._score(
                    self._rotated(row, padding, run), row, 0, shift + start, size,
                    causal_offset=shift + run[0],
                )
                for run in runs
            ]  # fmt: skip
        best = torch.stack(scores).amax(dim=0)
        if self._group is not None:
            torch.distributed.all_reduce(best, torch.distributed.ReduceOp.MAX, group=self._group)
        return best

    def _score(
        self, query: Tensor, row: int, first_key: int, start: int, size: int,
        causal_offset: int | None = None,
    ) -> Tensor:  # fmt: skip
        """One run of question rows against the keys of its prompt from ``first_key`` on."""
        mask = None
        if causal_offset is not None and self._kv_mask is not None:
            mask = self._kv_mask[row : row + 1]
        return score_visual_tokens(
            query,
            self._key[row : row + 1, :, first_key:],
            slice(start, start + size),
            scale=self._scale,
            causal_offset=causal_offset,
            key_mask=mask,
        )[0]

    def _queries(self, row: int, padding: int, run: tuple[int, int]) -> Tensor:
        return self._query[row : row + 1, :, padding + run[0] : padding + run[1]]

    def _rotated(self, row: int, padding: int, run: tuple[int, int]) -> Tensor:
        """The run's queries under the half-split rotation that all Llama-like decoders use."""
        query = self._queries(row, padding, run)
        cos, sin = (
            part[row if part.shape[0] > 1 else 0, padding + run[0] : padding + run[1]]
            for part in self._position_embeddings
        )
        first, second = query.chunk(2, dim=-1)
        return query * cos + torch.cat((-second, first), dim=-1) * sin


def tensor_parallel_group(model: nn.Module) -> Any:
    """The process group over which a model's attention heads are split, None if they are not."""
    mesh = getattr(model, "_device_mesh", None)
    if mesh is None or (getattr(model, "_tp_size", None) or 1) == 1:
        return None
    return (mesh["tp"] if mesh.ndim > 1 else mesh).get_group()
