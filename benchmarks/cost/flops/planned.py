"""FLOPs of a prompt that nobody ran: from token counts that are given, or that the paper published.

Where a count is not given, the share that the paper publishes for the model's family and the method
stands for it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from prunevid_kernels.adapters.families import FAMILIES
from prunevid_kernels.adapters.families.shape import ModelShape
from prunevid_kernels.adapters.methods.registry import METHODS

from ...support.options import default_layer
from .methods import PromptCounts, SampleFlops, prompt_flops


class NotCounted(ValueError):
    """A method of a model without counts: nobody has published any and none are given, or the model
    cannot run it."""


@dataclass(frozen=True)
class TokenCounts:
    """What the user gave; None stands for the published share or the model's own number."""

    frames: int | None = None
    visual: int | None = None
    merged: int | None = None
    kept: int | None = None
    layer: int | None = None
    text: int | None = None


def method_flops(
    name: str, shape: ModelShape, given: TokenCounts
) -> tuple[PromptCounts, SampleFlops]:
    """What a method costs with these counts.

    Raises:
        NotCounted: a count is missing that only the user can give, or the model has none.
        ValueError: an unknown method; counts that are negative, or grow on the way.
    """
    counts = prompt_counts(name, shape, given)
    return counts, prompt_flops(counts, shape)


def prompt_counts(name: str, shape: ModelShape, given: TokenCounts) -> PromptCounts:
    """Counts of one prompt, with what is published where nothing is given.

    Raises:
        ValueError: see ``method_flops``.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known methods: {', '.join(METHODS)}")
    for option, value in asdict(given).items():
        least = 1 if option in ("frames", "visual") else 0
        if value is not None and value < least:
            raise ValueError(f"--{option} must be an integer >= {least}, got {value}")
    num_layers = shape.decoder.num_layers
    frames = shape.frames if given.frames is None else given.frames
    before = frames * shape.tokens_per_frame if given.visual is None else given.visual
    family = FAMILIES[shape.family]
    text = family.flops_text_tokens if given.text is None else given.text

    is_merging = name in ("prunevid", "merge_only", "random_drop", "drop_all", "prumerge")
    is_selecting = name in ("prunevid", "select_only", "random_drop", "drop_all", "fastv")
    if not family.selects and (is_selecting or name == "look_m"):
        raise NotCounted(f"{name}: {family.title} cannot run it, it drops nothing in its decoder")
    merged: float = before
    if is_merging and given.merged is not None:
        merged = given.merged
    elif is_merging:
        share = family.prumerge_share if name == "prumerge" else family.prunevid_share
        if share is None:
            raise NotCounted(
                f"{name}: no number of tokens is published for {family.title}; give --merged"
            )
        # PruneVid's is of the kept tokens, 0.4 of the merged ones.
        merged = before * (share if name == "prumerge" else share / 0.4)
    kept = merged
    if is_selecting and name != "drop_all":
        kept = merged * (0.3 if name == "fastv" else 0.4) if given.kept is None else given.kept
    elif is_selecting:
        kept = 0
    if not before >= merged >= kept:
        raise ValueError(
            f"{name}: counts must not grow: {before} visual, {merged:g} merged, {kept:g} kept"
        )
    layer = None
    if is_selecting:
        layer = 1 if name == "fastv" else default_layer(num_layers)
        layer = layer if given.layer is None else given.layer
        if layer >= num_layers:
            raise ValueError(f"--layer must be less than the {num_layers} layers, got {layer}")
    full = num_layers if layer is None else layer + 1
    per_layer = [merged] * full + [kept] * (num_layers - full)
    cached = kept + text
    if name == "fastv":
        cached = sum(per_layer) / num_layers + text
    elif name == "look_m":
        cached = 0.2 * (before + text)
    return PromptCounts(name, frames, before, per_layer, layer, text, cached)
