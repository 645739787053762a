"""What the trained model can do, measured on held-out questions through the public door.

The checkpoint is loaded from its folder and every question is answered by ``generate``, with all
visual tokens, with methods at their defaults, and blind: the same question without a video. A
method that cannot beat the blind model says nothing about a video.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from prunevid_kernels.adapters import VideoModel, apply_method
from prunevid_kernels.adapters.methods.registry import METHODS

from ..accuracy.ask import question_options
from ..accuracy.plan import Plan
from ..datasets.clips import HeldOutQuestion
from ..embedded.model import SELECTION_LAYER
from ..report.statistics import Interval, macro_mean, macro_share_interval
from ..support.terminal import Advance

BLIND = "blind"
MAX_NEW_TOKENS = 2  # the word and its end


@dataclass(frozen=True)
class Accuracy:
    """Right answers of one method.

    Attributes:
        method: a pruning method, or :data:`BLIND`.
        right: question type -> 1 for each right answer, 0 for each wrong one.
        merged_share, kept_share: of the visual tokens, averaged over questions.
    """

    method: str
    right: dict[str, list[int]]
    merged_share: float
    kept_share: float

    @property
    def macro(self) -> float:
        """Mean over types of the share of right answers."""
        return macro_mean(self.right)

    @property
    def interval(self) -> Interval:
        """95% interval of :attr:`macro`."""
        return macro_share_interval(self.right)

    def by_type(self) -> dict[str, float]:
        """Share of right answers of each type."""
        return {kind: sum(right) / len(right) for kind, right in self.right.items()}


def measure(
    model: VideoModel, questions: Iterable[HeldOutQuestion], method: str, advance: Advance
) -> Accuracy:
    """Answer the questions with one pruning method, or :data:`BLIND`."""
    right: dict[str, list[int]] = defaultdict(list)
    merged, kept = [], []
    for item in questions:
        encoded = model.encode(item.clip.frames, item.question.text)
        if method == BLIND:
            answer = model.generate(_without_video(model, encoded), max_new_tokens=MAX_NEW_TOKENS)
            merged.append(0.0)
            kept.append(0.0)
        else:
            options = question_options(Plan(method, method_options(method)), item.id)
            with apply_method(model.model, method, options) as handle:
                answer = model.generate(encoded, max_new_tokens=MAX_NEW_TOKENS)
            video = handle.report.last.videos[0]
            merged.append(video.tokens_merged / video.tokens_before)
            kept.append(video.tokens_kept / video.tokens_before)
        right[item.question.type].append(int(answer == item.question.answer))
        advance(None)
    return Accuracy(method, dict(right), sum(merged) / len(merged), sum(kept) / len(kept))


def method_options(method: str) -> dict[str, Any]:
    """The method's defaults, at a layer that the model has."""
    return {"layer": SELECTION_LAYER} if "layer" in METHODS[method].defaults else {}


def _without_video(model: VideoModel, encoded: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ids = encoded["input_ids"]
    text = ids[ids != model.model.config.video_token_id][None]
    return {"input_ids": text, "attention_mask": torch.ones_like(text)}
