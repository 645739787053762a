"""The FLOPs ratios that the PruneVid paper prints, beside what its stated hyper-parameters give.

Every row of ``paper.json`` says what the paper says: method, ratio as printed, how many layers run
on which share of the visual tokens, and on which share the others (the released code prunes after
layer index 10). The text beside them is not stated, so the numbers of text tokens there are what
reproduces the printed digits; ``note`` says how sharply they do, and which tables do not follow.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from prunevid_kernels.adapters.families import SIZES

from .decoder import flops_ratio, prunevid_lengths

TABLE = Path(__file__).with_name("paper.json")


@dataclass(frozen=True)
class PublishedRatio:
    """One printed ratio.

    Attributes:
        model: name in :data:`prunevid_kernels.adapters.families.SIZES`.
        method: as the paper calls it.
        published: as printed.
        full_layers: layers that run on ``first`` of the visual tokens; the others on ``then``.
    """

    model: str
    method: str
    published: str
    full_layers: int
    first: float
    then: float

    def ours(self, text_tokens: int | None = None) -> float:
        """The ratio of the paper's own formula, with so many text tokens beside the visual ones."""
        shape = SIZES[self.model].shape
        text = published()[self.model].text_tokens if text_tokens is None else text_tokens
        visual, layers = shape.visual_tokens, shape.decoder.num_layers
        lengths = prunevid_lengths(
            visual * self.first,
            visual * self.then,
            text,
            layer=self.full_layers - 1,
            num_layers=layers,
        )
        return flops_ratio(lengths, visual + text, shape.decoder, "paper")

    def is_reproduced(self) -> bool:
        """Whether ours rounds to the printed digits."""
        return f"{self.ours():.2f}" == self.published


@dataclass(frozen=True)
class PublishedModel:
    """What the paper prints of one model.

    Attributes:
        text_tokens: that stand beside the visual ones; 0 where a table does not follow anyway, and
            text would only take it further away.
        note: what has to be said where it follows.
        ratios: the printed rows.
    """

    text_tokens: int
    note: str
    ratios: tuple[PublishedRatio, ...]


@cache
def published() -> dict[str, PublishedModel]:
    """Size name -> what the paper prints of it."""
    return {
        name: PublishedModel(
            text_tokens=model["text_tokens"],
            note=model["note"],
            ratios=tuple(PublishedRatio(name, *row) for row in model["ratios"]),
        )
        for name, model in json.loads(TABLE.read_text(encoding="utf-8")).items()
    }


def note(model: str) -> str:
    """What has to be said about a model's published ratios."""
    paper = published().get(model)
    if paper is None:
        return f"{model}: the paper prints no ratios."
    rows = paper.ratios
    missed = [row for row in rows if not row.is_reproduced()]
    if not missed:
        return (
            f"{model}: all {len(rows)} follow, with {paper.text_tokens} text tokens; {paper.note}"
        )
    listed = ", ".join(f"{row.method} {row.published} (ours {row.ours():.3f})" for row in missed)
    return (
        f"{model}: {len(missed)} of {len(rows)} do not follow from the stated hyper-parameters and"
        f" the model's own dimensions: {listed}."
    )
