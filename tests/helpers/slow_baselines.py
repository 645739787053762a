"""The baselines written to be read: whole attention matrices, one prompt and one head at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from slow_pruning import SlowDecoder
from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig


class SlowFastV(SlowDecoder):
    """Early layers see everything at any time; late ones what was kept."""

    def __init__(self, decoder: Any, head: Any, k: int, keep_ratio: float) -> None:
        super().__init__(decoder, head, PruneVidConfig(layer=k - 1, merge=False))
        self.keep_ratio = keep_ratio

    def _visible(self, layer: int) -> Tensor:
        size = len(self.block)
        visible = torch.ones(size, size, dtype=torch.bool).tril()
        return visible if layer <= self.config.layer else visible & ~torch.tensor(self.dropped)

    def _scores(self, query: Tensor, key: Tensor, first: int, asking: list[int]) -> Tensor:
        visible = self._visible(self.config.layer)
        weights = self._weights(self._rotate(query), self._rotate(key), visible)  # [H, S, S]
        return weights[:, -1].mean(dim=0)[None]

    def _select(self, scores: Tensor, video: MergedVideo) -> list[int]:
        order = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
        return sorted(order[: round(len(scores) * self.keep_ratio)])


class SlowLookM(SlowDecoder):
    """Runs the prompt once, cuts each head's cache by itself, and decodes from what is left."""

    def __init__(self, decoder: Any, head: Any, recent: float, important: float) -> None:
        super().__init__(decoder, head, PruneVidConfig(merge=False, select=False))
        self.recent, self.important = recent, important
        self.layers: list[list[tuple[Tensor, Tensor]]] = []  # of each key head: keys, values

    def feed_prompt(self, pieces: Any, forced: Any = None) -> None:
        super().feed_prompt(pieces)
        is_visual = []
        for kind, value in pieces:
            size = len(value) if kind != "video" else value.shape[0] * value.shape[1]
            is_visual += [kind == "video"] * size
        hidden = self.rows
        for index, layer in enumerate(self.decoder.layers):
            normed = self._norm(layer.input_layernorm, hidden)
            query = self._rotate(self._heads(layer.self_attn.q_proj, normed))
            key = self._rotate(self._heads(layer.self_attn.k_proj, normed))
            value = self._heads(layer.self_attn.v_proj, normed)
            received = self._weights(query, key, self._visible(index)).sum(dim=1)  # [H, S]
            received = received.unflatten(0, (self.key_heads, -1)).sum(dim=1)
            cut = [
                self._cut(k, v, r, is_visual) for k, v, r in zip(key, value, received, strict=True)
            ]
            self.layers.append(cut)
            hidden = self._layer(index, hidden)
        self.hidden = hidden[-1:]

    def _cut(
        self, key: Tensor, value: Tensor, received: Tensor, is_visual: list[bool]
    ) -> tuple[Tensor, Tensor]:
        if not any(is_visual):
            return key, value
        size = len(key)
        recent, early = int(size * self.recent), size - int(size * self.recent)
        text = [i for i in range(early) if not is_visual[i]]
        visual = sorted(
            (i for i in range(early) if is_visual[i]), key=lambda i: (-float(received[i]), i)
        )
        best = visual[: max(0, int(size * self.important) - len(text))]
        kept = sorted(text + best) + list(range(size - recent, size))
        members: dict[int, list[int]] = {i: [i] for i in kept}
        for i in range(size):
            if i not in members:
                cosine = torch.cosine_similarity(key[i], key[kept], dim=-1)
                members[kept[int(cosine.argmax())]].append(i)
        return (
            torch.stack([key[members[i]].mean(dim=0) for i in kept]),
            torch.stack([value[members[i]].mean(dim=0) for i in kept]),
        )

    def _layer(self, index: int, hidden: Tensor) -> Tensor:
        return self._mlp(index, hidden + self._attention(self.decoder.layers[index], hidden, index))

    def _mlp(self, index: int, hidden: Tensor) -> Tensor:
        layer = self.decoder.layers[index]
        gated = self._norm(layer.post_attention_layernorm, hidden)
        gate = torch.nn.functional.silu(gated @ layer.mlp.gate_proj.weight.double().T)
        up = gated @ layer.mlp.up_proj.weight.double().T
        return hidden + (gate * up) @ layer.mlp.down_proj.weight.double().T

    def entries(self) -> int:
        return len(self.layers[0][0][0])

    def logits(self) -> Tensor:
        return self._norm(self.decoder.norm, self.hidden)[-1] @ self.head.T

    def feed_tokens(self, ids: Any) -> None:
        for token in ids:
            hidden = self.embed([token]).double()
            self._append(hidden)
            place = len(self.rows) - 1

            def at_place(heads: Tensor, place: int = place) -> Tensor:
                return self._rotate(torch.nn.functional.pad(heads, (0, 0, place, 0)))[:, -1:]

            for index, layer in enumerate(self.decoder.layers):
                normed = self._norm(layer.input_layernorm, hidden)
                query = at_place(self._heads(layer.self_attn.q_proj, normed))
                key = at_place(self._heads(layer.self_attn.k_proj, normed))
                value = self._heads(layer.self_attn.v_proj, normed)
                mixed = []
                for head in range(self.heads):
                    group = head // (self.heads // self.key_heads)
                    keys, values = self.layers[index][group]
                    if head % (self.heads // self.key_heads) == 0:
                        keys, values = (
                            torch.cat((keys, key[group])),
                            torch.cat((values, value[group])),
                        )
                        self.layers[index][group] = keys, values
                    weights = (query[head] @ keys.T / self.head_dim**0.5).softmax(dim=-1)
                    mixed.append(weights @ values)
                attended = torch.cat(mixed, dim=1) @ layer.self_attn.o_proj.weight.double().T
                hidden = self._mlp(index, hidden + attended)
            self.hidden = hidden


def slow_prumerge(tokens: Tensor, weights: Tensor, keys: Tensor, neighbors: int) -> list[Tensor]:
    """One frame: [N, C] tokens, [N] importance, [N, D] keys -> the merged tokens."""
    size = len(tokens)
    weights = weights / weights.sum()
    ordered = sorted(weights.tolist())

    def quantile(share: float) -> float:
        low = int(share * (size - 1))
        rest = share * (size - 1) - low
        return ordered[low] + rest * (ordered[min(low + 1, size - 1)] - ordered[low])

    fence = quantile(0.75) + 1.5 * (quantile(0.75) - quantile(0.25))
    kept = [i for i in range(size) if float(weights[i]) > fence] or [int(weights.argmax())]
    stride = max(1, int(int(1 / (len(kept) / size)) / 3))
    kept = sorted({*kept, *range(0, size, stride)})
    merged = []
    for i in kept:
        others = sorted(
            (j for j in range(size) if j != i), key=lambda j: (-float(keys[i] @ keys[j]), j)
        )
        merged.append(tokens[i] + sum(weights[j] * tokens[j] for j in others[:neighbors]))
    rest = [i for i in range(size) if i not in kept]
    if rest:
        merged.append(sum(weights[i] * tokens[i] for i in rest) / weights[rest].sum())
    return merged


def watched(attention: Any, key: Any, run: Callable[[], Any]) -> tuple[Tensor, Tensor]:
    """What one eager attention module of a vision side did during ``run``, in float64.

    Returns:
        Its probabilities [F, H, P, P] and the keys [F, P, D] from its projection ``key``.
    """
    seen: dict[str, Tensor] = {}

    def keep_weights(module: Any, args: Any, output: Any) -> None:
        seen["weights"] = output[1].double()

    def keep_keys(module: Any, args: Any, output: Tensor) -> None:
        seen["keys"] = output.double()

    hooks = [attention.register_forward_hook(keep_weights), key.register_forward_hook(keep_keys)]
    run()
    for hook in hooks:
        hook.remove()
    return seen["weights"], seen["keys"]
