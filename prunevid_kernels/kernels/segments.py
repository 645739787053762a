"""Temporal segments: cluster a video's frames, then refine the labels into contiguous segments.

A label keeps its longest runs of frames, unless they are single frames; the other frames are open.
From left to right each stretch of open frames takes the label of the longer of its two neighbouring
runs. That is one scan with (label, run length) as its state, because what stands to the right of a
stretch is always a kept run, whose length is known beforehand. The scan is the only part that is
not parallel: T steps of one program.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import double_bits, scaled_count
from prunevid_kernels.kernels.dpc_knn import cluster_points, row_blocks
from prunevid_kernels.kernels.gram import gram


@triton.jit
def _run_lengths(label_ptr, run_start_ptr, run_length_ptr, n, BLOCK_N: tl.constexpr):
    """Start [n] and length [n] of the maximal run of equal labels around each frame."""
    j = tl.arange(0, BLOCK_N)
    label = tl.load(label_ptr + j, mask=j < n, other=-1)
    previous = tl.load(label_ptr + j - 1, mask=(j > 0) & (j < n), other=-1)
    starts = (j < n) & (label != previous)
    run = tl.cumsum(starts.to(tl.int32), axis=0)
    tl.store(run_start_ptr + run - 1, j, mask=starts)  # by run, not by frame, until the barrier
    tl.debug_barrier()
    last_run = tl.max(tl.where(j < n, run, 0), axis=0)
    start = tl.load(run_start_ptr + run - 1, mask=j < n, other=0)
    end = tl.load(run_start_ptr + run, mask=(j < n) & (run < last_run), other=0)
    end = tl.where(run < last_run, end, n)
    tl.debug_barrier()
    tl.store(run_start_ptr + j, start, mask=j < n)
    tl.store(run_length_ptr + j, end - start, mask=j < n)
    tl.debug_barrier()


@triton.jit
def _kept_and_next(
    label_ptr, run_length_ptr, next_ptr, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """For each frame the first kept frame from it on, itself included; n where there is none."""
    j = tl.arange(0, BLOCK_N)
    label_j = tl.load(label_ptr + j, mask=j < n, other=-1)
    length_j = tl.load(run_length_ptr + j, mask=j < n, other=0)
    for first in range(0, n, BLOCK_M):
        i = first + tl.arange(0, BLOCK_M)
        label = tl.load(label_ptr + i, mask=i < n, other=-2)
        length = tl.load(run_length_ptr + i, mask=i < n, other=0)
        same = label[:, None] == label_j[None, :]
        longest = tl.max(tl.where(same, length_j[None, :], 0), axis=1)
        is_kept = (length > 1) & (length == longest)
        tl.store(next_ptr + i, tl.where(is_kept, i, n), mask=i < n)
    tl.debug_barrier()
    kept_j = tl.load(next_ptr + j, mask=j < n, other=n)
    tl.debug_barrier()
    for first in range(0, n, BLOCK_M):
        i = first + tl.arange(0, BLOCK_M)
        is_after = j[None, :] >= i[:, None]
        following = tl.min(tl.where(is_after, kept_j[None, :], n), axis=1)
        tl.store(next_ptr + i, following, mask=i < n)
    tl.debug_barrier()


@triton.jit
def _refine(label_ptr, run_length_ptr, next_ptr, segment_start_ptr, first_frame, n):
    """The scan: stores the first frame of each frame's segment."""
    label = 0  # of the run that ends at the frame before, and its length
    length = 0
    segment_start = first_frame
    was_open = False
    for t in range(n):
        following = tl.load(next_ptr + t)
        is_open = following > t
        has_next = following < n
        next_label = tl.load(label_ptr + following, mask=has_next, other=0)
        next_length = tl.load(run_length_ptr + following, mask=has_next, other=0)
        takes_next = (is_open == 0) | ((was_open == 0) & (next_length > length))
        chosen = tl.where(takes_next, next_label, label)
        continues = (length > 0) & (chosen == label)
        segment_start = tl.where(continues, segment_start, first_frame + t)
        length = tl.where(continues, length + 1, 1)
        label = chosen
        was_open = is_open
        tl.store(segment_start_ptr + t, segment_start)
    tl.debug_barrier()


@triton.jit
def _segments_kernel(
    gram_ptr,
    norm_ptr,
    first_frame_ptr,
    density_ptr,
    score_ptr,
    scratch_ptr,
    segment_start_ptr,
    segment_length_ptr,
    static_count_ptr,
    num_frames,
    pitch,
    num_splits,
    gram_split_stride,
    norm_split_stride,
    sqrt_channels,
    num_neighbors,
    ratio_bits,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    first_frame = tl.load(first_frame_ptr + tl.program_id(0))
    n = tl.load(first_frame_ptr + tl.program_id(0) + 1) - first_frame
    first = first_frame.to(tl.int64)
    rank_ptr = scratch_ptr + first
    label_ptr = rank_ptr + num_frames
    run_start_ptr, run_length_ptr = label_ptr + num_frames, label_ptr + 2 * num_frames
    cluster_points(
        gram_ptr + first * pitch,
        norm_ptr + first,
        density_ptr + first,
        score_ptr + first,
        rank_ptr,
        label_ptr,
        n,
        pitch,
        num_splits,
        gram_split_stride,
        norm_split_stride,
        sqrt_channels,
        num_neighbors,
        scaled_count(n, ratio_bits),
        BLOCK_M,
        BLOCK_N,
    )
    segment_start_ptr += first
    segment_length_ptr += first
    _run_lengths(label_ptr, run_start_ptr, run_length_ptr, n, BLOCK_N)
    _kept_and_next(label_ptr, run_length_ptr, rank_ptr, n, BLOCK_M, BLOCK_N)
    _refine(label_ptr, run_length_ptr, rank_ptr, segment_start_ptr, first_frame, n)
    # The segments are the runs of equal segment starts.
    _run_lengths(segment_start_ptr, run_start_ptr, segment_length_ptr, n, BLOCK_N)
    j = tl.arange(0, BLOCK_N)
    tl.store(static_count_ptr + first + j, tl.zeros([BLOCK_N], dtype=tl.int32), mask=j < n)


def segments(
    frame_mean: Tensor,
    first_frame: Tensor,
    max_frames: int,
    segment_ratio: float,
    num_neighbors: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut every video into segments, in two launches.

    Args:
        frame_mean: [F, C] frame descriptors of all videos. first_frame: [B + 1] int32.
        max_frames: frames of the longest video.

    Returns:
        [F] int32 each: the first frame (counted over all videos) and the length of each frame's
        segment, and zeros, for the static split to count in.
    """
    frames, channels = frame_mean.shape
    device = frame_mean.device
    blocks = row_blocks(device, max_frames)  # refuses too many frames before any work is done
    matrices, norms = gram(frame_mean, first_frame[:-1], first_frame[1:], max_frames)
    floats = torch.empty((2, frames), dtype=torch.float32, device=device)
    scratch = torch.empty((4, frames), dtype=torch.int32, device=device)
    start, length, static_count = torch.empty((3, frames), dtype=torch.int32, device=device)
    _segments_kernel[(len(first_frame) - 1,)](
        matrices,
        norms,
        first_frame,
        floats[0],
        floats[1],
        scratch,
        start,
        length,
        static_count,
        frames,
        max_frames,
        matrices.shape[0],
        matrices.stride(0),
        norms.stride(0),
        math.sqrt(channels),
        num_neighbors,
        double_bits(segment_ratio),
        **blocks,
    )
    return start, length, static_count


def segment_frames(frame_features: Tensor, segment_ratio: float, num_neighbors: int) -> Tensor:
    """See :func:`prunevid_kernels.segment_frames`."""
    frames = len(frame_features)
    first_frame = torch.tensor([0, frames], dtype=torch.int32, device=frame_features.device)
    start, _, _ = segments(
        frame_features.contiguous(), first_frame, frames, segment_ratio, num_neighbors
    )
    is_start = start == torch.arange(frames, device=start.device)
    return is_start.long().cumsum(0) - 1
