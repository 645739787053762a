"""FLOPs of one prompt under a method, beside the same prompt unpruned, in three accountings.

``paper`` and ``exact`` count the decoder alone (:mod:`.decoder`). ``end_to_end`` is ``exact`` with
the vision tower, the projector, and what the method itself computes: merging, scoring, comparing
keys. Those are bounds from above, since they are small: PruneVid's merge is counted as if every
token of every frame were compared with all others of its frame, and every token that is of no video
as a question row.

Averages over samples are of the FLOPs themselves. The FLOPs of an average ratio are something else,
and less, because attention is quadratic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from prunevid_kernels.adapters import PruneCall
from prunevid_kernels.adapters.families.shape import ModelShape
from prunevid_kernels.adapters.methods.registry import METHODS

from .decoder import prefill_macs

Accounting = Literal["paper", "exact", "end_to_end"]
ACCOUNTINGS: tuple[Accounting, ...] = ("paper", "exact", "end_to_end")


@dataclass(frozen=True)
class Flops:
    """Multiply-accumulates of one prefill."""

    paper: float
    exact: float
    end_to_end: float

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.paper + other.paper,
            self.exact + other.exact,
            self.end_to_end + other.end_to_end,
        )


@dataclass(frozen=True)
class SampleFlops:
    """A sample under a method, and unpruned."""

    method: Flops
    unpruned: Flops

    def ratio(self, form: Accounting) -> float:
        return float(getattr(self.method, form) / getattr(self.unpruned, form))

    def as_dict(self) -> dict[str, dict[str, float]]:
        """form -> {"method", "unpruned"}, as records store it."""
        method, unpruned = asdict(self.method), asdict(self.unpruned)
        return {form: {"method": method[form], "unpruned": unpruned[form]} for form in ACCOUNTINGS}


@dataclass(frozen=True)
class PromptCounts:
    """What one prompt consists of. Counts need not be whole: averages, as published, are not.

    Attributes:
        method: its name in ``METHODS``.
        frames: of all its videos.
        before: visual tokens as the model makes them.
        per_layer: visual tokens that each decoder layer runs on.
        layer: a selection ran at the end of this layer; None: none did.
        other: tokens that are of no video.
        cached: entries of the prompt in each layer's cache, on average.
    """

    method: str
    frames: float
    before: float
    per_layer: Sequence[float]
    layer: int | None
    other: float
    cached: float

    @classmethod
    def of(cls, call: PruneCall) -> list[PromptCounts]:
        """The prompts of a call."""
        counts = []
        for prompt, other in enumerate(call.other_tokens):
            videos = [video for video in call.videos if video.prompt == prompt]
            before = sum(video.tokens_before for video in videos)
            cached = call.cached_tokens[prompt] if call.cached_tokens else ()
            counts.append(
                cls(
                    method=call.method,
                    frames=sum(video.layout.num_frames for video in videos),
                    before=before,
                    per_layer=call.visual_tokens_per_layer(prompt),
                    layer=call.layer,
                    other=other,
                    cached=sum(cached) / len(cached) if cached else before + other,
                )
            )
        return counts


def sample_flops(call: PruneCall, shape: ModelShape) -> SampleFlops:
    """FLOPs of one prompt forward: all prompts of its batch together, padding not counted.

    Args:
        call: what the report says of it.
        shape: of the model that ran it.

    Raises:
        ValueError: the call has another number of layers than the model.
    """
    return total_flops(prompt_flops(counts, shape) for counts in PromptCounts.of(call))


def prompt_flops(counts: PromptCounts, shape: ModelShape) -> SampleFlops:
    """FLOPs of one prompt.

    Raises:
        ValueError: ``counts`` has another number of layers than the model.
    """
    decoder = shape.decoder
    lengths = [visual + counts.other for visual in counts.per_layer]
    unpruned = [counts.before + counts.other] * decoder.num_layers
    encoder = counts.frames * (shape.vision_macs + shape.projector_macs)
    exact, unpruned_exact = (
        prefill_macs(tokens, decoder, "exact") for tokens in (lengths, unpruned)
    )
    return SampleFlops(
        method=Flops(
            prefill_macs(lengths, decoder, "paper"),
            exact,
            exact + encoder + method_macs(counts, shape),
        ),
        unpruned=Flops(
            prefill_macs(unpruned, decoder, "paper"), unpruned_exact, unpruned_exact + encoder
        ),
    )


_BY_TOWER = {name for name, method in METHODS.items() if "tower" in method.needs}


def method_macs(counts: PromptCounts, shape: ModelShape) -> float:
    """What a method computes besides the model."""
    if not counts.frames:
        return 0.0
    width, per_frame = shape.decoder.hidden_size, counts.before / counts.frames
    length = counts.per_layer[0] + counts.other
    if counts.method == "fastv":
        return length * width  # one row of one layer
    if counts.method == "look_m":
        kv_width = width * shape.decoder.num_kv_heads / shape.decoder.num_heads
        merging = (length - counts.cached) * counts.cached * kv_width
        return shape.decoder.num_layers * (length**2 * width + merging)
    if counts.method == "prumerge":
        kept_per_frame = counts.per_layer[0] / counts.frames
        similarity = kept_per_frame * per_frame * shape.key_width
        return counts.frames * (shape.importance_macs + similarity)
    is_merged = counts.per_layer[0] < counts.before
    merging = (counts.before * per_frame + counts.frames**2) * width if is_merged else 0.0
    if counts.method in _BY_TOWER:
        merging += counts.frames * shape.importance_macs
    if counts.method == "flashvid" and counts.layer is not None:
        merging += length * width  # one row of one layer, as for fastv
    is_scored = counts.layer is not None and counts.method in ("prunevid", "select_only")
    return merging + (counts.other * length * width if is_scored else 0.0)


def total_flops(samples: Iterable[SampleFlops]) -> SampleFlops:
    """The sum over samples.

    Raises:
        ValueError: there are none.
    """
    items = list(samples)
    if not items:
        raise ValueError("samples must hold at least one, got none")
    zero = Flops(0.0, 0.0, 0.0)
    return SampleFlops(
        sum((item.method for item in items), zero), sum((item.unpruned for item in items), zero)
    )
