"""What the embedded model is trained on: the stages' losses, and the heads that only training has.

``see_loss`` reads every cell of a frame out of its visual token with the decoder's own word
embeddings. ``answer_loss`` is that of the answers; beside it, the last word of a question has to
know kind and colour of the shape that is asked about, and visual tokens motion and scene.

A token should say what is in its cell, far more than where the cell is or what is elsewhere in the
frame, or a merge by similarity takes what comes and goes for what stays. So places are read with a
high gain, which keeps their part of a token small, and two frames are seen that differ by some of
their shapes: where a shape is in one of them only, the features, once the mean is taken off, should
point away from each other; where both show the same, they should agree, whatever is around.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    LlavaOnevisionForConditionalGeneration,
    PretrainedConfig,
)

from ..datasets import drawing
from .batches import IGNORE, Batch, DenseFrames, ShownClips
from .model import DECODER_WIDTH, TOKENS_PER_FRAME

PLACE_GAIN = 3.0
DIFFERENCE_WEIGHT = 5.0
HIGHEST_LIKENESS = -0.2  # cosine, of a cell with a shape and the same cell without it
SAMENESS_WEIGHT = 2.0
NOUN_LAYER = 3  # decoder layers before the last word of a question is read
PROBED_LAYER = 2  # decoder layers before motion and scene are read


class Probes(nn.Module):
    """Linear heads that help training and are not part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Linear(DECODER_WIDTH, drawing.GRID)
        self.column = nn.Linear(DECODER_WIDTH, drawing.GRID)
        self.motion = nn.Linear(DECODER_WIDTH, 1 + len(drawing.DIRECTIONS))


def visual_features(model: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> Tensor:
    """[B, V + 1, C]: what the decoder gets for pixels [B, T, 3, H, W], newline included."""
    config = model.config
    return model.model.get_video_features(
        pixels,
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
    ).pooler_output


def see_loss(
    model: LlavaOnevisionForConditionalGeneration,
    probes: Probes,
    word_groups: Sequence[Tensor],
    batch: DenseFrames,
    *,
    highest_likeness: float = HIGHEST_LIKENESS,
    where_weight: float = 0.0,
    shape_weight: float = 0.0,
) -> tuple[Tensor, float]:
    """Loss and accuracy of reading kind, colour, place, row and column out of every cell.

    ``where_weight``: share in the loss of where the tower's attention goes, see
    :func:`_where_loss`. ``shape_weight``: that of the cells with a shape, of which kind they show.

    ``word_groups``, here and below: ids of the words for kinds, colours, places and ordinals.
    """
    with _last_attention(model) as attention:
        features = visual_features(model, batch.pixels)[:, :-1]
    thinned = visual_features(model, batch.thinned)[:, :-1]
    directions = F.rms_norm(features, features.shape[-1:])
    words = model.get_input_embeddings().weight
    kind, color, place = (directions @ words[group].T for group in word_groups[:3])
    cells = torch.arange(TOKENS_PER_FRAME, device=features.device).expand(len(features), -1)
    rows, columns = cells // drawing.GRID, cells % drawing.GRID
    third = drawing.GRID // 3
    losses = [
        _cross_entropy(kind, batch.kind),
        _cross_entropy(color, batch.color),
        _cross_entropy(PLACE_GAIN * place, rows // third * 3 + columns // third),
        _cross_entropy(PLACE_GAIN * probes.row(directions), rows),
        _cross_entropy(PLACE_GAIN * probes.column(directions), columns),
    ]
    mean = features.mean(dim=(0, 1))
    likeness = F.cosine_similarity(features - mean, thinned - mean, dim=-1)  # [B, 36]
    excess = (likeness[batch.is_removed] - highest_likeness).relu()
    # A small batch may have removed nothing, and the mean over nothing is no number.
    losses.append(DIFFERENCE_WEIGHT * excess.sum() / batch.is_removed.sum().clamp(min=1))
    losses.append(SAMENESS_WEIGHT * (1 - likeness[~batch.is_removed]).mean())
    if shape_weight:
        shapes = batch.kind.where(batch.color != IGNORE, IGNORE)
        losses.append(shape_weight * _cross_entropy(kind, shapes))
    if where_weight:
        losses.append(where_weight * _where_loss(attention(), batch))
    return torch.stack(losses).sum(), _accuracy(kind, batch.kind)


def _where_loss(attention: Tensor, batch: DenseFrames) -> Tensor:
    """The tower's attention should go where shapes are, to all of them alike.

    Args:
        attention: [B, 36] share that each cell gets.
        batch: frames, of which some may be empty: those do not count.
    """
    shows = (batch.color != IGNORE).to(attention.dtype)  # [B, 36]
    wanted = shows / shows.sum(dim=1, keepdim=True).clamp(min=1)
    return -(wanted * attention.log()).sum(dim=1).mean()


@contextmanager
def _last_attention(
    model: LlavaOnevisionForConditionalGeneration,
) -> Iterator[Callable[[], Tensor]]:
    """Of the tower's run inside the block: a function that gives [B, 36], the share of its last
    layer's attention that each cell gets, the mean over heads and patches.

    That is what methods rank tokens by that ask a tower without a class token.
    """
    last = model.model.vision_tower.encoder.layers[-1].self_attn
    rows: dict[str, Tensor] = {}

    def received() -> Tensor:
        query, key = (
            rows[name].unflatten(-1, (last.num_heads, -1)).transpose(1, 2) for name in ("q", "k")
        )  # [B, H, P, D]
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        patches = scores.softmax(dim=-1).mean(dim=(1, 2))  # [B, P]
        return patches.unflatten(-1, (drawing.GRID, 2, drawing.GRID, 2)).sum(dim=(2, 4)).flatten(1)

    hooks = [
        module.register_forward_hook(lambda _, args, output, name=name: rows.update({name: output}))
        for name, module in (("q", last.q_proj), ("k", last.k_proj))
    ]
    try:
        yield received
    finally:
        for hook in hooks:
            hook.remove()


def watch_loss(
    model: LlavaOnevisionForConditionalGeneration,
    probes: Probes,
    word_groups: Sequence[Tensor],
    batch: ShownClips,
) -> Tensor:
    """Loss of motion and scene alone, for which the decoder's first layers are enough."""
    ordinals = model.get_input_embeddings().weight[word_groups[3]]
    with torch.no_grad():
        hidden = visual_features(model, batch.pixels)[:, :-1]
    decoder = model.model.language_model
    rotary = decoder.rotary_emb(hidden, batch.positions)
    for layer in decoder.layers[:PROBED_LAYER]:
        # Without a mask attention is causal.
        hidden = layer(hidden, attention_mask=None, position_embeddings=rotary)
    return _probe_loss(probes, ordinals, hidden, batch)


def answer_loss(
    model: LlavaOnevisionForConditionalGeneration,
    probes: Probes,
    word_groups: Sequence[Tensor],
    batch: Batch,
    *,
    noun_weight: float,
    probe_weight: float,
) -> tuple[Tensor, float]:
    """Loss of answers (and of the two heads), and the share of right answer words."""
    answers, hidden = answer_logits(model, batch)
    words = model.get_input_embeddings().weight
    loss = _cross_entropy(answers, batch.labels)
    if noun_weight:
        num_questions, longest = batch.question_ids.shape[1:]
        texts = hidden[NOUN_LAYER][:, -num_questions * longest :].unflatten(
            1, (num_questions, longest)
        )
        at = batch.noun[..., None, None].expand(-1, -1, 1, texts.shape[-1])
        nouns = F.rms_norm(texts.gather(2, at).squeeze(2), texts.shape[-1:])  # [B, Q, C]
        kind, color = (nouns @ words[group].T for group in word_groups[:2])
        loss = loss + noun_weight * (
            _cross_entropy(kind, batch.kind) + _cross_entropy(color, batch.color)
        )
    if probe_weight:
        start = len(batch.prefix_ids)
        seen = hidden[PROBED_LAYER][:, start : start + batch.shown.motion.shape[1]]
        loss = loss + probe_weight * _probe_loss(probes, words[word_groups[3]], seen, batch.shown)
    is_answer = batch.labels != IGNORE
    is_answer = is_answer & (is_answer.cumsum(dim=-1) == 1)  # the answer; after it comes its end
    return loss, _accuracy(answers, torch.where(is_answer, batch.labels, IGNORE))


def answer_logits(
    model: LlavaOnevisionForConditionalGeneration, batch: Batch
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """[B, Q, L, vocabulary] logits of the questions, and [B, S, C] before and after each layer."""
    embed = model.get_input_embeddings()
    # Tower and projector are frozen in every stage that asks questions.
    with torch.no_grad():
        video = visual_features(model, batch.shown.pixels)[:, :-1]
    newline = model.model.image_newline.expand(len(video), 1, -1)
    before = embed(batch.prefix_ids).expand(len(video), -1, -1)
    questions = embed(batch.question_ids.flatten(1))  # [B, Q * L, C]
    embeds = torch.cat([before, video, newline, questions], dim=1)
    with _prefix_apart(model.model.language_model.config):
        output = model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=batch.may_attend,
            position_ids=batch.positions,
            use_cache=False,
            output_hidden_states=True,
            num_prefix=embeds.shape[1] - questions.shape[1],
        )
    num_questions, longest = batch.question_ids.shape[1:]
    last = output.last_hidden_state[:, -num_questions * longest :]
    logits = model.lm_head(last).unflatten(1, (num_questions, longest))
    return logits, output.hidden_states


_PREFIX_APART = "prunevid_prefix_apart"


@contextmanager
def _prefix_apart(config: PretrainedConfig) -> Iterator[None]:
    """Inside the block, a decoder attends to the video without its mask, see
    :func:`_prefix_attention`."""
    usual = config._attn_implementation
    config._attn_implementation = _PREFIX_APART
    try:
        yield
    finally:
        config._attn_implementation = usual


def _prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float,
    num_prefix: int,
    **options: Any,
) -> tuple[Tensor, None]:
    """What the mask of a batch says, in two parts: the prefix, shared by all questions, is causal,
    so that half of its products are left out; the mask is for the questions. [B, S, H, D]."""
    parts = []
    for rows in (slice(num_prefix), slice(num_prefix, None)):
        is_prefix = rows.start is None
        seen = slice(num_prefix) if is_prefix else slice(None)
        parts.append(
            F.scaled_dot_product_attention(
                query[:, :, rows],
                key[:, :, seen],
                value[:, :, seen],
                attn_mask=None if is_prefix else attention_mask[:, :, rows],
                is_causal=is_prefix,
                scale=scaling,
                enable_gqa=True,
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register(_PREFIX_APART, _prefix_attention)


def _probe_loss(probes: Probes, ordinals: Tensor, hidden: Tensor, shown: ShownClips) -> Tensor:
    """Loss of reading motion with its head, and scenes with the embeddings of ``ordinals``."""
    # Few tokens show something that moves, and they are what this is about.
    weight = torch.tensor([0.1] + [4.0] * len(drawing.DIRECTIONS), device=hidden.device)
    motion = _cross_entropy(probes.motion(hidden), shown.motion, weight)
    scene = F.rms_norm(hidden, hidden.shape[-1:]) @ ordinals.T
    return motion + _cross_entropy(scene, shown.scene)


def _cross_entropy(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    return F.cross_entropy(scores.flatten(0, -2), target.flatten(), weight, ignore_index=IGNORE)


def _accuracy(scores: Tensor, target: Tensor) -> float:
    counts = target != IGNORE
    return float((scores.argmax(dim=-1) == target)[counts].float().mean())
