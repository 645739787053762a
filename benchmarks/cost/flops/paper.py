"""The FLOPs ratios that the PruneVid paper prints, beside what its stated hyper-parameters give.

Every row says what the paper says: how many layers run on which share of the visual tokens. The
text is not stated; any 9 to 15 tokens give all eight PLLaVA rows to the printed digit, 8 and 16 do
not. Two tables do not follow, and ``note`` says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from .decoder import flops_ratio, prunevid_lengths
from .shapes import MODELS

# LLaVA-OneVision's are computed without text, which would only take them further away.
TEXT_TOKENS = {"pllava-7b": 12, "st-llm": 25, "llava-onevision-7b": 0, "llava-onevision-0.5b": 0}
RELEASED_LAYERS = 11  # the released code prunes behind layer index 10


@dataclass(frozen=True)
class PublishedRatio:
    """One printed ratio.

    Attributes:
        model: name in ``MODELS``.
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
        shape = MODELS[self.model]
        text = TEXT_TOKENS[self.model] if text_tokens is None else text_tokens
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


PUBLISHED = (
    PublishedRatio("pllava-7b", "FastV", "0.33", 2, 1.0, 0.3),
    PublishedRatio("pllava-7b", "PruMerge", "0.53", 32, 0.557, 0.557),
    PublishedRatio("pllava-7b", "PruneVid", "0.23", RELEASED_LAYERS, 0.405, 0.162),
    PublishedRatio("pllava-7b", "static merge", "0.69", 32, 0.715, 0.715),
    PublishedRatio("pllava-7b", "spatial merge", "0.48", 32, 0.5, 0.5),
    PublishedRatio("pllava-7b", "both merges", "0.34", 32, 0.361, 0.361),
    PublishedRatio("pllava-7b", "attention only", "0.59", RELEASED_LAYERS, 1.0, 0.4),
    PublishedRatio("pllava-7b", "all stages", "0.20", RELEASED_LAYERS, 0.361, 0.141),
    PublishedRatio("st-llm", "FastV", "0.37", 2, 1.0, 0.3),
    PublishedRatio("st-llm", "PruneVid", "0.26", RELEASED_LAYERS, 0.3775, 0.151),
    PublishedRatio("llava-onevision-7b", "FastV", "0.30", 2, 1.0, 0.3),
    PublishedRatio("llava-onevision-7b", "PruMerge", "0.49", 28, 0.552, 0.552),
    PublishedRatio("llava-onevision-7b", "PruneVid", "0.20", RELEASED_LAYERS, 0.425, 0.17),
)


def note(model: str) -> str:
    """What has to be said about a model's published ratios."""
    rows = [row for row in PUBLISHED if row.model == model]
    if not rows:
        return f"{model}: the paper prints no ratios."
    missed = [row for row in rows if not row.is_reproduced()]
    text = TEXT_TOKENS[model]
    if not missed:
        extra = {
            "pllava-7b": "any 9 to 15 text tokens do.",
            "st-llm": "this needs 22 to 28 text tokens and about .38 of the tokens after the merge,"
            " neither of which the paper states.",
        }.get(model, "")
        return f"{model}: all {len(rows)} follow, with {text} text tokens; {extra}"
    listed = ", ".join(f"{row.method} {row.published} (ours {row.ours():.3f})" for row in missed)
    return (
        f"{model}: {len(missed)} of {len(rows)} do not follow from the stated hyper-parameters and"
        f" the model's own dimensions: {listed}."
    )
