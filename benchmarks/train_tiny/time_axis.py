"""A trained model whose rotary positions have an axis of time: the embedded one, taken over.

``placement.py`` asks where in time a merged token should stand, which the embedded model cannot
tell: its positions are places in the prompt. Training a second one from nothing would take as long
as the first did. But a decoder with positions of three axes has the same matrices, so this one
begins with the embedded model's, and learns in a few hundred steps to read time, row and column
where there were places. The embedded model's tower and projector see for it, frozen as they are in
their own training; the small tower that its class brings is not used.

Two formats of prompts, in the way of Qwen2.5-VL and of Qwen3-VL: a video as one run of tokens, its
time in the positions alone; or every frame after a word for its time, between markers. Positions
are those of Qwen3-VL in the second one; the decoder is Qwen2.5-VL's in both, because Qwen3-VL's
matrices are not the embedded model's (it has no biases, and norms of heads). How far apart
frames are varies from clip to clip, as it does between real videos.

What comes later stands later in a prompt, and a causal decoder this small tells a direction from
that alone: trained on frames in order it gave the same answers with the time reversed. So in half
of the clips the frames stand in random order, and only what the format says of the time is right.
At the default number of steps that is not enough: what comes out still goes by the order for nearly
all questions (``unmerged, time reversed`` in the results), so it says how far a merge's placement
moves a decoder, and little of one that reads the time. No content is merged in training, and no
position is one that a merge would give.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration

from prunevid_kernels.adapters import VideoSpan
from prunevid_kernels.adapters.families import FAMILIES
from prunevid_kernels.adapters.families.shape import DecoderShape

from ..datasets import drawing, synthetic
from ..datasets.clips import Clip
from ..datasets.synthetic import make_clip
from ..embedded.model import load_embedded_model
from .batches import (
    IGNORE,
    MAX_QUESTIONS,
    PROMPT,
    encode_question,
    shared_prefix_mask,
    to_pixels,
)
from .losses import visual_features
from .model import EMBEDDING_STD, TOKENS_PER_FRAME
from .muon import Muon
from .training import schedule

FORMATS = ("one run", "frames apart")
FAMILY = FAMILIES["qwen2_5_vl"]
SHUFFLED_SHARE = 0.5
SPACINGS = (1, 2, 4)  # from one frame to the next, in positions or in words for times
STREAM = 2000  # of random numbers; the embedded model's own training has others
CLIPS = 8  # of a step
LENGTHS = (4, 6, 8)
MUON_LR, ADAM_LR = 0.01, 0.002
STEPS = 240
TRAINED = "training.json"


@dataclass(frozen=True)
class TimedModel:
    """A model with positions of three axes, and what makes its prompts.

    Attributes:
        model: Qwen2.5-VL.
        tower: whose tower and projector see for it.
        tokenizer: of the words; words for times have the ids after its own.
        is_apart: whether frames stand apart, each after a word for its time.
    """

    model: Any
    tower: LlavaOnevisionForConditionalGeneration
    tokenizer: Any
    is_apart: bool

    def prompt(self, told: Sequence[int], spacing: int) -> tuple[list[int], VideoSpan]:
        """Ids up to the end of the video, and where its tokens are among them.

        Args:
            told: for each of T frames as they stand in the prompt, its number in time.
            spacing: from frame to frame.
        """
        num_frames = len(told)
        config = self.model.config
        start, end = config.vision_start_token_id, config.vision_end_token_id
        ids = self.tokenizer(PROMPT, add_special_tokens=False).input_ids
        if not self.is_apart:
            span = VideoSpan(len(ids) + 1, num_frames, TOKENS_PER_FRAME)
            return [*ids, start, *[config.video_token_id] * span.num_tokens, end], span
        places = []
        for frame in told:
            ids += [len(self.tokenizer) + frame * spacing, start]
            places.append(len(ids))
            ids += [config.video_token_id] * TOKENS_PER_FRAME + [end]
        return ids, VideoSpan.apart(places, TOKENS_PER_FRAME)

    def positions(self, ids: list[int], told: Sequence[int], spacing: int) -> Tensor:
        """[3, S] what the model's own class gives to a prompt with one video. Of frames in one run
        they tell the time; frames apart have theirs by their place in the prompt.

        Args:
            ids: of the prompt, what follows the video included.
            told: as of :meth:`prompt`.
            spacing: from frame to frame.
        """
        row = torch.tensor([ids])
        vision = self.model.config.vision_config
        side = drawing.GRID * vision.spatial_merge_size
        # Frames apart are grids of their own.
        grids = [[1, side, side]] * len(told) if self.is_apart else [[len(told), side, side]]
        positions, _ = self.model.model.get_rope_index(
            row,
            2 * (row == self.model.config.video_token_id).int(),
            video_grid_thw=torch.tensor(grids),
            second_per_grid_ts=torch.tensor([spacing / vision.tokens_per_second] * len(grids)),
        )
        positions = positions[:, 0]
        if not self.is_apart:
            places = (row[0] == self.model.config.video_token_id).nonzero()[:, 0]
            frames = places.view(len(told), -1)
            positions[:, frames] = positions[:, frames[list(told)]]
        return positions

    def embed(self, ids: Tensor, span: VideoSpan, features: Tensor) -> Tensor:
        """[B, S, C] of prompts [B, S] with a video's tokens ``features`` [B, T * N, C] in place."""
        embeds = self.model.get_input_embeddings()(ids)
        places = span.places(torch.arange(span.num_tokens))
        return embeds.index_copy(1, places, features)

    @torch.no_grad()
    def see(self, clips: list[Clip]) -> Tensor:
        """[B, T * N, C] the visual tokens of clips of equal length."""
        pixels = to_pixels(np.stack([clip.frames for clip in clips]))
        return visual_features(self.tower, pixels)[:, :-1]


def begin(name: str) -> TimedModel:
    """The untrained model of a format of :data:`FORMATS`: the embedded model's decoder."""
    embedded = load_embedded_model()
    decoder = embedded.model.model.language_model
    times = SPACINGS[-1] * (synthetic.FRAMES - 1) + 1
    words = len(embedded.processor.tokenizer)
    shape = replace(DecoderShape.from_text_config(decoder.config), vocab_size=words + times)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _ = FAMILY.random_model(shape, embedded.processor, is_reduced=True)
        table = torch.randn(words + times, shape.hidden_size) * EMBEDDING_STD
    table[:words] = embedded.model.get_input_embeddings().weight.detach()
    matrices = {**decoder.state_dict(), "embed_tokens.weight": table}
    model.model.language_model.load_state_dict(matrices)
    with torch.no_grad():
        model.lm_head.weight.copy_(table)
    tokenizer = embedded.processor.tokenizer
    return TimedModel(model.eval(), embedded.model, tokenizer, is_apart=name == "frames apart")


def train(timed: TimedModel, steps: int, *, seed: int = 0) -> Iterator[tuple[float, float]]:
    """Train the decoder on questions about clips; after each step its loss and the share of right
    answers in its batch.

    Args:
        timed: what to train, in place.
        steps: all of them; the learning rates follow one warm-up and one cosine.
        seed: of the clips.
    """
    model = timed.model
    table = [model.get_input_embeddings().weight, model.lm_head.weight]
    inner = [p for p in model.model.language_model.parameters() if p is not table[0]]
    matrices = [p for p in inner if p.ndim == 2]
    rest = [p for p in inner if p.ndim != 2]
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [
        (Muon(matrices, lr=MUON_LR, weight_decay=0.01), MUON_LR),
        (torch.optim.AdamW(rest + table, lr=ADAM_LR, weight_decay=0.0), ADAM_LR),
    ]
    for step in range(steps):
        for optimizer, highest in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = highest * schedule(step, steps)
        rng = np.random.default_rng([seed, STREAM, step])
        num_frames = LENGTHS[step % len(LENGTHS)]
        first = 1_000_000 + step * CLIPS  # clips that the embedded model was not trained on
        clips = [
            make_clip("train", first + i, seed=seed, num_frames=num_frames) for i in range(CLIPS)
        ]
        loss, right = _answer_loss(timed, clips, rng)
        loss.backward()
        for optimizer, _ in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        yield loss.item(), right


def _answer_loss(
    timed: TimedModel, clips: list[Clip], rng: np.random.Generator
) -> tuple[Tensor, float]:
    """Loss and accuracy of several questions on each clip, which share its video."""
    spacing, num_frames = int(rng.choice(SPACINGS)), len(clips[0].frames)
    order = list(range(num_frames))
    if rng.random() < SHUFFLED_SHARE:
        order = rng.permutation(num_frames).tolist()
    features = timed.see(clips).unflatten(1, (num_frames, -1))[:, order].flatten(1, 2)
    asked = min(MAX_QUESTIONS, *(len(clip.questions) for clip in clips))
    rows = [
        encode_question(timed.tokenizer, question)
        for clip in clips
        for question in clip.questions[:asked]
    ]
    longest, pad = max(len(ids) for ids, _ in rows), timed.tokenizer.pad_token_id
    questions = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
    labels = torch.tensor([row + [IGNORE] * (longest - len(row)) for _, row in rows])
    ids, span = timed.prompt(order, spacing)
    positions = timed.positions([*ids, *[pad] * longest], order, spacing)
    tail = positions[:, len(ids) :].repeat(1, asked - 1)
    positions = torch.cat([positions, tail], dim=1)[:, None].expand(-1, len(clips), -1)
    prompts = torch.cat([torch.tensor([ids] * len(clips)), questions.view(len(clips), -1)], dim=1)
    output = timed.model.model.language_model(
        inputs_embeds=timed.embed(prompts, span, features),
        attention_mask=shared_prefix_mask(len(ids), asked, longest),
        position_ids=positions,
        use_cache=False,
    )
    logits = timed.model.lm_head(output.last_hidden_state[:, len(ids) :]).flatten(0, 1)
    target = labels.flatten()
    is_answer = labels != IGNORE
    is_answer &= is_answer.cumsum(dim=-1) == 1  # after it comes its end
    right = (logits.argmax(dim=-1) == target)[is_answer.flatten()].float().mean()
    return F.cross_entropy(logits, target, ignore_index=IGNORE), float(right)


def save(timed: TimedModel, folder: Path, steps: int) -> None:
    """Write the weights, as transformers does, and how long they were trained.

    Args:
        timed: a trained model.
        folder: to write to.
        steps: of its training.

    Raises:
        OSError: the folder cannot be written.
    """
    timed.model.save_pretrained(folder)
    (folder / TRAINED).write_text(json.dumps({"steps": steps}) + "\n", encoding="utf-8")


def load(name: str, folder: Path) -> tuple[TimedModel, int]:
    """A model that :func:`save` wrote, and the steps of its training.

    Args:
        name: of a format of :data:`FORMATS`.
        folder: of the model.

    Raises:
        CheckpointError: files missing or damaged, or of another format.
        OSError: no record of the training.
    """
    steps = json.loads((folder / TRAINED).read_text(encoding="utf-8"))["steps"]
    model = FAMILY.load(folder, dtype=torch.float32, device="cpu")
    return replace(begin(name), model=model), int(steps)
