"""A trained model whose rotary positions have an axis of time: the embedded one, taken over.

``placement.py`` asks where in time a merged token should stand, which the embedded model cannot
tell: its positions are places in the prompt. Training a second one from nothing would take as long
as the first did. But a decoder with positions of three axes has the same matrices, so this one
begins with the embedded model's, and learns in a few hundred steps to read time, row and column
where there were places. The embedded model's tower and projector see for it, frozen as they are in
their own training; the small tower that its class brings is not used.

Two formats of prompts, those of Qwen2.5-VL and of Qwen3-VL: a video as one run of tokens, its time
in the positions alone; or every frame after a word for its time, between markers. How far apart
frames are varies from clip to clip, as it does between real videos. No content is merged in
training, and no position is one that a merge would give.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration

from prunevid_kernels.adapters import VideoSpan
from prunevid_kernels.adapters.families import FAMILIES
from prunevid_kernels.adapters.families.shape import DecoderShape

from ..datasets import synthetic
from ..datasets.synthetic import Clip, make_clip
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

FORMATS = {"one run": "qwen2_5_vl", "frames apart": "qwen3_vl"}
SPACINGS = (1, 2, 4)  # from one frame to the next, in positions or in words for times
STREAM = 2000  # of random numbers; the embedded model's own training has others
CLIPS = 8  # of a step
LENGTHS = (4, 6, 8)
MUON_LR, ADAM_LR = 0.01, 0.002
STEPS = 300


@dataclass(frozen=True)
class TimedModel:
    """A model with positions of three axes, and what makes its prompts.

    Attributes:
        model: of a family of :data:`FORMATS`.
        tower: whose tower and projector see for it.
        tokenizer: of the words; words for times have the ids after its own.
        is_apart: whether frames stand apart, each after a word for its time.
    """

    model: Any
    tower: LlavaOnevisionForConditionalGeneration
    tokenizer: Any
    is_apart: bool

    def prompt(self, num_frames: int, spacing: int) -> tuple[list[int], VideoSpan]:
        """Ids up to the end of the video, and where its tokens are among them.

        Args:
            num_frames: T.
            spacing: from frame to frame.
        """
        config = self.model.config
        start, end = config.vision_start_token_id, config.vision_end_token_id
        ids = self.tokenizer(PROMPT, add_special_tokens=False).input_ids
        if not self.is_apart:
            span = VideoSpan(len(ids) + 1, num_frames, TOKENS_PER_FRAME)
            return [*ids, start, *[config.video_token_id] * span.num_tokens, end], span
        places = []
        for frame in range(num_frames):
            ids += [len(self.tokenizer) + frame * spacing, start]
            places.append(len(ids))
            ids += [config.video_token_id] * TOKENS_PER_FRAME + [end]
        return ids, VideoSpan.apart(places, TOKENS_PER_FRAME)

    def positions(self, ids: list[int], num_frames: int, spacing: int) -> Tensor:
        """[3, S] what the model's own class gives to a prompt with one video.

        Args:
            ids: of the prompt, what follows the video included.
            num_frames: T.
            spacing: from frame to frame.
        """
        row = torch.tensor([ids])
        vision = self.model.config.vision_config
        side = synthetic.GRID * vision.spatial_merge_size
        timing = {}
        if not self.is_apart:
            seconds = spacing / vision.tokens_per_second
            timing["second_per_grid_ts"] = torch.tensor([seconds])
        positions, _ = self.model.model.get_rope_index(
            row,
            2 * (row == self.model.config.video_token_id).int(),
            video_grid_thw=torch.tensor([[num_frames, side, side]]),
            **timing,
        )
        return positions[:, 0]

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
    """The untrained model of a format of :data:`FORMATS`: the embedded decoder's matrices wherever
    its own have the same name and shape.

    Raises:
        KeyError: an unknown format.
    """
    embedded = load_embedded_model()
    decoder = embedded.model.model.language_model
    times = SPACINGS[-1] * (synthetic.FRAMES - 1) + 1
    words = len(embedded.processor.tokenizer)
    shape = replace(DecoderShape.from_text_config(decoder.config), vocab_size=words + times)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _ = FAMILIES[FORMATS[name]].random_model(
            shape, embedded.processor, is_reduced=True
        )
        table = torch.randn(words + times, shape.hidden_size) * EMBEDDING_STD
    table[:words] = embedded.model.get_input_embeddings().weight.detach()
    own = model.model.language_model.state_dict()
    trained = {
        key: value
        for key, value in decoder.state_dict().items()
        if key in own and own[key].shape == value.shape
    }
    model.model.language_model.load_state_dict({**own, **trained})
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(table)
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
        loss, right = _answer_loss(timed, clips, int(rng.choice(SPACINGS)))
        loss.backward()
        for optimizer, _ in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        yield loss.item(), right


def _answer_loss(timed: TimedModel, clips: list[Clip], spacing: int) -> tuple[Tensor, float]:
    """Loss and accuracy of several questions on each clip, which share its video."""
    num_frames = len(clips[0].frames)
    asked = min(MAX_QUESTIONS, *(len(clip.questions) for clip in clips))
    rows = [
        encode_question(timed.tokenizer, question)
        for clip in clips
        for question in clip.questions[:asked]
    ]
    longest, pad = max(len(ids) for ids, _ in rows), timed.tokenizer.pad_token_id
    questions = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
    labels = torch.tensor([row + [IGNORE] * (longest - len(row)) for _, row in rows])
    ids, span = timed.prompt(num_frames, spacing)
    positions = timed.positions([*ids, *[pad] * longest], num_frames, spacing)
    tail = positions[:, len(ids) :].repeat(1, asked - 1)
    positions = torch.cat([positions, tail], dim=1)[:, None].expand(-1, len(clips), -1)
    prompts = torch.cat([torch.tensor([ids] * len(clips)), questions.view(len(clips), -1)], dim=1)
    output = timed.model.model.language_model(
        inputs_embeds=timed.embed(prompts, span, timed.see(clips)),
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
