"""Time: the frames' clusters become segments, and a segment's still positions are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from prunevid_kernels.config import PruneVidConfig, scaled_count
from prunevid_kernels.reference.clustering import cluster_points
from prunevid_kernels.reference.floats import compute_dtype, in_parts


def refine_labels(labels: Sequence[int]) -> list[int]:
    """Turn the frames' cluster labels into labels whose maximal runs are the segments.

    A label keeps its longest runs, unless they are single frames; all other frames are open. From
    left to right, each stretch of open frames takes the label of the longer of its two neighbouring
    runs (the left one if they are equally long), label 0 if it has none. From two frames on, no
    segment is shorter than two frames.
    """
    longest: dict[int, int] = {}
    for label, frames in groupby(labels):
        longest[label] = max(longest.get(label, 0), len(list(frames)))

    refined: list[int | None] = []
    for label, frames in groupby(labels):
        length = len(list(frames))
        stays = length > 1 and length == longest[label]
        refined += [label if stays else None] * length

    position = 0
    while position < len(refined):
        if refined[position] is not None:
            position += 1
            continue
        end = position
        while end < len(refined) and refined[end] is None:
            end += 1
        left, left_length = _run_at(refined, position - 1, step=-1)
        right, right_length = _run_at(refined, end, step=+1)
        winner = right if right_length > left_length else left
        refined[position:end] = [0 if winner is None else winner] * (end - position)
        position = end
    return [label for label in refined if label is not None]


def _run_at(labels: Sequence[int | None], start: int, step: int) -> tuple[int | None, int]:
    """The label at ``start`` and how often it repeats from there on in direction ``step``."""
    if not 0 <= start < len(labels) or labels[start] is None:
        return None, 0
    length = 0
    while (
        0 <= start + step * length < len(labels) and labels[start + step * length] == labels[start]
    ):
        length += 1
    return labels[start], length


def segment_frames(frame_features: Tensor, config: PruneVidConfig) -> Tensor:
    """The segment id [T] int64 of each frame from its descriptor [T, C]: 0, 0, 0, 1, 1, ..."""
    lengths = torch.tensor(segment_lengths(frame_features, config), device=frame_features.device)
    return torch.repeat_interleave(lengths, output_size=len(frame_features))


def segment_lengths(frame_features: Tensor, config: PruneVidConfig) -> list[int]:
    """Frames of each segment, from the frames' descriptors [T, C]."""
    num_clusters = max(1, scaled_count(len(frame_features), config.segment_ratio))
    labels = cluster_points(frame_features, num_clusters, config.num_neighbors).labels
    return [len(list(frames)) for _, frames in groupby(refine_labels(labels.tolist()))]


# ------------------------------------------------------------------------------------------------
# What holds still in a segment
# ------------------------------------------------------------------------------------------------


def position_similarity(segment: Tensor) -> Tensor:
    """Mean cosine [N] over the pairs of different frames of a segment [W, N, C], W >= 2, position
    by position.

    The sum over all ordered pairs of W unit vectors' products is the squared length of their sum,
    so this is linear in W. 1 is subtracted for each frame's product with itself, for all-zero
    vectors too, although theirs is 0.
    """
    frames = len(segment)
    total = torch.zeros_like(segment[0], dtype=compute_dtype(segment.dtype))
    for part in in_parts(segment):
        values = part.to(total.dtype)
        lengths = torch.linalg.vector_norm(values, dim=-1, keepdim=True).clamp_(min=1e-12)
        for frame, length in zip(values, lengths, strict=True):
            total.addcdiv_(frame, length)  # total += frame / length
    return (total.square().sum(dim=-1) - frames) / (frames * (frames - 1))


def static_positions(segment: Tensor, tau: float) -> Tensor:
    """Which positions [N] bool of a segment [W, N, C] hold still: none of a single frame, which
    shows no stillness, and none for a tau of 1, which only a rounding error can exceed."""
    if segment.shape[0] == 1 or tau >= 1:
        return torch.zeros(segment.shape[1], dtype=torch.bool, device=segment.device)
    return position_similarity(segment) > tau


def mean_over_time(frames: Tensor, positions: Tensor) -> Tensor:
    """Mean token [n, C] at each of ``positions`` [n] over frames [W, N, C], in the computing
    dtype."""
    shape = (len(positions), frames.shape[2])
    total = frames.new_zeros(shape, dtype=compute_dtype(frames.dtype))
    for part in in_parts(frames):
        for tokens in part.index_select(1, positions):
            total += tokens
    return total.div_(len(frames))
