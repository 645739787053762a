"""Published numbers, to be printed beside measured ones: the paper's main table, for methods with
their own options, and what other papers give for a model, a benchmark and a share of the tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("published.json")

_SAME_SHARE = 0.005
FULL_SET = "full set"  # of EgoSchema, whose answers only its organisers have


@dataclass(frozen=True)
class PublishedRow:
    """One row: a model family with one method.

    Attributes:
        retained: share of the visual tokens that are kept.
        flops_ratio: of the prefill, as the paper counts.
        mvbench, videomme, egoschema_subset, egoschema_full: accuracy in percent.
        vcgbench: score from 0 to 5 by dimension, and their ``average``.
    """

    family: str
    method: str
    retained: float
    flops_ratio: float
    mvbench: float
    videomme: float
    egoschema_subset: float
    egoschema_full: float
    vcgbench: dict[str, float]

    def score(self, benchmark: str, part: str | None = None) -> float | None:
        """The number that stands beside a measured score, of the benchmark or of a ``part`` of it:
        a dimension of VCG-Bench, EgoSchema's full set; None where the paper has none."""
        if benchmark == "vcgbench":
            return self.vcgbench[part or "average"]
        if benchmark == "egoschema":
            return self.egoschema_full if part == FULL_SET else self.egoschema_subset
        return {"mvbench": self.mvbench, "videomme": self.videomme}.get(benchmark)


@cache
def published_rows() -> dict[tuple[str, str], PublishedRow]:
    """All rows by (family, method); a pair that the paper does not have is not there."""
    content = json.loads(TABLE.read_text(encoding="utf-8"))
    rows = (PublishedRow(**row) for row in content["rows"])
    return {(row.family, row.method): row for row in rows}


def published_row(settings: Mapping[str, Any]) -> PublishedRow | None:
    """The paper's row for a run with these settings; None where there is none, for the embedded
    model, which has no checkpoint folder and is not the paper's, and for a run that was told a
    share, which the options behind the paper's numbers do not keep."""
    if not settings.get("checkpoint") or "retain" in settings:
        return None
    return published_rows().get((settings["family"], settings["method"]))


@dataclass(frozen=True)
class PublishedShare:
    """What a paper gives for a method at a share of the tokens.

    Attributes:
        model: a published size, see :data:`..adapters.families.SIZES`.
        share: of the visual tokens, the mean over the decoder's layers.
        frames: of each video.
        scores: benchmark -> accuracy in percent.
        source: who published it.
    """

    model: str
    method: str
    share: float
    frames: int
    scores: dict[str, float]
    source: str


@cache
def published_shares() -> list[PublishedShare]:
    """All of them."""
    content = json.loads(TABLE.read_text(encoding="utf-8"))
    return [PublishedShare(**row) for row in content["at_shares"]]


def published_score(settings: Mapping[str, Any]) -> float | None:
    """The number that stands beside a run's score: the paper's for the method with its own options,
    or one of the same model, method, share and frames. A checkpoint is of a published size where
    its folder's name says so, as the names in which they are published do."""
    row = published_row(settings)
    if row is not None:
        return row.score(settings["benchmark"])
    share = settings.get("retain", 1.0 if settings["method"] == "full" else None)
    if share is None or not settings.get("checkpoint"):
        return None
    name = Path(settings["checkpoint"]).name.lower()
    for other in published_shares():
        is_same = (other.method, other.frames) == (settings["method"], settings.get("frames"))
        if is_same and abs(other.share - share) < _SAME_SHARE and name.startswith(other.model):
            return other.scores.get(settings["benchmark"])
    return None
