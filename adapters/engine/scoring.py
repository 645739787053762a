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


class LayerAttention:
    """The attention of one decoder layer over one batch of merged prompts [B, L], as its queries
    and keys; its probabilities exist nowhere.

    Args:
        tap: the layer's projections.
        attention: the attention module, for its scale.
        position_embeddings: the layer's (cos, sin), [B or 1, L, D] each.
        cache: holds the layer's rotated keys and its values, this prompt's included.
        layer: index of the layer.
        past: entries of the cache before this prompt.
        kv_mask: [B, past + L] bool, None if there is no padding.
        group: process group of a tensor-parallel model, whose ranks have some of the heads each.
    """

    def __init__(
        self,
        tap: ProjectionTap,
        attention: nn.Module,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        cache: Cache,
        layer: int,
        past: int,
        kv_mask: Tensor | None,
        group: Any,
    ) -> None:
        self._query, self._key = tap.heads("q_proj"), tap.heads("k_proj")
        self._position_embeddings = position_embeddings
        self._cached: Any = cache.layers[layer]
        self.scale = float(attention.scaling)  # type: ignore[arg-type]
        self.layer = layer
        self.past = past
        self.kv_mask = kv_mask
        self.group = group

    @property
    def length(self) -> int:
        """L, left padding included."""
        return self._query.shape[2]

    @property
    def keys(self) -> Tensor:
        """[B, Hkv, past + L, D] the rotated keys."""
        return self._cached.keys[:, :, : self.past + self.length].to(self._query.device)

    def entries(self, row: int, prompt: MergedPrompt) -> tuple[Tensor, Tensor]:
        """The cached keys and values [Hkv, length, D] of one prompt, without its padding."""
        stop = self.past + self.length
        keys, values = (
            entries[row, :, stop - prompt.length : stop]
            for entries in (self._cached.keys, self._cached.values)
        )
        return keys, values

    def rotated_queries(self, batch: slice, rows: slice) -> Tensor:
        """[b, H, q, D] under the half-split rotation that all Llama-like decoders use."""
        query = self._query[batch, :, rows]
        cos, sin = (
            part[batch if part.shape[0] > 1 else slice(None), None, rows]
            for part in self._position_embeddings
        )
        first, second = query.chunk(2, dim=-1)
        return query * cos + torch.cat((-second, first), dim=-1) * sin

    def score(
        self, mode: Literal["nope", "rope"], row: int, prompt: MergedPrompt, video: int, size: int
    ) -> Tensor:
        """[size] float32: the most attention that any question row pays to each merged token of a
        video.

        Args:
            mode: ``"nope"``: un-rotated queries and keys, every row sees every token of the prompt,
                and of the prompt alone (un-rotated keys of earlier turns are not kept anywhere).
                ``"rope"``: the layer's own causal attention, earlier turns included.
            row: of the batch.
            prompt: what is in that row.
            video: which one of the prompt.
            size: its merged tokens.
        """
        padding = self.length - prompt.length
        start = prompt.video_start(video)
        one = slice(row, row + 1)
        scores = []
        for first, stop in prompt.question_runs(video):
            rows = slice(padding + first, padding + stop)
            if mode == "nope":
                query, key = self._query[one, :, rows], self._key[one, :, padding:]
                shift, offset, mask = 0, None, None
            else:
                query, key = self.rotated_queries(one, rows), self.keys[one]
                shift = self.past + padding
                offset = shift + first
                mask = None if self.kv_mask is None else self.kv_mask[one]
            scores.append(
                score_visual_tokens(
                    query.detach(),  # what a model keeps is decided, not differentiated
                    key.detach(),
                    slice(shift + start, shift + start + size),
                    scale=self.scale,
                    causal_offset=offset,
                    key_mask=mask,
                )[0]
            )
        best = torch.stack(scores).amax(dim=0)
        if self.group is not None:
            torch.distributed.all_reduce(best, torch.distributed.ReduceOp.MAX, group=self.group)
        return best


def tensor_parallel_group(model: nn.Module) -> Any:
    """The process group over which a model's attention heads are split, None if they are not."""
    mesh = getattr(model, "_device_mesh", None)
    if mesh is None or (getattr(model, "_tp_size", None) or 1) == 1:
        return None
    return (mesh["tp"] if mesh.ndim > 1 else mesh).get_group()
