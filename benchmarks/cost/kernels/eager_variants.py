"""What our kernels are compared with: the same work without them.

The *loops* (:mod:`.eager_loops`) are how the released code merges, segment by segment and frame by
frame. The *vectorised* form here is what one writes who wants speed from eager PyTorch: all groups
in one padded batch, two waits for the device; and it is given to ``torch.compile``, the fair
opponent. What serving engines do in place of a merge is in :mod:`.engine_pruning`. Scoring is
compared with eager attention, and with the nearest kernel that others publish, where it is
installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig, TokenLayout

from .cases import AttentionInputs, CompactionInputs

# A product of 16-bit matrices with a float32 result; before torch 2.8 both have to be float32.
_HAS_MIXED_BMM = hasattr(torch.ops.aten.bmm, "dtype")

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


# ------------------------------------------------------------------------------------------------
# Merge
# ------------------------------------------------------------------------------------------------


def products(points: Tensor) -> Tensor:
    """Gram matrices [G, n, n] of points [G, n, C]; 16-bit products are summed in float32."""
    if points.is_cuda and points.dtype != torch.float32 and _HAS_MIXED_BMM:
        return torch.bmm(points, points.mT, out_dtype=torch.float32)
    points = points.float()
    return torch.bmm(points, points.mT)


def cluster_groups(
    gram: Tensor, valid: Tensor, channels: int, cluster_ratio: float, neighbors: int, smallest: int
) -> tuple[Tensor, Tensor]:
    """Density-peak clusters of all groups at once.

    Args:
        gram: [G, n, n] float32; rows and columns of places that are not in the group are ignored.
        valid: [G, n] bool, the places that are.
        smallest: groups of at most this many points are passed through.

    Returns:
        labels [G, n], defined where valid, and clusters [G], int64.
    """
    n = gram.shape[1]
    index = torch.arange(n, device=gram.device)
    is_self = index[:, None] == index[None, :]
    norm = gram.diagonal(dim1=1, dim2=2)
    square = (norm[:, :, None] + norm[:, None, :] - 2 * gram).clamp_min(0)
    distance = square.masked_fill(is_self, 0.0).sqrt() / math.sqrt(channels)
    both = valid[:, :, None] & valid[:, None, :]
    distance = distance.masked_fill(~both, math.inf)

    size = valid.sum(dim=1)  # [G]
    scaled = (size.double() * cluster_ratio).long().clamp_min(1)
    clusters = torch.where(size > smallest, scaled, size)

    nearest = distance.topk(min(neighbors, n), dim=2, largest=False).values
    count = size.clamp(min=1, max=neighbors)[:, None]
    total = nearest.square().masked_fill(nearest.isinf(), 0.0).sum(dim=2)
    density = torch.where(valid, (-total / count).exp(), -1.0)  # [G, n]
    is_denser = (density[:, None, :] > density[:, :, None]) | (
        (density[:, None, :] == density[:, :, None]) & (index[None, :] < index[:, None])
    )
    is_denser = is_denser & both
    parent = distance.masked_fill(~is_denser, math.inf).amin(dim=2)
    largest = distance.masked_fill(~both, 0.0).amax(dim=(1, 2))
    parent = torch.where(is_denser.any(dim=2), parent, largest[:, None])
    score = torch.where(valid, density * parent, -1.0)

    order = score.sort(dim=1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(1, order, index.expand_as(order))
    is_center = valid & (rank < clusters[:, None])
    to_center = distance.masked_fill(~is_center[:, None, :], math.inf)
    is_nearest = is_center[:, None, :] & (to_center == to_center.amin(dim=2, keepdim=True))
    label = torch.where(is_nearest, rank[:, None, :], n).amin(dim=2)
    label = torch.where(is_center, rank, label)
    passed = valid.cumsum(dim=1) - 1
    return torch.where((size > smallest)[:, None], label, passed), clusters


def frame_labels(x: Tensor, segment_ratio: float, neighbors: int) -> Tensor:
    """[T] int64 cluster of each frame of features [T, N, C]."""
    means = x.float().mean(dim=1)[None]
    valid = torch.ones(means.shape[:2], dtype=torch.bool, device=x.device)
    return cluster_groups(products(means), valid, x.shape[2], segment_ratio, neighbors, smallest=0)[
        0
    ][0]


def assign(
    x: Tensor, segment: Tensor, lengths: Tensor, config_numbers: tuple[float, float, int, int]
) -> tuple[Tensor, Tensor]:
    """Where every token goes.

    Args:
        segment: [T] int64, the segment of each frame, on the device of x.
        lengths: [S] int64, the frames of each segment, on the device of x.
        config_numbers: tau, cluster_ratio, num_neighbors, min_cluster_tokens.

    Returns:
        source_to_merged [T, N] and the merged tokens of each group [S + T], static ones first.
    """
    tau, cluster_ratio, neighbors, smallest = config_numbers
    frames, n, channels = x.shape
    num_segments = lengths.shape[0]
    values = x.float()
    width = lengths.float()[:, None]
    norm = values.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    zeros = values.new_zeros((num_segments, n, channels))
    direction = zeros.index_add(0, segment, values / norm)
    similarity = direction.square().sum(dim=-1) - width
    similarity = similarity / (width * (width - 1)).clamp_min(1)
    is_static = (similarity > tau) & (width > 1)  # [S, N]
    static_mean = zeros.index_add(0, segment, values) / width[:, :, None]

    frame_static = is_static[segment]  # [T, N]
    valid = torch.cat((is_static, ~frame_static))
    gram = torch.cat((products(static_mean), products(x)))
    labels, clusters = cluster_groups(gram, valid, channels, cluster_ratio, neighbors, smallest)

    # Segment s's static group stands before its first frame's, after s other static ones.
    first_frame = lengths.cumsum(0) - lengths
    slots = torch.arange(num_segments, device=x.device) + first_frame
    slots = torch.cat((slots, torch.arange(frames, device=x.device) + segment + 1))
    in_order = torch.zeros_like(clusters).scatter_(0, slots, clusters)
    offset = (in_order.cumsum(0) - in_order)[slots]
    targets = offset[:, None] + labels
    static_targets, dynamic_targets = targets[:num_segments], targets[num_segments:]
    return torch.where(frame_static, static_targets[segment], dynamic_targets), clusters


def average(x: Tensor, targets: Tensor, num_merged: int) -> tuple[Tensor, Tensor, Tensor]:
    """Merged tokens [L, C], each one's first source and number of sources [L]."""
    flat, values = targets.flatten(), x.flatten(0, 1).float()
    count = torch.zeros(num_merged, dtype=torch.int64, device=x.device)
    count = count.index_add(0, flat, torch.ones_like(flat))
    total = values.new_zeros((num_merged, x.shape[2])).index_add(0, flat, values)
    source = torch.arange(flat.shape[0], device=x.device)
    anchor = torch.full_like(count, flat.shape[0]).scatter_reduce(0, flat, source, "amin")
    return (total / count[:, None]).to(x.dtype), anchor, count


class VectorisedMerge:
    """:func:`prunevid_kernels.merge_video` in batched eager PyTorch; two waits for the device.

    Args:
        transform: applied to each of the three functions that run between the waits, such as
            ``torch.compile``.
    """

    def __init__(self, config: PruneVidConfig, transform: Decorator | None = None) -> None:
        self._config = config
        apply = transform or _as_it_is
        self._frame_labels = apply(frame_labels)
        self._assign = apply(assign)
        self._average = apply(average)

    def __call__(self, x: Tensor) -> MergedVideo:
        config = self._config
        labels = self._frame_labels(x, config.segment_ratio, config.num_neighbors)
        lengths = torch.tensor(segments_of(labels.tolist()))
        segment = torch.repeat_interleave(lengths)
        numbers = (
            config.tau,
            config.cluster_ratio,
            config.num_neighbors,
            config.min_cluster_tokens,
        )
        targets, clusters = self._assign(x, segment.to(x.device), lengths.to(x.device), numbers)
        sizes = clusters.cpu()
        tokens, anchor, count = self._average(x, targets, int(sizes.sum()))
        layout = TokenLayout.from_sizes(
            lengths,
            sizes[: len(lengths)],
            sizes[len(lengths) :],
            source_to_merged=targets,
            merged_anchor=anchor,
            merged_count=count,
        )
        return MergedVideo(tokens, layout)


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


class _Run(NamedTuple):
    label: int
    length: int


def segments_of(labels: list[int]) -> list[int]:
    """Segment lengths from the frames' clusters; the refinement of the paper's section 3.2.

    Runs shorter than their label's longest, and single frames, join the longer of their neighbours;
    of equals the one before.
    """
    runs: list[_Run] = []
    for label in labels:
        if runs and runs[-1].label == label:
            runs[-1] = _Run(label, runs[-1].length + 1)
        else:
            runs.append(_Run(label, 1))
    longest = {run.label: 0 for run in runs}
    for run in runs:
        longest[run.label] = max(longest[run.label], run.length)
    is_open = [run.length == 1 or run.length < longest[run.label] for run in runs]

    done: list[_Run] = []
    position = 0
    while position < len(runs):
        if not is_open[position]:
            _append(done, runs[position])
            position += 1
            continue
        length = 0
        while position < len(runs) and is_open[position]:
            length += runs[position].length
            position += 1
        # Neighbours on the right never touch: two fixed runs of one label have another between.
        right = runs[position] if position < len(runs) else None
        left = done[-1] if done else None
        winner = right if right and (not left or right.length > left.length) else left
        _append(done, _Run(winner.label if winner else 0, length))
    return [run.length for run in done]


def _append(runs: list[_Run], run: _Run) -> None:
    if runs and runs[-1].label == run.label:
        run = _Run(run.label, runs.pop().length + run.length)
    runs.append(run)


# ------------------------------------------------------------------------------------------------
# Scoring and compaction
# ------------------------------------------------------------------------------------------------


def full_attention_scores(inputs: AttentionInputs) -> Tensor:
    """[B, V] scores from the whole attention matrix [B, H, S, S], as in the released code."""
    first_row = inputs.visual_slice.stop
    return attention_scores(inputs.query, inputs.key, inputs.visual_slice, first_row)


def partial_attention_scores(inputs: AttentionInputs) -> Tensor:
    """[B, V] scores from the question rows' attention [B, H, Q, S]."""
    return attention_scores(inputs.question_query, inputs.key, inputs.visual_slice)


def attention_scores(query: Tensor, key: Tensor, visual: slice, first_row: int = 0) -> Tensor:
    """[B, V] most attention that any head of the rows from ``first_row`` on pays to each visual
    token; probabilities in float32, or float64 for float64."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    logits = query @ key.mT * query.shape[-1] ** -0.5
    floats = torch.promote_types(logits.dtype, torch.float32)
    attention = logits.softmax(dim=-1, dtype=floats)
    return attention[:, :, first_row:, visual].amax(dim=(1, 2))


def has_flash_colreduce() -> bool:
    """Whether the package ``flash-colreduce`` is installed; no extra of this project brings it."""
    return importlib.util.find_spec("flash_colreduce") is not None


def flash_colreduce_scores(inputs: AttentionInputs) -> Tensor:
    """[B, V] scores by ``flash-colreduce``: the largest attention of each key in each head.

    It knows no shared key heads and no range of keys, so keys are repeated for the query heads
    first, and the visual ones and the maximum over heads are taken of its result.
    """
    query = inputs.question_query.contiguous()
    key = inputs.key.repeat_interleave(query.shape[1] // inputs.key.shape[1], dim=1)
    reduce: Callable[..., Tensor] = importlib.import_module("flash_colreduce").flash_colreduce
    return reduce(query, key, "max")[..., inputs.visual_slice].amax(dim=1).float()


def full_attention_bytes(inputs: AttentionInputs) -> int:
    """Memory of the matrices: logits in the inputs' dtype, twice, and probabilities in float32."""
    batch, heads, length, _ = inputs.query.shape
    return batch * heads * length**2 * (2 * inputs.query.element_size() + 4)


def index_select_each(inputs: CompactionInputs) -> list[Tensor]:
    """The kept entries, tensor by tensor."""
    return [tensor.index_select(2, inputs.index) for tensor in inputs.tensors]
