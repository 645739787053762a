"""The ragged table of groups: what each one holds, how much it gives, and where its output starts.

A video's groups are the static tokens of each segment and the dynamic tokens of each frame. How
many merged tokens a group gives follows from its size alone, so all output offsets are known, and
the host can be told the output's length, before anything is clustered.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import double_bits, merged_size
from prunevid_kernels.kernels._launch import launch
from prunevid_kernels.kernels._parts import parts, span


class GroupTable(NamedTuple):
    """Groups of all F frames; all int32, on the device.

    Attributes:
        position: [F, N], in the row of a segment's first frame: its static positions, ascending,
            then its dynamic ones, ascending.
        static_offset, static_size: [F], at the segments' first frames: where a static group's
            merged tokens start in its video's output, and how many there are; size 0 elsewhere. A
            group of tokens with size 0 shares the merged token before its offset.
        frame_offset, frame_size: [F] the same for the frames' dynamic groups.
        first_point, end_point: [2 F] the rows of F N, one for each token of each frame, that hold
            the points of the groups that are clustered: the frames' dynamic ones, in their last
            rows; then the segments' static ones, in the first rows of their first frames. Nothing
            where a group is passed through, or becomes one token.
        host: [F + F + F + B + B] what the host has to know: segment starts, static sizes, frame
            sizes, each video's number of merged tokens, and its first bad frame (its frame count if
            there is none).
    """

    position: Tensor
    static_offset: Tensor
    static_size: Tensor
    frame_offset: Tensor
    frame_size: Tensor
    first_point: Tensor
    end_point: Tensor
    host: Tensor


@triton.jit
def video_of(frame, first_frame_ptr, num_videos):
    """The video that a frame belongs to."""
    video = -1
    for first in range(0, num_videos, 32):
        index = first + tl.arange(0, 32)
        # [32]
        first_frame = tl.load(first_frame_ptr + index, mask=index < num_videos, other=2147483647)
        video += tl.sum((first_frame <= frame).to(tl.int32), axis=0)
    return video


@triton.jit
def sharers(
    # Read: segments and groups.
    segment_start_ptr,
    segment_length_ptr,
    static_count_ptr,
    static_offset_ptr,
    static_size_ptr,
    frame_offset_ptr,
    frame_size_ptr,
    # A merged token, and frames of its video.
    token,
    frame,
    last_frame,
    N,
    BLOCK_N: tl.constexpr,
):
    """Source tokens of the groups that share a merged token with the one, in front of them, that
    has it as its own; and the frame after the last of theirs, 0 where there is none."""
    sources = tl.zeros([BLOCK_N], dtype=tl.int32)
    end = tl.zeros([BLOCK_N], dtype=tl.int32)
    for first in range(frame, last_frame, BLOCK_N):
        f = first + tl.arange(0, BLOCK_N)
        inside = f < last_frame
        # [BLOCK_N] each
        start = tl.load(segment_start_ptr + f, mask=inside, other=0)
        num_static = tl.load(static_count_ptr + start, mask=inside, other=0)
        length = tl.load(segment_length_ptr + start, mask=inside, other=0)
        offset = tl.load(frame_offset_ptr + f, mask=inside, other=0)
        size = tl.load(frame_size_ptr + f, mask=inside, other=1)
        shares = (size == 0) & (offset == token + 1) & (num_static < N)
        sources += tl.where(shares, N - num_static, 0)
        end = tl.maximum(end, tl.where(shares, f + 1, 0))
        offset = tl.load(static_offset_ptr + f, mask=inside, other=0)
        size = tl.load(static_size_ptr + f, mask=inside, other=1)
        shares = (size == 0) & (offset == token + 1) & (start == f) & (num_static > 0)
        sources += tl.where(shares, num_static * length, 0)
        end = tl.maximum(end, tl.where(shares, f + length, 0))
    return tl.sum(sources, axis=0), tl.max(end, axis=0)


@triton.jit
def _spend_budget(budget, static_count, static_size, static_capacity, frame_count, frame_size):
    """Merged tokens of each group, ``budget`` in all: of static and of dynamic groups, [BLOCK_T]
    each.

    A group gives ``count`` tokens in threshold mode, holds ``size``, and ``capacity`` before the
    averaging over time. The budget lies between two of the sums of 1, count, size, capacity;
    every group goes the same part of its way between the two, in integers. What is left goes to the
    largest remainders, the earlier group first; the smallest that gets one is found by bisection.

    Of G groups that hold tokens, and a smaller budget, the g-th has to share token ``g * budget //
    G``: the first of those that do is given it.
    """
    static_low, frame_low = tl.minimum(static_count, 1), tl.minimum(frame_count, 1)
    num_held = tl.sum(static_low + frame_low, axis=0)
    # A static group stands in front of the dynamic group of its first frame.
    place = tl.cumsum(static_low + frame_low, axis=0) - static_low - frame_low  # [BLOCK_T]
    static_begins = (static_low > 0) & (place * budget % num_held < budget)
    place += static_low
    frame_begins = (frame_low > 0) & (place * budget % num_held < budget)

    static_high, frame_high = static_count, frame_count
    for step in tl.static_range(2):
        is_above = budget > tl.sum(static_high + frame_high, axis=0)
        static_next, frame_next = static_size, frame_size
        if step == 1:
            static_next, frame_next = static_capacity, frame_size
        static_low = tl.where(is_above, static_high, static_low)
        frame_low = tl.where(is_above, frame_high, frame_low)
        static_high = tl.where(is_above, static_next, static_high)
        frame_high = tl.where(is_above, frame_next, frame_high)
    low = tl.sum(static_low + frame_low, axis=0)
    span = tl.maximum(tl.sum(static_high + frame_high, axis=0) - low, 1)
    way = (budget - low).to(tl.int64)
    static_product = (static_high - static_low).to(tl.int64) * way
    frame_product = (frame_high - frame_low).to(tl.int64) * way
    static_given = static_low + (static_product // span).to(tl.int32)
    frame_given = frame_low + (frame_product // span).to(tl.int32)
    static_rest = (static_product % span).to(tl.int32)
    frame_rest = (frame_product % span).to(tl.int32)
    left = budget - tl.sum(static_given + frame_given, axis=0)

    # At least ``left`` groups have a remainder >= smallest, fewer one >= too_large.
    smallest, too_large = span * 0, span
    while too_large - smallest > 1:
        middle = (smallest + too_large) // 2
        reaches = (static_rest >= middle).to(tl.int32) + (frame_rest >= middle).to(tl.int32)
        reached = tl.sum(reaches, axis=0)
        too_large = tl.where(reached >= left, too_large, middle)
        smallest = tl.where(reached >= left, middle, smallest)
    static_above = (static_rest > smallest).to(tl.int32)
    frame_above = (frame_rest > smallest).to(tl.int32)
    left -= tl.sum(static_above + frame_above, axis=0)
    static_equal = (static_rest == smallest).to(tl.int32)
    frame_equal = (frame_rest == smallest).to(tl.int32)
    before = tl.cumsum(static_equal + frame_equal, axis=0) - static_equal - frame_equal  # [BLOCK_T]
    static_equal = tl.where(before < left, static_equal, 0)
    frame_equal = tl.where(before + static_equal < left, frame_equal, 0)
    static_given += static_above + static_equal
    frame_given += frame_above + frame_equal
    is_scarce = budget < num_held
    return (
        tl.where(is_scarce, static_begins.to(tl.int32), static_given),
        tl.where(is_scarce, frame_begins.to(tl.int32), frame_given),
    )


@triton.jit(
    do_not_specialize=["num_frames", "num_videos", "N", "num_bad_blocks", "min_cluster_tokens"],
    do_not_specialize_on_alignment=[
        "segment_length_ptr",
        "static_count_ptr",
        "frame_offset_ptr",
        "end_point_ptr",
    ],
)
def _group_table_kernel(
    # Read: videos, segments and tokens.
    first_frame_ptr,
    segment_start_ptr,
    segment_length_ptr,
    static_count_ptr,
    is_static_ptr,
    is_bad_ptr,
    budget_ptr,
    # Written.
    position_ptr,
    static_offset_ptr,
    frame_offset_ptr,
    first_point_ptr,
    end_point_ptr,
    host_ptr,
    # Sizes, and numbers of the config.
    num_frames,
    num_videos,
    N,
    num_bad_blocks,
    ratio_bits,
    min_cluster_tokens,
    HAS_BUDGET: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Program (frame): the positions of the segment that starts there, and, at the first frame of a
    video, the sizes and offsets of all its groups."""
    frame = tl.program_id(0)
    if tl.load(segment_start_ptr + frame) == frame:
        row = frame.to(tl.int64) * N
        n = tl.arange(0, BLOCK_N)
        is_static = tl.load(is_static_ptr + row + n, mask=n < N, other=0).to(tl.int32)  # [BLOCK_N]
        is_dynamic = tl.where(n < N, 1 - is_static, 0)
        num_static = tl.sum(is_static, axis=0)
        # [BLOCK_N]
        slot = tl.where(
            is_static > 0,
            tl.cumsum(is_static, axis=0) - 1,
            num_static + tl.cumsum(is_dynamic, axis=0) - 1,
        )
        tl.store(position_ptr + row + slot, n, mask=n < N)

    video = video_of(frame, first_frame_ptr, num_videos)
    if tl.load(first_frame_ptr + video) == frame:
        length = tl.load(first_frame_ptr + video + 1) - frame
        t = tl.arange(0, BLOCK_T)
        inside = t < length
        start = tl.load(segment_start_ptr + frame + t, mask=inside, other=0)  # [BLOCK_T]
        num_static = tl.load(static_count_ptr + start, mask=inside, other=0)  # [BLOCK_T]
        starts = inside & (start == frame + t)
        static_size = tl.where(starts, merged_size(num_static, ratio_bits, min_cluster_tokens), 0)
        frame_size = merged_size(N - num_static, ratio_bits, min_cluster_tokens)
        frame_size = tl.where(inside, frame_size, 0)
        if HAS_BUDGET:
            segment_length = tl.load(segment_length_ptr + start, mask=starts, other=0)  # [BLOCK_T]
            static_size, frame_size = _spend_budget(
                tl.load(budget_ptr + video),
                static_size,
                tl.where(starts, num_static, 0),
                tl.where(starts, num_static * segment_length, 0),
                frame_size,
                tl.where(inside, N - num_static, 0),
            )
        static_end = tl.cumsum(static_size, axis=0)  # [BLOCK_T]
        frame_end = tl.cumsum(frame_size, axis=0)  # [BLOCK_T]
        # In front of a frame's group stand the earlier frames' and all static groups up to its
        # segment's.
        tl.store(frame_offset_ptr + frame + t, static_end + frame_end - frame_size, mask=inside)
        static_offset = static_end - static_size + frame_end - frame_size
        tl.store(static_offset_ptr + frame + t, static_offset, mask=inside)

        static_passed, frame_passed = min_cluster_tokens, min_cluster_tokens
        if HAS_BUDGET:
            static_passed, frame_passed = static_size, frame_size
        # One cluster holds all.
        static_clustered = starts & (static_size > 1) & (num_static > static_passed)
        frame_clustered = (frame_size > 1) & (N - num_static > frame_passed)
        point = (frame + t) * N
        static_end_point = point + tl.where(static_clustered, num_static, 0)
        tl.store(first_point_ptr + num_frames + frame + t, point, mask=inside)
        tl.store(end_point_ptr + num_frames + frame + t, static_end_point, mask=inside)
        frame_point = point + tl.where(frame_clustered, num_static, N)
        tl.store(first_point_ptr + frame + t, frame_point, mask=inside)
        tl.store(end_point_ptr + frame + t, point + N, mask=inside)

        tl.store(host_ptr + frame + t, start, mask=inside)
        tl.store(host_ptr + num_frames + frame + t, static_size, mask=inside)
        tl.store(host_ptr + 2 * num_frames + frame + t, frame_size, mask=inside)
        num_merged = tl.sum(static_size + frame_size, axis=0)
        tl.store(host_ptr + 3 * num_frames + video, num_merged)
        is_bad = tl.zeros([BLOCK_T], dtype=tl.int32)
        for block in tl.range(0, num_bad_blocks, loop_unroll_factor=8):  # all under way
            # [BLOCK_T]
            is_bad |= tl.load(
                is_bad_ptr + (frame + t) * num_bad_blocks + block, mask=inside, other=0
            )
        first_bad = tl.min(tl.where(is_bad > 0, t, length), axis=0)
        tl.store(host_ptr + 3 * num_frames + num_videos + video, first_bad)


def _block(n: int) -> int:
    """A power of two from ``n`` on, at least 256, so that few variants are compiled."""
    return max(256, 1 << (n - 1).bit_length())


def group_table(
    first_frame: Tensor,
    max_frames: int,
    segment_start: Tensor,
    segment_length: Tensor,
    static_count: Tensor,
    is_static: Tensor,
    is_bad: Tensor,
    budget: Tensor | None,
    cluster_ratio: float,
    min_cluster_tokens: int,
) -> GroupTable:
    """Lay out the groups of all videos in one launch.

    Args:
        budget: [B] int32, on the device: merged tokens of each video; None: what the ratio gives.
    """
    frames, n = is_static.shape
    videos = first_frame.shape[0] - 1
    device = is_static.device
    position, static_offset, frame_offset, first_point, end_point = parts(
        device,
        ((frames, n), torch.int32),
        *[((frames,), torch.int32)] * 2,
        *[((2 * frames,), torch.int32)] * 2,
    )
    host = torch.empty(3 * frames + 2 * videos, dtype=torch.int32, device=device)
    launch(
        _group_table_kernel,
        (device, cluster_ratio),
        (frames, 1, 1),
        (
            first_frame,
            segment_start,
            segment_length,
            static_count,
            is_static,
            is_bad,
            first_frame if budget is None else budget,
            position,
            static_offset,
            frame_offset,
            first_point,
            end_point,
            host,
            frames,
            videos,
            n,
            is_bad.shape[1],
            double_bits(cluster_ratio),
            min_cluster_tokens,
        ),
        {
            "HAS_BUDGET": budget is not None,
            "BLOCK_N": _block(n),
            "BLOCK_T": _block(max_frames),
            "num_warps": 4,
        },
    )
    return GroupTable(
        position,
        static_offset=static_offset,
        static_size=span(host, frames, 2 * frames),
        frame_offset=frame_offset,
        frame_size=span(host, 2 * frames, 3 * frames),
        first_point=first_point,
        end_point=end_point,
        host=host,
    )
