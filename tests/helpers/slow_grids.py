"""Pruned decoding of models with positions of three axes, written to be read: no hooks, no cache,
no gather, no batch.

A prompt is a list of rows, each with its embedding, its position and what it is; merging makes a
new list. The sequence is run anew for every logit, in float64, in a plain loop over the layers,
with dropped tokens kept in place and hidden by the mask.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from tiny_grids import Question, inputs_of
from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig, merge_video

STEPS = 5


@dataclass
class Row:
    """One token: its embedding [C], its position on three axes, what the decoder adds to it after
    its first layers [planes, C], and what it is."""

    embed: Tensor
    position: Tensor
    planes: Tensor | None = None
    video: int = -1
    index: int = -1  # among the video's merged tokens
    is_question: bool = False
    is_dropped: bool = False
    is_answer: bool = False


class SlowGrids:
    """One prompt, and what was answered so far."""

    def __init__(self, model: Any, question: Question, config: PruneVidConfig) -> None:
        self.config, self.question = config, question
        self.model = deepcopy(model).double()
        self.core = self.model.model
        self.decoder = self.core.language_model
        self.decoder.config._experts_implementation = "eager"  # the only one in float64
        self.rows: list[Row] = []
        self.videos: list[MergedVideo] = []
        self.kept: list[list[int]] = []
        self._lay_out(model)
        if config.select:
            self._select()

    # ---- the prompt

    def _lay_out(self, model: Any) -> None:
        inputs = inputs_of(self.question)
        positions = self._positions(inputs)
        features = self._features(model, inputs)
        table = self.decoder.embed_tokens.weight
        ids = self.question.ids
        text = [Row(table[token], positions[:, i]) for i, token in enumerate(ids)]
        places: dict[int, list[Row]] = {}  # what stands in the place of a token
        last = 0
        for clip, starts in zip(self.question.clips, self.question.frames, strict=True):
            own, planes = features.pop(0)
            width = clip.rows * clip.columns
            source = [start + n for start in starts for n in range(width)]
            places |= {place: [] for place in source}
            if clip.is_image:
                for place, embed, plane in zip(source, own, planes, strict=True):
                    places[place] = [Row(embed, positions[:, place], plane)]
                continue
            merged = merge_video(own.unflatten(0, (clip.frames, width)).float(), self.config)
            targets = merged.layout.source_to_merged.flatten()
            for index in range(merged.layout.num_merged):
                members = (targets == index).nonzero()[:, 0]
                first = int(members.min())
                row = Row(
                    own[members].double().mean(dim=0),
                    positions[:, source[first]],
                    planes[members].double().mean(dim=0),
                    video=len(self.videos),
                    index=index,
                )
                places[starts[first // width]].append(row)
            self.videos.append(merged)
            last = source[-1]
            for place in range(starts[0], last):  # between frames: of the video, no question
                text[place].video = -2
        for place, row in enumerate(text):
            own_rows = places.get(place)
            self.rows += [row] if own_rows is None else own_rows
        self._ask()

    def _ask(self) -> None:
        """Text after the first video may ask; of which videos, :meth:`_asking` says."""
        for row in self.rows:
            row.is_question = row.video == -1 and row.planes is None

    def _asking(self, video: int) -> list[int]:
        last = max(i for i, row in enumerate(self.rows) if row.video == video)
        return [i for i in range(last + 1, len(self.rows)) if self.rows[i].is_question]

    def _positions(self, inputs: dict[str, Tensor]) -> Tensor:
        """[3, S] as transformers gives them."""
        names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
        given = {name: inputs[name] for name in names if name in inputs}
        found, _ = self.core.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], **given
        )
        return found[:, 0]

    def _features(self, model: Any, inputs: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Of each clip in order: tokens [V, C] and planes [V, planes, C]."""
        of_kind: dict[bool, Any] = {}
        for is_image, name in ((True, "image"), (False, "video")):
            pixels = "pixel_values" if is_image else "pixel_values_videos"
            if pixels not in inputs:
                continue
            encode = getattr(model.model, f"get_{name}_features")
            out = encode(inputs[pixels], inputs[f"{name}_grid_thw"], return_dict=True)
            sizes = [len(tokens) for tokens in out.pooler_output]
            planes = [  # older versions have those of all clips together
                plane.split(sizes) if isinstance(plane, Tensor) else plane
                for plane in getattr(out, "deepstack_features", None) or []
            ]
            of_kind[is_image] = [
                (
                    tokens,
                    torch.stack([plane[i] for plane in planes], dim=1)
                    if planes
                    else tokens.new_zeros(len(tokens), 0, tokens.shape[1]),
                )
                for i, tokens in enumerate(out.pooler_output)
            ]
        return [of_kind[clip.is_image].pop(0) for clip in self.question.clips]

    # ---- the selection

    def _select(self) -> None:
        query, key = self._heads(self._run(self.config.layer), self.config.layer)
        if self.config.score == "rope":
            query, key = self._rotate(query), self._rotate(key)
            visible = self._visible(self.config.layer)
        else:
            visible = torch.ones(len(self.rows), len(self.rows), dtype=torch.bool)
        weights = self._weights(query, key, visible, self.config.layer)
        drops: list[Row] = []
        for number, video in enumerate(self.videos):
            own = [i for i, row in enumerate(self.rows) if row.video == number]
            scores = weights[:, self._asking(number)][..., own].amax(dim=(0, 1))
            kept = self._best(scores, video)
            self.kept.append(kept)
            drops += [self.rows[i] for index, i in enumerate(own) if index not in kept]
        for row in drops:
            row.is_dropped = True

    def _best(self, scores: Tensor, video: MergedVideo) -> list[int]:
        kept, start = [], 0
        for size in video.layout.group_sizes.tolist():
            order = sorted(range(start, start + size), key=lambda i: (-float(scores[i]), i))
            kept += order[: int(size * self.config.keep_ratio)]
            start += size
        return sorted(kept)

    # ---- the decoder

    def greedy(self, steps: int = STEPS) -> tuple[list[int], Tensor]:
        """The next tokens and their logits [steps, vocabulary]."""
        tokens, logits = [], []
        for _ in range(steps):
            hidden = self.decoder.norm(self._run(len(self.decoder.layers)))
            logits.append(self.model.lm_head(hidden[-1]))
            tokens.append(int(logits[-1].argmax()))
            self.feed(tokens[-1])
        return tokens, torch.stack(logits)

    def feed(self, token: int) -> None:
        """Text after the prompt."""
        place = self.rows[-1].position + 1
        self.rows.append(Row(self.decoder.embed_tokens.weight[token], place, is_answer=True))

    def _run(self, layers: int) -> Tensor:
        hidden = torch.stack([row.embed.double() for row in self.rows])
        for index in range(layers):
            layer = self.decoder.layers[index]
            query, key = self._heads(hidden, index)
            value = self._split(layer.self_attn.v_proj(layer.input_layernorm(hidden)), index)
            query, key = self._rotate(query), self._rotate(key)
            weights = self._weights(query, key, self._visible(index), index)
            mixed = weights @ self._repeat(value, index)
            hidden = hidden + layer.self_attn.o_proj(mixed.transpose(0, 1).flatten(1))
            fed = layer.mlp(layer.post_attention_layernorm(hidden)[None])
            hidden = hidden + (fed[0] if isinstance(fed, tuple) else fed)[0]
            visual = [i for i, row in enumerate(self.rows) if row.planes is not None]
            if visual and index < len(self.rows[visual[0]].planes):
                added = torch.stack([self.rows[i].planes[index] for i in visual]).double()
                hidden = hidden.index_add(0, torch.tensor(visual), added)
        return hidden

    def _visible(self, layer: int) -> Tensor:
        size = len(self.rows)
        dropped = torch.tensor([row.is_dropped for row in self.rows])
        sees_all = torch.tensor([not row.is_answer for row in self.rows])
        if layer > self.config.layer:
            sees_all[:] = False
        return torch.ones(size, size, dtype=torch.bool).tril() & ~(dropped & ~sees_all[:, None])

    def _heads(self, hidden: Tensor, index: int) -> tuple[Tensor, Tensor]:
        layer = self.decoder.layers[index]
        normed, attention = layer.input_layernorm(hidden), layer.self_attn
        query, key = (
            self._split(projection(normed), index)
            for projection in (attention.q_proj, attention.k_proj)
        )
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        return query, key

    def _split(self, rows: Tensor, index: int) -> Tensor:
        """[heads, S, D]"""
        head_dim = self.decoder.layers[index].self_attn.head_dim
        return rows.unflatten(-1, (-1, head_dim)).transpose(0, 1)

    def _rotate(self, heads: Tensor) -> Tensor:
        rope = self.decoder.config.rope_parameters
        half = heads.shape[-1] // 2
        frequencies = rope["rope_theta"] ** -(torch.arange(half).double() / half)
        positions = torch.stack([row.position for row in self.rows]).double()  # [S, 3]
        section = rope["mrope_section"]
        axis = [0] * section[0] + [1] * section[1] + [2] * section[2]
        if rope.get("mrope_interleaved"):
            axis = [0] * half
            for number in (1, 2):
                for channel in range(number, 3 * section[number], 3):
                    axis[channel] = number
        angles = positions[:, axis] * frequencies
        first, second = heads.chunk(2, dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    def _repeat(self, heads: Tensor, index: int) -> Tensor:
        groups = self.decoder.layers[index].self_attn.num_key_value_groups
        return heads.repeat_interleave(groups, dim=0)

    def _weights(self, query: Tensor, key: Tensor, visible: Tensor, index: int) -> Tensor:
        logits = query @ self._repeat(key, index).transpose(1, 2) / key.shape[-1] ** 0.5
        return logits.masked_fill(~visible, -torch.inf).softmax(dim=-1).nan_to_num(0.0)


def assert_slow(result: Any, row: int, slow: SlowGrids, steps: int = STEPS) -> None:
    """A row of what ``generate`` gave goes on as the slow decoder does: ids equal, logits to
    1e-4."""
    tokens, logits = slow.greedy(steps)
    assert result.sequences[row, -steps:].tolist() == tokens
    actual = torch.stack(result.logits)[:, row].double()
    assert (actual - logits).abs().max() <= 1e-4 * max(1.0, float(logits.abs().max()))
