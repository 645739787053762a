"""What the stages need at least: bytes in and out, and operations, counted from a case's shape.

Each input is read once and each output written once; what an implementation stores on the way is
not counted. :class:`~..ceilings.Cost` turns a count into a time that nothing runs much faster than.
"""

from __future__ import annotations

from dataclasses import dataclass

from prunevid_kernels import TokenLayout

from ..ceilings import Cost
from .cases import Case


@dataclass(frozen=True)
class GroupTokens:
    """Tokens of each group before its clustering: static ones a segment, dynamic ones a frame."""

    static: list[int]
    dynamic: list[int]

    @property
    def pairs(self) -> int:
        """Entries of all Gram matrices."""
        return sum(size * size for size in (*self.static, *self.dynamic))

    @classmethod
    def of_layout(cls, layout: TokenLayout) -> GroupTokens:
        """What a merge found."""
        is_static = layout.static_mask().cpu()
        starts = layout.segment_lengths.cumsum(0) - layout.segment_lengths
        static = [int(is_static[start].sum()) for start in starts.tolist()]
        segments = layout.frame_segments().tolist()
        return cls(static, [layout.tokens_per_frame - static[segment] for segment in segments])

    @classmethod
    def expected(
        cls, case: Case, *, static_share: float = 0.35, frames_per_segment: int = 6
    ) -> GroupTokens:
        """What a merge may find in a case, every segment equally long and equally still."""
        tokens = case.model.tokens_per_frame
        static = round(static_share * tokens)
        segments = max(1, case.frames // frames_per_segment)
        return cls([static] * segments, [tokens - static] * case.frames)


def merge_cost(case: Case, merged_tokens: int, groups: GroupTokens) -> Cost:
    """The merge at its least: features in, merged tokens out, the groups' Gram matrices."""
    channels, item = case.model.channels, case.dtype.itemsize
    num_bytes = (case.visual_tokens + merged_tokens) * channels * item
    return Cost("merge", num_bytes, 2 * groups.pairs * channels)


def score_cost(case: Case, *, batch: int = 1) -> Cost:
    """The scoring at its least: keys and question rows in, a float32 a visual token out, and one
    product of the question rows with all keys."""
    model, item = case.model, case.dtype.itemsize
    decoder, rows, keys = model.decoder, model.text_after, case.merged_length
    read = (decoder.num_kv_heads * keys + decoder.num_heads * rows) * model.head_dim * item
    flops = 2 * decoder.num_heads * rows * keys * model.head_dim
    return Cost("score", batch * (read + 4 * case.merged_tokens), batch * flops)


def compact_cost(case: Case) -> Cost:
    """Every kept entry of the hidden states and the caches of layers 0..M read and written once."""
    model = case.model
    width = model.channels + case.num_caches * model.decoder.num_kv_heads * model.head_dim
    return Cost("compact", 2 * case.kept_length * width * case.dtype.itemsize, 0)


def evs_cost(case: Case, kept: int) -> Cost:
    """Features in, kept ones out; two norms and a product a token."""
    return Cost("EVS", _kept_bytes(case, kept), 6 * case.visual_tokens * case.model.channels)


def vidcom2_cost(case: Case, kept: int) -> Cost:
    """Features in, kept ones out; a variance a channel, then, of half the channels, a norm, two
    means and two distances a token."""
    operations = 3 + (2 + 2 + 6) / 2
    flops = operations * case.visual_tokens * case.model.channels
    return Cost("VidCom2", _kept_bytes(case, kept), flops)


def _kept_bytes(case: Case, kept: int) -> int:
    return (case.visual_tokens + kept) * case.model.channels * case.dtype.itemsize
