"""What a GPU can do at best, and what the work needs at least: a kernel is judged by the quotient.

A *ceiling* is measured: the rate of a large device-to-device copy, reads and writes counted, and of
a large bfloat16 matrix product on random values. A *cost* is counted: the fewest bytes that a stage
can move and the fewest operations it can do, each input read once and each output written once. The
*floor* of a stage is the larger of bytes over copy rate and operations over product rate; nothing
runs much faster. :func:`merge_launch_costs` also counts what this library's own launches move, the
intermediate results included, so that growth with the number of frames can be read off without a
GPU.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from prunevid_kernels import TokenLayout

from .kernels.cases import Case
from .timing import time_runs


@dataclass(frozen=True)
class Ceilings:
    """Rates of one device. ``source`` says where they come from: measured, or a data sheet."""

    copy_bytes_per_s: float
    matmul_flops_per_s: float
    source: str


# A lead where no GPU is at hand, never a result: NVIDIA H200 SXM, 4.8 TB/s and 989 TFLOP/s dense.
H200_DATASHEET = Ceilings(4.8e12, 989e12, "NVIDIA H200 data sheet, not measured")


def measure_ceilings(device: torch.device, *, runs: int = 20) -> Ceilings:
    """Measure both rates on ``device``, on a CPU with small sizes and a float32 product."""
    on_gpu = device.type == "cuda"
    elements, side = (2**30, 8192) if on_gpu else (2**24, 512)
    original = torch.randint(0, 127, (elements,), dtype=torch.int8, device=device)
    copy = torch.empty_like(original)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    copy_s, matmul_s = (
        statistics.median(time_runs([work], device, warmups=3, runs=runs)) / 1000
        for work in (lambda: copy.copy_(original), lambda: a @ b)
    )
    name = str(dtype).removeprefix("torch.")
    return Ceilings(2 * elements / copy_s, 2 * side**3 / matmul_s, f"measured, {name} product")


@dataclass(frozen=True)
class Cost:
    """Bytes moved to and from device memory, and floating-point operations (a product with its
    addition counts as two)."""

    name: str
    num_bytes: float
    flops: float

    def floor_ms(self, ceilings: Ceilings) -> float:
        """The time that no implementation gets much below."""
        bytes_s = self.num_bytes / ceilings.copy_bytes_per_s
        return 1000 * max(bytes_s, self.flops / ceilings.matmul_flops_per_s)


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


def merge_launch_costs(case: Case, merged_tokens: int, groups: GroupTokens) -> list[Cost]:
    """What each launch of this library's merge moves and computes, intermediate results included,
    as if nothing stayed in a cache."""
    frames, c, item = case.frames, case.model.channels, case.dtype.itemsize
    tokens, pairs = case.visual_tokens, groups.pairs
    x, merged = tokens * c * item, merged_tokens * c * item
    # Parts of a static group's products, which the clustering adds up: one a frame, 256 channels
    # at least.
    parts = min(frames / len(groups.static), c / 256)
    partial = parts * sum(size * size for size in groups.static)
    return [
        Cost("frame_mean", x + 4 * (frames * c + tokens), 3 * tokens * c),
        Cost("gram", 4 * (frames * c + frames**2), 2 * frames**2 * c),
        Cost("segments", 4 * 4 * frames**2, 0),  # distances written over products, read twice
        Cost("static_split", x, 4 * tokens * c),
        Cost("group_table", 8 * tokens, 0),
        Cost("group_gram", x + 4 * (pairs + partial), 2 * pairs * c),
        Cost("group_clusters", 4 * (4 * pairs + partial) + 40 * tokens, 0),
        Cost("group_mean", x + merged, tokens * c),
    ]
