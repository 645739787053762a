"""One decoder layer's attention, as pruning methods get to see it.

The layer runs as it is, on whatever attention implementation the user chose: its attention
probabilities are never asked for, since fused kernels have none and eager attention in half
precision breaks some checkpoints. Instead the outputs of its query and key projections are caught
on their way, and the few question rows that matter are scored from them. Rotated keys need no
second rotation: they are in the key/value cache.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from prunevid_kernels import score_visual_tokens

from .prompt import MergedPrompt, VideoPlace


class LayerAttention:
    """The attention of one decoder layer over one batch of merged prompts [B, L], as its queries
    and keys; its probabilities exist nowhere.

    Args:
        attention: the attention module, for its scale and the size of its heads.
        query: [B, L, H * D] what its query projection gave, or [B, L, H, D] its norm of heads.
        key: [B, L, Hkv * D], or [B, L, Hkv, D], what its key projection or norm gave.
        position_embeddings: the layer's (cos, sin), [B or 1, L, D] each.
        cache: holds the layer's rotated keys and its values, this prompt's included.
        layer: index of the layer.
        past: entries of the cache before this prompt.
        kv_mask: [B, past + L] bool, None if there is no padding.
        group: process group of a tensor-parallel model, whose ranks have some of the heads each.
    """

    def __init__(
        self,
        attention: Any,
        *,
        query: Tensor,
        key: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        cache: Cache,
        layer: int,
        past: int,
        kv_mask: Tensor | None,
        group: Any,
    ) -> None:
        self._query, self._key = (
            rows.reshape(*rows.shape[:2], -1, attention.head_dim).transpose(1, 2)
            for rows in (query, key)
        )  # [B, heads, L, D]
        self._position_embeddings = position_embeddings
        self._cached: Any = cache.layers[layer]
        self.scale = float(attention.scaling)
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
        """The cached keys and values [Hkv, length, D] of one prompt, without its padding.

        Args:
            row: of the batch.
            prompt: what is in that row.
        """
        stop = self.past + self.length
        keys, values = (
            entries[row, :, stop - prompt.length : stop]
            for entries in (self._cached.keys, self._cached.values)
        )
        return keys, values

    def rotated_queries(self, batch: slice, rows: slice) -> Tensor:
        """[b, H, q, D] under the half-split rotation that all Llama-like decoders use.

        Args:
            batch: rows of the batch, b of them.
            rows: places in the padded prompts, q of them.
        """
        query = self._query[batch, :, rows]
        cos, sin = (
            part[batch if part.shape[0] > 1 else slice(None), None, rows]
            for part in self._position_embeddings
        )
        first, second = query.chunk(2, dim=-1)
        return query * cos + torch.cat((-second, first), dim=-1) * sin

    def score(self, mode: Literal["nope", "rope"], place: VideoPlace) -> Tensor:
        """[L'] float32: the most attention that any question row pays to each merged token of a
        video.

        Args:
            mode: ``"nope"``: un-rotated queries and keys, every row sees every token of the prompt,
                and of the prompt alone (un-rotated keys of earlier turns are not kept anywhere).
                ``"rope"``: the layer's own causal attention, earlier turns included.
            place: which video.
        """
        padding = self.length - place.prompt.length
        start, stop = place.prompt.video_run(place.video)
        one = slice(place.row, place.row + 1)
        scores = []
        for first_row, last_row in place.prompt.question_runs(place.video):
            rows = slice(padding + first_row, padding + last_row)
            if mode == "nope":
                query, key = self._query[one, :, rows], self._key[one, :, padding:]
                shift, offset, mask = 0, None, None
            else:
                query, key = self.rotated_queries(one, rows), self.keys[one]
                shift = self.past + padding
                offset = shift + first_row
                mask = None if self.kv_mask is None else self.kv_mask[one]
            scores.append(
                score_visual_tokens(
                    query.detach(),  # what a model keeps is decided, not differentiated
                    key.detach(),
                    slice(shift + start, shift + stop),
                    scale=self.scale,
                    causal_offset=offset,
                    key_mask=mask,
                )[0]
            )
        best = torch.stack(scores).amax(dim=0)
        rows_of_video = place.prompt.video_rows(place.video)
        if isinstance(rows_of_video, Tensor):  # frames apart: the text between them is no candidate
            best = best[rows_of_video - start]
        if self.group is not None:
            torch.distributed.all_reduce(best, torch.distributed.ReduceOp.MAX, group=self.group)
        return best


def tensor_parallel_group(model: nn.Module) -> Any:
    """The process group over which a model's attention heads are split, None if they are not."""
    mesh = getattr(model, "_device_mesh", None)
    if mesh is None or (getattr(model, "_tp_size", None) or 1) == 1:
        return None
    return (mesh["tp"] if mesh.ndim > 1 else mesh).get_group()
