"""Temporal segments: cluster a video's frames, then refine the labels into contiguous segments.

A label keeps its longest runs of frames, unless they are single frames; the other frames are open.
From left to right each stretch of open frames takes the label of the longer of its two neighbouring
runs. What stands to its right is a kept run, whose length L is known beforehand; the length of the
run to its left depends on the choices so far. Still, what a stretch and the kept run after it do to
the length of the run that they end is a function of one of two kinds,

    x -> x + a                     both neighbours have the same label: they become one run
    x -> u if x < L else v         the stretch goes to its right neighbour, or to its left one

and functions of these kinds composed are of these kinds again. So the lengths are found by a
parallel scan over functions, and no step waits for another frame's. One program a video holds its
frames in registers from their scores to their segments; of at most 64 frames, from their products.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import (
    blocks_for,
    config_for,
    device_integers,
    double_bits,
    in_memory,
    power_of_2_from,
    scaled_count,
)
from prunevid_kernels.kernels._launch import MAX_INT32, launch
from prunevid_kernels.kernels._parts import parts, span
from prunevid_kernels.kernels.density_peaks import (
    MAX_SMALL_SET,
    labels,
    ranks,
    small_set_labels,
)
from prunevid_kernels.kernels.dpc_knn import points_of, score_points


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _smaller(a, b):
    return tl.minimum(a, b)


@triton.jit
def _composed(limit_f, below_f, above_f, limit_g, below_g, above_g):
    """g after f: x -> ``below`` if x < ``limit`` else ``above``; limit -1: x -> x + ``below``."""
    f_adds, g_adds = limit_f < 0, limit_g < 0
    below = tl.where(f_adds | (below_f < limit_g), below_g, above_g)
    above = tl.where((f_adds == 0) & (above_f < limit_g), below_g, above_g)
    return (
        tl.where(g_adds | (f_adds == 0), limit_f, tl.maximum(limit_g - below_f, 0)),
        tl.where(g_adds, below_f + below_g, below),
        tl.where(g_adds, above_f + below_g, above),
    )


@triton.jit
def _before(values, first, BLOCK_N: tl.constexpr):
    """[BLOCK_N] each frame's value at the frame before, ``first`` at the first frame."""
    j = tl.arange(0, BLOCK_N)
    return tl.where(j > 0, tl.gather(values, tl.maximum(j - 1, 0), axis=0), first)


@triton.jit
def _runs(label, n, BLOCK_N: tl.constexpr):
    """[BLOCK_N] first frame, and the frame after the last, of the run of equal labels around each
    frame."""
    j = tl.arange(0, BLOCK_N)
    after = tl.gather(label, tl.minimum(j + 1, BLOCK_N - 1), axis=0)
    starts = label != _before(label, -1, BLOCK_N)
    ends = (j == n - 1) | ((j < n) & (label != after))
    start = tl.associative_scan(tl.where(starts, j, 0), 0, _larger)
    end = tl.associative_scan(tl.where(ends, j + 1, BLOCK_N), 0, _smaller, reverse=True)
    return start, end


@triton.jit
def _longest(label, run_length, num_labels, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """[BLOCK_N] length of the longest run of each frame's label."""
    longest = tl.zeros([BLOCK_N], dtype=tl.int32)
    for first in range(0, num_labels, BLOCK_M):
        r = first + tl.arange(0, BLOCK_M)
        has_label = label[None, :] == r[:, None]  # [BLOCK_M, BLOCK_N]
        of_label = tl.max(tl.where(has_label, run_length[None, :], 0), axis=1)  # [BLOCK_M]
        longest += tl.sum(tl.where(has_label, of_label[:, None], 0), axis=0)  # [BLOCK_N]
    return longest


@triton.jit
def _refined(label, n, num_labels, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The frames' labels [BLOCK_N], -1 beyond the n-th, after each open stretch has taken one."""
    j = tl.arange(0, BLOCK_N)
    run_start, run_end = _runs(label, n, BLOCK_N)
    run_length = run_end - run_start
    longest = _longest(label, run_length, num_labels, BLOCK_M, BLOCK_N)
    is_kept = (j < n) & (run_length > 1) & (run_length == longest)
    # The first kept frame from each frame on, n where there is none; and the frame after the last
    # kept one up to each frame, 0 where there is none.
    right = tl.associative_scan(tl.where(is_kept, j, n), 0, _smaller, reverse=True)  # [BLOCK_N]
    left_end = tl.associative_scan(tl.where(is_kept, j + 1, 0), 0, _larger)  # [BLOCK_N]

    # What the open stretch before a kept run and that run do to the length of the run they end.
    ends_stretch = is_kept & (run_start == j)
    stretch_start = _before(left_end, 0, BLOCK_N)
    left_label = tl.gather(label, tl.maximum(stretch_start - 1, 0), axis=0)
    joins = (stretch_start > 0) & (left_label == label)
    limit = tl.where(ends_stretch & (joins == 0), run_length, -1)
    below = tl.where(ends_stretch, j - stretch_start + run_length, 0)
    above = tl.where(ends_stretch, run_length, 0)
    limit, below, above = tl.associative_scan((limit, below, above), 0, _composed)  # [BLOCK_N] each
    left_length = tl.where((limit < 0) | (limit > 0), below, above)  # from a length of 0

    at_right = tl.minimum(right, BLOCK_N - 1)
    takes_right = (right < n) & (tl.gather(run_length, at_right, axis=0) > left_length)
    taken_from = tl.where(is_kept, j, tl.where(takes_right, at_right, left_end - 1))
    refined = tl.gather(label, tl.maximum(taken_from, 0), axis=0)
    refined = tl.where(taken_from < 0, 0, refined)  # no run is kept
    return tl.where(j < n, refined, -1)


@triton.jit
def _store_segments(
    # Written.
    segment_start_ptr,
    segment_length_ptr,
    static_count_ptr,
    # Of the video.
    label,
    first_frame,
    n,
    num_clusters,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The segments of n frames, the first of all being ``first_frame``, from their labels."""
    j = tl.arange(0, BLOCK_N)
    label = tl.where(j < n, label, -1)
    start, end = _runs(_refined(label, n, num_clusters, BLOCK_M, BLOCK_N), n, BLOCK_N)
    frame = first_frame.to(tl.int64) + j
    tl.store(segment_start_ptr + frame, first_frame + start, mask=j < n)
    tl.store(segment_length_ptr + frame, end - start, mask=j < n)
    tl.store(static_count_ptr + frame, tl.zeros([BLOCK_N], dtype=tl.int32), mask=j < n)


@triton.jit(do_not_specialize_on_alignment=["score_ptr", "segment_length_ptr", "static_count_ptr"])
def _segments_kernel(
    # Read: of the clustering of frames.
    square_ptr,
    score_ptr,
    first_frame_ptr,
    # Written.
    segment_start_ptr,
    segment_length_ptr,
    static_count_ptr,
    # Stride and ratio.
    pitch,
    ratio_bits,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Program (video)."""
    first_frame = tl.load(first_frame_ptr + tl.program_id(0))
    n = tl.load(first_frame_ptr + tl.program_id(0) + 1) - first_frame
    first = first_frame.to(tl.int64)
    num_clusters = scaled_count(n, ratio_bits)
    rank = ranks(score_ptr + first, n, BLOCK_M, BLOCK_N)
    label = labels(square_ptr + first * pitch, rank, n, pitch, num_clusters, BLOCK_M, BLOCK_N)
    _store_segments(
        segment_start_ptr,
        segment_length_ptr,
        static_count_ptr,
        label,
        first_frame,
        n,
        num_clusters,
        BLOCK_M,
        BLOCK_N,
    )


@triton.jit(
    do_not_specialize=["num_splits", "num_neighbors"],
    do_not_specialize_on_alignment=["segment_length_ptr", "static_count_ptr"],
)
def _short_segments_kernel(
    # Read: parts of Gram matrices, and where each video's frames are.
    gram_ptr,
    first_frame_ptr,
    # Written.
    segment_start_ptr,
    segment_length_ptr,
    static_count_ptr,
    # Sizes, stride and ratio.
    num_splits,
    gram_split_stride,
    pitch,
    sqrt_channels,
    num_neighbors,
    ratio_bits,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Program (video of at most BLOCK_N frames)."""
    first_frame = tl.load(first_frame_ptr + tl.program_id(0))
    n = tl.load(first_frame_ptr + tl.program_id(0) + 1) - first_frame
    num_clusters = scaled_count(n, ratio_bits)
    label = small_set_labels(
        gram_ptr + first_frame.to(tl.int64) * pitch,
        num_splits,
        gram_split_stride,
        n,
        pitch,
        sqrt_channels,
        num_neighbors,
        num_clusters,
        BLOCK_N,
    )
    _store_segments(
        segment_start_ptr,
        segment_length_ptr,
        static_count_ptr,
        label,
        first_frame,
        n,
        num_clusters,
        BLOCK_M,
        BLOCK_N,
    )


def segments(
    frame_mean: Tensor,
    first_frame: Tensor,
    max_frames: int,
    segment_ratio: float,
    num_neighbors: int,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut every video into segments: in two launches, or in four if one is long.

    Args:
        frame_mean: [F, C] frame descriptors of all videos.
        first_frame: [B + 1] int32, each video's first frame, and F.
        max_frames: frames of the longest video.
        segment_ratio: clusters a frame.
        num_neighbors: of the density.
        out: [F] int32: takes the first frames.

    Returns:
        [F] int32 each: the first frame (counted over all videos) and the length of each frame's
        segment, and zeros, for the static split to count in.
    """
    frames = frame_mean.shape[0]
    device = frame_mean.device
    videos = first_frame.shape[0] - 1
    points = points_of(frame_mean, first_frame, span(first_frame, 1, videos + 1), max_frames)
    start, length, static_count = parts(device, *[((frames,), torch.int32)] * 3)
    start = start if out is None else out
    grid = (videos, 1, 1)
    ratio_bits = double_bits(segment_ratio)
    pitch = points.pitch
    if max_frames <= MAX_SMALL_SET:
        config = config_for("short_segments", device)
        block_n = max(32, power_of_2_from(max_frames))
        num_warps = block_n // config["WARP_ROWS"]  # of all distances
        launch(
            _short_segments_kernel,
            (device, pitch, segment_ratio, points.gram_stride > MAX_INT32),
            grid,
            (
                points.gram,
                first_frame,
                start,
                length,
                static_count,
                points.num_splits,
                points.gram_stride,
                pitch,
                math.sqrt(points.channels),
                num_neighbors,
                ratio_bits,
            ),
            {"BLOCK_M": config["BLOCK_M"], "BLOCK_N": block_n, "num_warps": num_warps},
        )
        return start, length, static_count
    density, score = parts(device, *[((frames,), torch.float32)] * 2)
    square = score_points(points, num_neighbors, density, score)
    launch(
        _segments_kernel,
        (device, pitch, segment_ratio),
        grid,
        (square, score, first_frame, start, length, static_count, pitch, ratio_bits),
        blocks_for("segments", device, max_frames),
    )
    return start, length, static_count


def segment_frames(frame_features: Tensor, segment_ratio: float, num_neighbors: int) -> Tensor:
    """See :func:`prunevid_kernels.segment_frames`."""
    frames = len(frame_features)
    first_frame = device_integers([0, frames], frame_features.device)
    start = torch.empty(frames, dtype=torch.int32, device=frame_features.device)
    x = in_memory(frame_features)
    segments(x, first_frame, frames, segment_ratio, num_neighbors, start)
    is_start = start == torch.arange(frames, device=start.device)
    return is_start.long().cumsum(0) - 1
