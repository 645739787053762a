"""FLOPs of a prompt that nobody ran: from token counts that are given, or that the paper published.

Where a count is not given, the share that the paper publishes for the model's family and the method
stands for it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from prunevid_kernels.adapters.engine.supported import cannot_forget, drops_too_early
from prunevid_kernels.adapters.families import FAMILIES, Family
from prunevid_kernels.adapters.families.shape import ModelShape
from prunevid_kernels.adapters.methods.registry import METHODS

from ...support.options import default_layer
from .methods import PromptCounts, SampleFlops, prompt_flops


class NotCounted(ValueError):
    """A method of a model without counts: nobody has published any and none are given, or the model
    cannot run it."""


@dataclass(frozen=True)
class TokenCounts:
    """What the user gave; None stands for the published share or the model's own number. Of
    ``merged`` and ``kept`` a float is a share of the visual tokens."""

    frames: int | None = None
    visual: int | None = None
    merged: int | float | None = None
    kept: int | float | None = None
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
        if isinstance(value, float) and not value <= 1:
            raise ValueError(f"--{option} must be a count, or a share in [0, 1], got {value}")
    num_layers = shape.decoder.num_layers
    frames = shape.frames if given.frames is None else given.frames
    before = frames * shape.tokens_per_frame if given.visual is None else given.visual
    family = FAMILIES[shape.family]
    text = family.flops_text_tokens if given.text is None else given.text

    changes = METHODS[name].changes
    is_merging = not {"merges", "drops"}.isdisjoint(changes)
    is_selecting = "selects" in changes
    if not family.selects and not {"selects", "compresses"}.isdisjoint(changes):
        raise NotCounted(f"{name}, {family.title}: {cannot_forget(name)}")
    if "tower" in METHODS[name].needs and "tower" in family.lacks:
        raise NotCounted(f"{name}, {family.title}: {family.lacks['tower']}")
    merged: float = before
    if is_merging and given.merged is not None:
        merged = _tokens(given.merged, before)
    elif is_merging:
        share = _share(name, family)
        if share is None:
            raise NotCounted(
                f"{name}: no number of tokens is published for {family.title}; give --merged"
            )
        merged = before * share
    kept = merged
    if is_selecting and name != "drop_all":
        kept_ratio = 0.3 if name in ("fastv", "flashvid") else 0.4
        kept = merged * kept_ratio if given.kept is None else _tokens(given.kept, before)
    elif is_selecting:
        kept = 0
    if not before >= merged >= kept:
        raise ValueError(
            f"{name}: counts must not grow: {before} visual, {merged:g} merged, {kept:g} kept"
        )
    layer = None
    if is_selecting:
        layer = 1 if name == "fastv" else default_layer(num_layers)
        if name == "flashvid":  # as far into the decoder as published
            layer = round(num_layers * 20 / 28) - 1
        layer = layer if given.layer is None else given.layer
        if layer >= num_layers:
            raise ValueError(f"--layer must be less than the {num_layers} layers, got {layer}")
        if layer < shape.planes:
            reason = drops_too_early(name, layer, shape.planes)
            raise NotCounted(f"{name}, {family.title}: {reason}")
    full = num_layers if layer is None else layer + 1
    per_layer = [merged] * full + [kept] * (num_layers - full)
    cached = kept + text
    if name in ("fastv", "flashvid"):
        cached = sum(per_layer) / num_layers + text
    elif name == "look_m":
        cached = 0.2 * (before + text)
    return PromptCounts(name, frames, before, per_layer, layer, text, cached)


def note(name: str, shape: ModelShape) -> str | None:
    """What has to be given to a method that was counted, before it runs on this model."""
    family = FAMILIES[shape.family]
    if "grid" in METHODS[name].needs and "grid" in family.lacks:
        return f"{name}, {family.title}: no grid of a frame's tokens: {family.lacks['grid']}"
    return None


def _tokens(given: int | float, before: float) -> float:
    return before * given if isinstance(given, float) else given


_LIKE_PRUNEVID = ("prunevid", "merge_only", "random_drop", "drop_all")
# Of DyCoke: a frame in four whole, 0.3 of the others. Of FlashVID: 0.1, expanded by 1.25.
_SHARES = {"dycoke": (1 + 3 * 0.3) / 4, "flashvid": 0.125}
_RATIOS = ("ratio", "retention_ratio", "retain_ratio")


def _share(name: str, family: Family) -> float | None:
    """The share of the tokens that a method keeps before the decoder: its default, or what is
    published for it or for PruneVid; None where nothing is."""
    # PruneVid's is of the kept tokens, 0.4 of the merged ones.
    of_prunevid = None if family.prunevid_share is None else family.prunevid_share / 0.4
    if name in _LIKE_PRUNEVID:
        return of_prunevid
    if name in _SHARES:
        return _SHARES[name]
    defaults = METHODS[name].defaults
    found = [defaults[option] for option in _RATIOS if option in defaults]
    if found:
        # Where a ratio or its complement can be given, neither stands for a quarter.
        return 0.25 if found[0] is None else float(found[0])
    return family.prumerge_share if name == "prumerge" else of_prunevid
