"""CDPruner (Zhang et al., NeurIPS 2025, https://arxiv.org/abs/2506.10967): of each frame on its
own, a subset that is diverse and, given the question, relevant, by a determinantal point process.

1. A token is as relevant as it is like the words of the question: a, the mean of its cosines with
   them, scaled over the whole video to ``q = (a - min a + 1e-6) / (max a - min a)``; 1 where all
   are alike.
2. ``L_ij = q_i S_ij q_j`` with the cosines S of the frame's tokens.
3. K times: take the token of highest gain g, at first L's diagonal, and subtract what it explains
   of the others, ``e = (L_j - sum of e_i[j] e_i) / sqrt(g_j)``, ``g -= e^2``.

The paper compares with a text encoder of the tower's space, and negates the similarity. The models
here bring no such encoder; as in OpenVINO's variant, words and tokens are compared where the
language model takes them in, and the similarity is not negated. The question is all text after the
video in its prompt; without any, q is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_kernels import MergedVideo

from ...engine.interface import PromptVisuals
from ...engine.method import PruningMethod
from ..comparing import cosines
from ..options import require_count, require_ratio
from ..record import pruning_method
from ..subset import subset_video

LEAST_GAIN = 1e-12  # of duplicates it can fall below 0

# Who read them, and the questions [M, C] of the prompts under way, by tokens a frame and in order.
_questions: ContextVar[tuple[object, dict[int, list[Tensor]]] | None] = ContextVar(
    "cdpruner_questions", default=None
)


@pruning_method("CDPruner", needs=("question",), changes=("drops",), knob="ratio")
@dataclass(eq=False)
class CdPruner(PruningMethod):
    """CDPruner.

    Args:
        ratio: r, share of a frame's tokens that is kept; not used where ``keep`` is given.
        keep: K, tokens of a frame.
        negated: prefer the tokens that are least like the question.
    """

    ratio: float = 0.25
    keep: int | None = None
    negated: bool = False

    name = "cdpruner"
    prunes = True

    def __post_init__(self) -> None:
        require_ratio("ratio", self.ratio)
        if self.keep is not None:
            require_count("keep", self.keep, minimum=1)
        if not isinstance(self.negated, bool):
            raise TypeError(f"negated must be true or false, got {self.negated!r}")

    def read_prompts(self, prompts: Sequence[PromptVisuals], embeds: Tensor) -> None:
        found: dict[int, list[Tensor]] = {}
        for prompt, own in zip(prompts, embeds, strict=True):
            is_text = torch.ones(len(own), dtype=torch.bool, device=own.device)
            spans = [(video.start, video.stop) for video in prompt.videos]
            for start, stop in (*spans, *prompt.images, *prompt.separators):
                is_text[start:stop] = False
            for video in prompt.videos:
                words = own[video.stop :][is_text[video.stop :]]
                found.setdefault(video.tokens_per_frame, []).append(words)
        _questions.set((self, found))

    def merge(self, features: Tensor, frames: Sequence[int]) -> list[MergedVideo]:
        read, width = _questions.get(), features.shape[1]
        questions = None if read is None or read[0] is not self else read[1].pop(width, None)
        if questions is None or len(questions) != len(frames):
            raise RuntimeError("cdpruner was given videos of prompts that it has not read")
        return [
            self.merge_asked(video, question)
            for video, question in zip(features.split(list(frames)), questions, strict=True)
        ]

    def merge_video(self, features: Tensor) -> MergedVideo:
        return self.merge_asked(features, features.new_zeros(0, features.shape[2]))

    def merge_asked(self, features: Tensor, question: Tensor) -> MergedVideo:
        """The tokens of one video [T, N, C] that are kept for the words [M, C] of a question."""
        frames, width = features.shape[:2]
        keep = max(1, int(width * self.ratio)) if self.keep is None else min(self.keep, width)
        quality = relevance(features, question, negated=self.negated)
        kept = diverse(features, quality, keep)
        first = torch.arange(frames, device=features.device)[:, None] * width
        return subset_video(features, (kept + first).flatten())


def relevance(tokens: Tensor, words: Tensor, *, negated: bool) -> Tensor:
    """[T, N] float32: step 1, of tokens [T, N, E] and words [M, E] of one space."""
    if not len(words):
        return tokens.new_ones(tokens.shape[:2], dtype=torch.float32)
    alike = cosines(tokens, words).mean(dim=2)
    alike = -alike if negated else alike
    least, most = alike.amin(), alike.amax()
    return torch.where(most > least, (alike - least + 1e-6) / (most - least), 1.0)


def diverse(tokens: Tensor, quality: Tensor, keep: int) -> Tensor:
    """[T, keep] int64, ascending: steps 2 and 3, of tokens [T, N, C] and quality [T, N]."""
    kernel = quality[:, :, None] * cosines(tokens, tokens) * quality[:, None]
    gain = kernel.diagonal(dim1=1, dim2=2).clone()
    row = torch.arange(len(tokens), device=tokens.device)
    explained = kernel.new_zeros(keep, *gain.shape)
    chosen = torch.empty(len(tokens), keep, dtype=torch.int64, device=tokens.device)
    for step in range(keep):
        best = gain.argmax(dim=1)
        chosen[:, step] = best
        known = explained[:step]
        rest = kernel[row, best] - (known[:, row, best][..., None] * known).sum(dim=0)
        explained[step] = rest / gain[row, best].clamp(min=LEAST_GAIN).sqrt()[:, None]
        gain = gain - explained[step].square()
        gain[row, best] = -torch.inf
    return chosen.sort(dim=1).values
