"""Pruned decoding, written to be read: no hooks, no cache, no gather, no batch.

The whole sequence is run anew for every logit, in float64, through a plain loop over the layers,
with dropped tokens kept in place and hidden by the attention mask. A token may see an earlier one
unless that was dropped; up to the selecting layer, the tokens of one prompt see each other all the
same. That is all that pruning means, said without any of the machinery that makes it fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tiny_models
import torch
from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig, merge_video

STEPS = 9  # tokens that are compared


Piece = tuple[str, Any]
Span = tuple[int, list[int], MergedVideo]  # where it ends, the place of each merged token


def lay_out(
    pieces: Sequence[Piece], config: PruneVidConfig, embed: Callable[[Sequence[int]], Tensor]
) -> tuple[Tensor, list[Span], list[bool]]:
    """A merged prompt: its rows [L, C], its videos, and which rows are text that asks.

    Pieces are ("text", ids), ("other", embeds), ("video", features [T, N, C]), or ("frames",
    (features, ids between one frame and the next)) where frames stand apart.
    """
    parts: list[Tensor] = []
    spans: list[Span] = []
    is_text: list[bool] = []

    def put(rows: Tensor, asks: bool = False) -> None:
        parts.append(rows)
        is_text.extend([asks] * len(rows))

    for kind, value in pieces:
        if kind == "text":
            put(embed(value), asks=True)
        elif kind == "other":
            put(value)
        else:
            features, between = value if kind == "frames" else (value, [[]] * (len(value) - 1))
            video = merge_video(features, config)
            frames = video.layout.merged_anchor // features.shape[1]
            places = [0] * len(frames)
            # Where frames touch, the merged tokens keep their own order.
            stretches = range(len(features)) if kind == "frames" else [None]
            for frame in stretches:
                if frame:
                    put(embed(between[frame - 1]))
                for index in range(len(frames)):
                    if frame is None or int(frames[index]) == frame:
                        places[index] = len(is_text)
                        put(video.tokens[index : index + 1])
            spans.append((len(is_text), places, video))
    return torch.cat(parts), spans, is_text


class SlowDecoder:
    """A Llama, Qwen2 or Qwen3 decoder with head, and the sequence fed to it so far."""

    def __init__(self, decoder: Any, head: Any, config: PruneVidConfig) -> None:
        self.decoder, self.config = decoder, config
        self.head = head.weight.double()
        settings = decoder.config
        self.heads, self.key_heads = settings.num_attention_heads, settings.num_key_value_heads
        self.head_dim = decoder.layers[0].self_attn.head_dim
        self.eps = settings.rms_norm_eps
        theta = settings.rope_parameters["rope_theta"]
        self.frequencies = theta ** -(torch.arange(0, self.head_dim, 2).double() / self.head_dim)
        self.rows = torch.zeros(0, settings.hidden_size, dtype=torch.float64)
        self.block: list[int] = []
        self.dropped: list[bool] = []
        self.kept: list[list[int]] = []

    def embed(self, ids: Sequence[int]) -> Tensor:
        return self.decoder.embed_tokens.weight[torch.tensor(list(ids), dtype=torch.int64)]

    def feed_tokens(self, ids: Sequence[int]) -> None:
        """Text after a pruned prompt."""
        self._append(self.embed(ids))

    def feed_prompt(
        self, pieces: Sequence[tuple[str, Any]], forced: Sequence[list[int]] | None = None
    ) -> None:
        """A prompt of pieces; see :func:`lay_out`.

        ``forced`` has the kept tokens of each video, where they are not to be chosen here.
        """
        rows, spans, is_text = lay_out(pieces, self.config, self.embed)
        first = len(self.block)
        self._append(rows)
        if self.config.select and spans:
            query, key = self._projections(self.config.layer)
            for number, (stop, places, video) in enumerate(spans):
                asking = [first + i for i in range(stop, len(is_text)) if is_text[i]]
                own = [first + place for place in places]
                scores = self._scores(query, key, first, asking)
                kept = self._select(scores[:, own].amax(0), video)
                kept = kept if forced is None else forced[number]
                self.kept.append(kept)
                for index, place in enumerate(own):
                    self.dropped[place] = index not in kept

    def logits(self) -> Tensor:
        """[vocabulary] float64, for the token that comes next."""
        hidden = self._run(len(self.decoder.layers))
        return self._norm(self.decoder.norm, hidden)[-1] @ self.head.T

    def greedy(self, steps: int) -> tuple[list[int], Tensor]:
        """The next tokens, each fed back, and their logits [steps, vocabulary]."""
        tokens, logits = [], []
        for _ in range(steps):
            logits.append(self.logits())
            tokens.append(int(logits[-1].argmax()))
            self.feed_tokens(tokens[-1:])
        return tokens, torch.stack(logits)

    def entries(self) -> int:
        """The number of tokens that a pruned cache would hold."""
        return self.dropped.count(False)

    def _append(self, rows: Tensor) -> None:
        self.rows = torch.cat((self.rows, rows.double()))
        self.block += [max(self.block, default=-1) + 1] * len(rows)
        self.dropped += [False] * len(rows)

    def _visible(self, layer: int) -> Tensor:
        size = len(self.block)
        visible = torch.ones(size, size, dtype=torch.bool).tril()
        block, dropped = torch.tensor(self.block), torch.tensor(self.dropped)
        hidden = dropped[None, :].expand(size, size)
        if layer <= self.config.layer:
            hidden = hidden & (block[None, :] != block[:, None])
        return visible & ~hidden

    def _run(self, layers: int) -> Tensor:
        hidden = self.rows
        for index in range(layers):
            layer = self.decoder.layers[index]
            hidden = hidden + self._attention(layer, hidden, index)
            gated = self._norm(layer.post_attention_layernorm, hidden)
            gate = torch.nn.functional.silu(gated @ layer.mlp.gate_proj.weight.double().T)
            up = gated @ layer.mlp.up_proj.weight.double().T
            hidden = hidden + (gate * up) @ layer.mlp.down_proj.weight.double().T
        return hidden

    def _attention(self, layer: Any, hidden: Tensor, index: int) -> Tensor:
        normed = self._norm(layer.input_layernorm, hidden)
        query, key = map(self._rotate, self._asked(layer.self_attn, normed))
        value = self._heads(layer.self_attn.v_proj, normed)
        weights = self._weights(query, key, self._visible(index))
        mixed = weights @ self._repeat(value)  # [H, S, D]
        return mixed.transpose(0, 1).flatten(1) @ layer.self_attn.o_proj.weight.double().T

    def _projections(self, index: int) -> tuple[Tensor, Tensor]:
        layer = self.decoder.layers[index]
        normed = self._norm(layer.input_layernorm, self._run(index))
        return self._asked(layer.self_attn, normed)

    def _asked(self, attention: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys [heads, S, D] before their rotation."""
        query = self._heads(attention.q_proj, normed)
        key = self._heads(attention.k_proj, normed)
        if hasattr(attention, "q_norm"):
            query, key = self._norm(attention.q_norm, query), self._norm(attention.k_norm, key)
        return query, key

    def _scores(self, query: Tensor, key: Tensor, first: int, asking: list[int]) -> Tensor:
        """[len(asking), S] the most that any head of a row attends to each token."""
        size = len(self.block)
        if self.config.score == "nope":
            visible = torch.zeros(size, size, dtype=torch.bool)
            visible[:, first:] = True  # the prompt, all of it, and nothing before
        else:
            query, key = self._rotate(query), self._rotate(key)
            visible = self._visible(self.config.layer)
        return self._weights(query, key, visible)[:, asking].amax(dim=0)

    def _select(self, scores: Tensor, video: MergedVideo) -> list[int]:
        sizes = video.layout.group_sizes.tolist()
        if self.config.selection == "global":
            sizes = [sum(sizes)]
        kept, start = [], 0
        for size in sizes:
            order = sorted(range(start, start + size), key=lambda i: (-float(scores[i]), i))
            kept += order[: int(size * self.config.keep_ratio)]
            start += size
        return sorted(kept)

    def _weights(self, query: Tensor, key: Tensor, visible: Tensor) -> Tensor:
        logits = query @ self._repeat(key).transpose(1, 2) / self.head_dim**0.5
        return logits.masked_fill(~visible, -torch.inf).softmax(dim=-1).nan_to_num(0.0)

    def _repeat(self, heads: Tensor) -> Tensor:
        return heads.repeat_interleave(self.heads // self.key_heads, dim=0)

    def _heads(self, projection: Any, rows: Tensor) -> Tensor:
        """[heads, S, D]"""
        out = rows @ projection.weight.double().T
        if projection.bias is not None:
            out = out + projection.bias.double()
        return out.unflatten(-1, (-1, self.head_dim)).transpose(0, 1)

    def _rotate(self, heads: Tensor) -> Tensor:
        # Place in the sequence of merged tokens: dropping renumbers nothing.
        angles = torch.arange(heads.shape[1]).double()[:, None] * self.frequencies
        first, second = heads.chunk(2, dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    def _norm(self, norm: Any, rows: Tensor) -> Tensor:
        scale = (rows.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()
        return rows * scale * norm.weight.double()


def pieces(model: Any, ids: list[int], clips: Any) -> list[Any]:
    """A prompt of LLaVA-OneVision, cut at its videos; a newline stands after each."""
    videos = (tiny_models.features(model, clip) for clip in clips)
    return cut(ids, tiny_models.VIDEO_ID, videos, model.model.image_newline[None])


def cut(
    ids: list[int], video_id: int, videos: Iterator[Tensor], newline: Tensor | None = None
) -> list[Any]:
    """The prompt ``ids``, each of its videos [T, N, C] in place of as many placeholders."""
    parts: list[Any] = []
    text: list[int] = []
    position = 0
    while position < len(ids):
        if ids[position] != video_id:
            text.append(ids[position])
            position += 1
            continue
        video = next(videos)
        parts += [("text", text), ("video", video)]
        text, position = [], position + video.shape[0] * video.shape[1]
        if newline is not None:
            parts.append(("other", newline))
            position += len(newline)
    return [*parts, ("text", text)]


def assert_same(result: Any, row: int, slow: SlowDecoder) -> None:
    """A row of what ``generate`` gave goes on as the slow decoder does."""
    tokens, logits = slow.greedy(STEPS)
    assert result.sequences[row, -STEPS:].tolist() == tokens
    actual = torch.stack(result.logits)[:, row].double()
    assert (actual - logits).abs().max() <= 1e-5 * max(1.0, float(logits.abs().max()))


def slow_prompt(
    model: Any, inputs: Any, config: PruneVidConfig, forced: Sequence[list[int]] | None = None
) -> SlowDecoder:
    """The slow decoder of LLaVA-OneVision, fed one prompt; see :meth:`SlowDecoder.feed_prompt`."""
    slow = SlowDecoder(model.model.language_model, model.lm_head, config)
    ids = inputs["input_ids"][0].tolist()
    slow.feed_prompt(pieces(model, ids, inputs["pixel_values_videos"]), forced)
    return slow


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """The same logits but for rounding."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
