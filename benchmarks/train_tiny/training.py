"""Train an embedded model from nothing but a seed; the plain one in three stages.

Trained end to end from scratch, a model this small learns to see only after hours. So it is taught
in the order in which one thing needs another:

* ``see``: tower and projector learn what each cell of a frame shows. What they see is read out with
  the decoder's own word embeddings, so that a visual token *is* the sum of its words from then on.
  Then the features are shifted and scaled to mean 0 and standard deviation 0.5 (density-peak
  clustering tells groups apart at that spread), and both stay as they are for the rest.
* ``find``: questions about single frames, which attention is made ready for (``match_content``);
  beside them clips are watched: linear heads read motion and scene out of the visual tokens after
  the second decoder layer. The heads are thrown away after training.
* ``answer``: all questions, about clips of four to eight frames.

The hard model begins with all of that, see ``curriculum``.

Matrices are optimised with Muon, the rest with AdamW, one warm-up and one cosine a stage. Data and
initial weights follow from the seed and the number of the step, so a run that was interrupted goes
on from its last saved state to the same weights. AdamW alone takes several times as many steps.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from ..datasets import drawing
from ..datasets.clips import Clip
from .batches import KINDS, clip_batch, dense_frames, show_clips
from .curriculum import CURRICULUM, HARD_CURRICULUM, Stage
from .losses import Probes, answer_loss, see_loss, visual_features, watch_loss
from .model import build_model, build_tokenizer, match_content
from .muon import Muon
from .tasks import PLAIN, Task

FEATURE_STD = 0.5
WARM_UP_STEPS = 15
WORD_LR_SHARE = 0.3
STANDARDISING_FRAMES = 256
STANDARDISING_STREAM = 1000  # of random numbers; those of the stages are numbered from 0
WATCHED_LENGTHS = (4, 6, 8)


def curriculum_of(task: Task) -> tuple[Stage, ...]:
    """The whole curriculum of a task."""
    return CURRICULUM if task is PLAIN else HARD_CURRICULUM


class StateError(ValueError):
    """A saved state that cannot be taken up; the message is one line."""


def shortened(curriculum: Sequence[Stage], steps: int) -> tuple[Stage, ...]:
    """The curriculum with ``steps`` steps in all, at least one a stage, in about the same shares.

    Raises:
        ValueError: fewer steps than stages, or more than the curriculum has.
    """
    total = sum(stage.steps for stage in curriculum)
    if not len(curriculum) <= steps <= total:
        raise ValueError(f"steps must be in [{len(curriculum)}, {total}], got {steps}")
    spare, cut = steps - len(curriculum), total - len(curriculum)
    ends = [0]
    for stage in curriculum:
        ends.append(ends[-1] + stage.steps - 1)
    shares = [1 + spare * end // cut - spare * start // cut for start, end in pairwise(ends)]
    return tuple(
        replace(stage, steps=share) for stage, share in zip(curriculum, shares, strict=True)
    )


# ---- what comes before a stage


@torch.no_grad()
def _standardise_features(
    model: LlavaOnevisionForConditionalGeneration, seed: int, device: str, task: Task
) -> None:
    """Fold mean and spread of the features of dense frames into the projector's last layer."""
    frames = dense_frames(
        STANDARDISING_FRAMES, np.random.default_rng([seed, STANDARDISING_STREAM]), task
    )
    features = visual_features(model, frames.pixels.to(device))[:, :-1]
    scale = FEATURE_STD / features.std()
    last = model.model.multi_modal_projector.linear_2
    last.weight.mul_(scale)
    last.bias.copy_((last.bias - features.mean(dim=(0, 1))) * scale)


def _optimizers(
    stage: Stage, model: LlavaOnevisionForConditionalGeneration, probes: Probes
) -> list[torch.optim.Optimizer]:
    """Muon for matrices inside the network, AdamW for embeddings, norms, biases and heads."""
    core = model.model
    networks = (
        [core.vision_tower, core.multi_modal_projector] if stage.sees else [core.language_model]
    )
    embeddings = model.get_input_embeddings().weight
    inner = [p for network in networks for p in network.parameters() if p is not embeddings]
    matrices = [p for p in inner if p.ndim == 2 and min(p.shape) > 1]
    chosen = {id(p) for p in matrices}
    rest = [p for p in inner if id(p) not in chosen]
    rest += [core.image_newline, *probes.parameters()]
    # Once the tower is frozen, words must not leave the features that were made to equal them.
    word_lr = stage.adam_lr if stage.sees else WORD_LR_SHARE * stage.adam_lr
    others = torch.optim.AdamW(
        [
            {"params": rest, "highest_lr": stage.adam_lr},
            {"params": [embeddings], "highest_lr": word_lr},
        ],
        weight_decay=0.0,
        betas=(0.9, 0.98),
    )
    matrix_group = {"params": matrices, "highest_lr": stage.muon_lr}
    return [Muon([matrix_group], lr=stage.muon_lr, weight_decay=0.01), others]


def schedule(step: int, steps: int) -> float:
    """Share of the highest learning rate: linear warm-up, then half a cosine down to nothing."""
    warm_up = min(WARM_UP_STEPS, steps // 4 + 1)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


# ---- the run


class Training:
    """A run that can be left at any step and taken up again.

    Attributes:
        stage_index, step: the stage at work, and how many of its steps are done.
    """

    def __init__(
        self,
        seed: int,
        device: str,
        curriculum: Sequence[Stage] | None = None,
        task: Task = PLAIN,
    ) -> None:
        chosen = curriculum_of(task) if curriculum is None else curriculum
        self.seed, self.device, self.curriculum, self.task = seed, device, tuple(chosen), task
        self.tokenizer = build_tokenizer(task)
        self.model = build_model(seed, task).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.probes = Probes().to(device)
        self.stage_index = self.step = 0
        self._optimizers: list[torch.optim.Optimizer] = []
        places = [place for row in drawing.PLACES for place in row]
        words = (KINDS, task.colors, places, task.ordinals)
        ids = self.tokenizer.convert_tokens_to_ids
        self._word_groups = [torch.tensor(ids(list(group)), device=device) for group in words]

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.curriculum)

    @property
    def steps_by_stage(self) -> dict[str, int]:
        return {stage.name: stage.steps for stage in self.curriculum}

    @property
    def steps_done(self) -> int:
        return sum(stage.steps for stage in self.curriculum[: self.stage_index]) + self.step

    @property
    def is_done(self) -> bool:
        return self.stage_index == len(self.curriculum)

    @property
    def stage(self) -> Stage:
        return self.curriculum[self.stage_index]

    def advance(self) -> tuple[float, float]:
        """Do one step; returns its loss and the share of right answers in its batch."""
        stage = self.stage
        if not self._optimizers:
            if self.step == 0:
                self._prepare(stage)
            self._optimizers = _optimizers(stage, self.model, self.probes)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["highest_lr"] * schedule(self.step, stage.steps)
        loss, accuracy = self._loss(stage)
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        if self.step == stage.steps:
            self.stage_index, self.step, self._optimizers = self.stage_index + 1, 0, []
        return loss.item(), accuracy

    def _prepare(self, stage: Stage) -> None:
        if stage.sees or not self.curriculum[self.stage_index - 1].sees:
            return
        _standardise_features(self.model, self.seed, self.device, self.task)
        if self.task.start is None:
            generator = torch.Generator().manual_seed(self.seed)
            match_content(self.model, self._word_groups[:2], generator)

    def _loss(self, stage: Stage) -> tuple[Tensor, float]:
        rng = np.random.default_rng([self.seed, self.stage_index, self.step])
        num_frames = stage.frames[self.step % len(stage.frames)]
        if num_frames == 0:
            frames = dense_frames(stage.clips, rng, self.task).to(self.device)
            return see_loss(
                self.model,
                self.probes,
                self._word_groups,
                frames,
                highest_likeness=stage.highest_likeness,
                where_weight=stage.where_weight,
                shape_weight=stage.shape_weight,
            )
        clips = self._clips(stage.clips_of(num_frames), num_frames)
        batch = clip_batch(
            self.tokenizer,
            clips,
            rng,
            most_questions=stage.questions,
            longest_clip=self.task.longest if self.task.longest > self.task.frames else None,
        ).to(self.device)
        loss, accuracy = answer_loss(
            self.model,
            self.probes,
            self._word_groups,
            batch,
            noun_weight=stage.noun_weight,
            probe_weight=stage.probe_weight,
        )
        if stage.watched_frames:
            length = WATCHED_LENGTHS[self.step % len(WATCHED_LENGTHS)]
            watched = show_clips(self._clips(stage.watched_frames // length, length), rng)
            loss = loss + watch_loss(
                self.model, self.probes, self._word_groups, watched.to(self.device)
            )
        return loss, accuracy

    def _clips(self, count: int, num_frames: int) -> list[Clip]:
        """The clips of this step, which no other step of its stage sees."""
        first = self.step * count
        return [
            self.task.make_clip("train", first + i, seed=self.seed, num_frames=num_frames)
            for i in range(count)
        ]

    def save(self, path: Path) -> None:
        """Write everything that :meth:`load` needs to go on from here.

        Raises:
            OSError: the file cannot be written.
        """
        state = {
            "run": self._identity(),
            "stage_index": self.stage_index,
            "step": self.step,
            "model": self.model.state_dict(),
            "probes": self.probes.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        unfinished = path.with_suffix(".unfinished")
        torch.save(state, unfinished)
        unfinished.replace(path)  # whoever is killed while writing leaves the state before

    def load(self, path: Path) -> None:
        """Take up a run that :meth:`save` left.

        Raises:
            OSError: the file cannot be read.
            StateError: it is the state of a run with another seed or curriculum, or no state.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            run = state["run"]
        except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise StateError(f"{path}: not the state of a training run") from error
        if run != self._identity():
            raise StateError(
                f"{path}: a run for the {run['task']} task with seed {run['seed']} and steps"
                f" {run['steps']}"
            )
        self.stage_index, self.step = state["stage_index"], state["step"]
        self.model.load_state_dict(state["model"])
        self.probes.load_state_dict(state["probes"])
        self._optimizers = []
        if self.step:
            self._optimizers = _optimizers(self.stage, self.model, self.probes)
            for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)

    def _identity(self) -> dict[str, object]:
        return {"task": self.task.name, "seed": self.seed, "steps": self.steps_by_stage}
