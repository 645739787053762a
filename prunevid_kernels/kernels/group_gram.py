"""Gram matrices of all groups that are clustered, of all videos, in one launch.

A program owns a tile of one group's matrix: of the dynamic tokens of a frame, or of the means over
time of the static tokens of a segment, of a part of the channels. Channels are split because a
program's steps over them follow one another, however few the groups are. The dynamic tokens are
multiplied as they are where that is exact enough, and about the frame's mean where it is not (see
:mod:`~prunevid_kernels.kernels.gram`); the static split has stored the means near 0 already.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import ceil_div, config_for, is_interpreted
from prunevid_kernels.kernels._launch import alike, launch
from prunevid_kernels.kernels._parts import parts
from prunevid_kernels.kernels.gram import (
    add_float32_products,
    add_offset_products,
    add_products,
    padded_pitch,
    store_tile,
)
from prunevid_kernels.kernels.groups import GroupTable
from prunevid_kernels.kernels.means.frame_mean import MAX_OFFSET_BLOCKS, channels_per_offset_block


@triton.jit
def channels_per_part(C, num_rooms, SPLIT_C: tl.constexpr):
    """Channels of each part of the Gram matrix of a segment's static tokens, which has room for
    ``num_rooms`` parts."""
    return tl.cdiv(tl.cdiv(C, SPLIT_C), num_rooms) * SPLIT_C


@triton.jit
def _group_gram_tile(
    # Read: features, what was found in them, and the group's positions.
    x_ptr,
    mean_ptr,
    is_offset_ptr,
    static_mean_ptr,
    position_ptr,
    # Written.
    gram_ptr,
    norm_ptr,
    # The group, the tile's place, sizes and strides.
    is_static,
    frame,
    start,
    first_i,
    first_j,
    n,
    first_c,
    last_c,
    N,
    C,
    pitch,
    IS_DIAGONAL: tl.constexpr,
    INTERPRETED: tl.constexpr,
    OFFSET_C: tl.constexpr,
    OFFSET_BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
    FLOAT32_BLOCK_C: tl.constexpr,
):
    i, j = first_i + tl.arange(0, BLOCK), first_j + tl.arange(0, BLOCK)
    i_inside, j_inside = i < n, j < n
    position_i = tl.load(position_ptr + i, mask=i_inside, other=0)  # [BLOCK]
    position_j = tl.load(position_ptr + j, mask=j_inside, other=0)  # [BLOCK]
    same = tl.zeros([BLOCK, BLOCK], dtype=tl.float32)
    left, right = same, same
    if is_static:
        first_token = (start // 2).to(tl.int64) * N
        same, left, right = add_float32_products(
            same,
            left,
            right,
            static_mean_ptr + (first_token + position_i) * C,
            static_mean_ptr + (first_token + position_j) * C,
            i_inside,
            j_inside,
            mean_ptr,
            1,
            0,
            first_c,
            last_c,
            C,
            0,
            OFFSET_C,
            IS_DIAGONAL,
            INTERPRETED,
            FLOAT32_BLOCK_C,
        )
    else:
        first_token = frame.to(tl.int64) * N
        i_ptrs = x_ptr + (first_token + position_i) * C
        j_ptrs = x_ptr + (first_token + position_j) * C
        mean_ptr += frame.to(tl.int64) * C
        block = tl.arange(0, OFFSET_BLOCKS)
        num_blocks = tl.cdiv(C, OFFSET_C)
        flag_ptrs = is_offset_ptr + frame.to(tl.int64) * num_blocks + block
        flag = tl.load(flag_ptrs, mask=block < num_blocks, other=0)  # [OFFSET_BLOCKS]
        is_offset = tl.sum(flag.to(tl.int64) << block, axis=0)  # a bit a block
        if x_ptr.dtype.element_ty == tl.float32:
            same, left, right = add_float32_products(
                same,
                left,
                right,
                i_ptrs,
                j_ptrs,
                i_inside,
                j_inside,
                mean_ptr,
                1,
                is_offset,
                first_c,
                last_c,
                C,
                1,
                OFFSET_C,
                IS_DIAGONAL,
                INTERPRETED,
                FLOAT32_BLOCK_C,
            )
        else:
            same = add_products(
                same,
                i_ptrs,
                j_ptrs,
                i_inside,
                j_inside,
                is_offset,
                first_c,
                last_c,
                OFFSET_C,
                IS_DIAGONAL,
                INTERPRETED,
                BLOCK_C,
            )
            if is_offset != 0:
                same, left, right = add_offset_products(
                    same,
                    left,
                    right,
                    i_ptrs,
                    j_ptrs,
                    i_inside,
                    j_inside,
                    mean_ptr,
                    is_offset,
                    first_c,
                    last_c,
                    C,
                    OFFSET_C,
                    IS_DIAGONAL,
                    INTERPRETED,
                    FLOAT32_BLOCK_C,
                )
    store_tile(same + (left + right), gram_ptr, norm_ptr, i, j, n, pitch, IS_DIAGONAL)


@triton.jit(
    do_not_specialize=["num_frames", "N", "min_cluster_tokens"],
    do_not_specialize_on_alignment=[
        "segment_start_ptr",
        "segment_length_ptr",
        "static_count_ptr",
        "static_size_ptr",
        "frame_size_ptr",
    ],
)
def _group_gram_kernel(
    # Features, and what their first pass found.
    x_ptr,
    mean_ptr,
    is_offset_ptr,
    static_mean_ptr,
    # Segments and groups.
    segment_start_ptr,
    segment_length_ptr,
    static_count_ptr,
    static_size_ptr,
    frame_size_ptr,
    position_ptr,
    # Written.
    gram_ptr,
    norm_ptr,
    # Sizes and strides.
    num_frames,
    N,
    C,
    pitch,
    min_cluster_tokens,
    HAS_BUDGET: tl.constexpr,
    INTERPRETED: tl.constexpr,
    OFFSET_C: tl.constexpr,
    OFFSET_BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
    FLOAT32_BLOCK_C: tl.constexpr,
    SPLIT_C: tl.constexpr,
    PART_C: tl.constexpr,
):
    """Program (frame and part, tile row, tile column), frames fastest: a part of ``PART_C``
    channels of the dynamic tokens of a frame, or, after all of those, the part that the frame has
    room for, in each of as many matrices, of the static tokens of its segment."""
    frame, part = tl.program_id(0) % num_frames, tl.program_id(0) // num_frames
    num_parts = tl.cdiv(C, PART_C)
    first_i, first_j = tl.program_id(1) * BLOCK, tl.program_id(2) * BLOCK
    if first_i <= first_j:
        is_static = part >= num_parts
        part = part % num_parts
        start = tl.load(segment_start_ptr + frame)
        length = tl.load(segment_length_ptr + start)
        num_static = tl.load(static_count_ptr + start)
        n = tl.where(is_static, num_static, N - num_static)
        largest_passed = min_cluster_tokens
        if HAS_BUDGET:
            size_ptr = tl.where(is_static, static_size_ptr + start, frame_size_ptr + frame)
            size = tl.load(size_ptr)
            largest_passed = tl.where(size > 1, size, N)  # one cluster holds all
        static_channels = channels_per_part(C, length * num_parts, SPLIT_C)
        part_channels = tl.where(is_static, static_channels, PART_C)
        first_c = tl.where(is_static, part * length + frame - start, part) * part_channels
        last_c = tl.minimum(first_c + part_channels, C)
        if (first_c < C) & (n > largest_passed) & (first_j < n):
            # A frame's rows: first those of static tokens, then those of its dynamic ones.
            before = tl.where(is_static, 0, num_static)
            position_ptr += start.to(tl.int64) * N + before
            row = frame.to(tl.int64) * N + before
            row += part.to(tl.int64) * num_frames * N
            gram_ptr += row * pitch
            norm_ptr += row
            for IS_DIAGONAL in tl.static_range(2):
                if (first_i == first_j) == IS_DIAGONAL:
                    _group_gram_tile(
                        x_ptr,
                        mean_ptr,
                        is_offset_ptr,
                        static_mean_ptr,
                        position_ptr,
                        gram_ptr,
                        norm_ptr,
                        is_static,
                        frame,
                        start,
                        first_i,
                        first_j,
                        n,
                        first_c,
                        last_c,
                        N,
                        C,
                        pitch,
                        IS_DIAGONAL,
                        INTERPRETED,
                        OFFSET_C,
                        OFFSET_BLOCKS,
                        BLOCK,
                        BLOCK_C,
                        FLOAT32_BLOCK_C,
                    )


def channels_per_dynamic_part(channels: int, most: int) -> int:
    """Channels of each part of the products of dynamic tokens: as few parts of about ``most``
    channels at most as there can be, equal ones, of whole blocks that are or are not offset."""
    offset_c = channels_per_offset_block(channels)
    return ceil_div(channels, ceil_div(channels, most) * offset_c) * offset_c


def group_gram(
    x: Tensor,
    frame_mean: Tensor,
    is_offset: Tensor,
    static_mean: Tensor,
    segment_start: Tensor,
    segment_length: Tensor,
    static_count: Tensor,
    table: GroupTable,
    min_cluster_tokens: int | None,
) -> tuple[Tensor, Tensor]:
    """Gram matrices of all groups that are clustered.

    A segment of W frames has S static and D dynamic positions, S + D = N. In the N rows of each of
    its frames, the last D hold the products of that frame's dynamic tokens, of a part of the
    channels in each of P matrices. The first S hold a part of the products of the segment's static
    tokens: part ``p W + w`` in frame w of matrix p. The parts are added up by their reader. So the
    few static groups, whose float32 products cost six times as much, are spread over as many
    programs as the dynamic ones, and take no memory of their own.

    Args:
        x: [F, N, C] features.
        frame_mean, is_offset: as :mod:`~prunevid_kernels.kernels.means.frame_mean` gave them.
        static_mean: as :func:`~prunevid_kernels.kernels.static_split.static_split` gave it.
        segment_start, segment_length, static_count: [F] int32.
        min_cluster_tokens: groups of at most so many tokens are passed through; None (budget mode):
            groups with room for all their tokens are.

    Returns:
        gram [P, F, N, pitch], its rows by :func:`~prunevid_kernels.kernels.gram.padded_pitch`, and
        norms [P, F, N], float32.
    """
    frames, n, channels = x.shape
    config = config_for("group_gram", x.device).copy()
    offset_c = channels_per_offset_block(channels)
    # The fewer tiles, the more parts. How many depends on nothing that is another video's, so a
    # video has the same bits beside others.
    tiles = ceil_div(n, config["BLOCK"])
    part_c = channels_per_dynamic_part(channels, config.pop("PART_C") * tiles)
    num_parts = ceil_div(channels, part_c)
    assert offset_c % config["BLOCK_C"] == offset_c % config["FLOAT32_BLOCK_C"] == 0
    pitch = padded_pitch(n)
    matrices, norms = parts(
        x.device,
        ((num_parts, frames, n, pitch), torch.float32),
        ((num_parts, frames, n), torch.float32),
    )
    launch(
        _group_gram_kernel,
        (*alike(x), channels, pitch),
        (2 * num_parts * frames, tiles, tiles),
        (
            x,
            frame_mean,
            is_offset,
            static_mean,
            segment_start,
            segment_length,
            static_count,
            table.static_size,
            table.frame_size,
            table.position,
            matrices,
            norms,
            frames,
            n,
            channels,
            pitch,
            min_cluster_tokens or 0,
        ),
        {
            "HAS_BUDGET": min_cluster_tokens is None,
            "INTERPRETED": is_interpreted(),
            "OFFSET_C": offset_c,
            "OFFSET_BLOCKS": MAX_OFFSET_BLOCKS,
            "PART_C": part_c,
            **config,
        },
    )
    return matrices, norms
