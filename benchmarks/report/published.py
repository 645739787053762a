"""The numbers of the paper's main table, to be printed beside measured ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("published.json")

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
    """The paper's row for a run with these settings; None where there is none, and for the embedded
    model, which has no checkpoint folder and is not the paper's."""
    if not settings.get("checkpoint"):
        return None
    return published_rows().get((settings["family"], settings["method"]))
