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

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration

from ..datasets import synthetic
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
        self.row = nn.Linear(DECODER_WIDTH, synthetic.GRID)
        self.column = nn.Linear(DECODER_WIDTH, synthetic.GRID)
        self.motion = nn.Linear(DECODER_WIDTH, 1 + len(synthetic.DIRECTIONS))


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
) -> tuple[Tensor, float]:
    """Loss and accuracy of reading kind, colour, place, row and column out of every cell.

    ``word_groups``, here and below: ids of the words for kinds, colours, places and ordinals.
    """
    features, thinned = (visual_features(model, p)[:, :-1] for p in (batch.pixels, batch.thinned))
    directions = F.rms_norm(features, features.shape[-1:])
    words = model.get_input_embeddings().weight
    kind, color, place = (directions @ words[group].T for group in word_groups[:3])
    cells = torch.arange(TOKENS_PER_FRAME, device=features.device).expand(len(features), -1)
    rows, columns = cells // synthetic.GRID, cells % synthetic.GRID
    third = synthetic.GRID // 3
    losses = [
        _cross_entropy(kind, batch.kind),
        _cross_entropy(color, batch.color),
        _cross_entropy(PLACE_GAIN * place, rows // third * 3 + columns // third),
        _cross_entropy(PLACE_GAIN * probes.row(directions), rows),
        _cross_entropy(PLACE_GAIN * probes.column(directions), columns),
    ]
    mean = features.mean(dim=(0, 1))
    likeness = F.cosine_similarity(features - mean, thinned - mean, dim=-1)  # [B, 36]
    excess = (likeness[batch.is_removed] - HIGHEST_LIKENESS).relu()
    # A small batch may have removed nothing, and the mean over nothing is no number.
    losses.append(DIFFERENCE_WEIGHT * excess.sum() / batch.is_removed.sum().clamp(min=1))
    losses.append(SAMENESS_WEIGHT * (1 - likeness[~batch.is_removed]).mean())
    return torch.stack(losses).sum(), _accuracy(kind, batch.kind)


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
    output = model.model.language_model(
        inputs_embeds=torch.cat([before, video, newline, questions], dim=1),
        attention_mask=batch.may_attend,
        position_ids=batch.positions,
        use_cache=False,
        output_hidden_states=True,
    )
    num_questions, longest = batch.question_ids.shape[1:]
    last = output.last_hidden_state[:, -num_questions * longest :]
    logits = model.lm_head(last).unflatten(1, (num_questions, longest))
    return logits, output.hidden_states


def _probe_loss(probes: Probes, ordinals: Tensor, hidden: Tensor, shown: ShownClips) -> Tensor:
    """Loss of reading motion with its head, and scenes with the embeddings of ``ordinals``."""
    # Few tokens show something that moves, and they are what this is about.
    weight = torch.tensor([0.1] + [4.0] * len(synthetic.DIRECTIONS), device=hidden.device)
    motion = _cross_entropy(probes.motion(hidden), shown.motion, weight)
    scene = F.rms_norm(hidden, hidden.shape[-1:]) @ ordinals.T
    return motion + _cross_entropy(scene, shown.scene)


def _cross_entropy(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    return F.cross_entropy(scores.flatten(0, -2), target.flatten(), weight, ignore_index=IGNORE)


def _accuracy(scores: Tensor, target: Tensor) -> float:
    counts = target != IGNORE
    return float((scores.argmax(dim=-1) == target)[counts].float().mean())
