"""Gram matrices on the tensor cores: products of all pairs of points, from which distances follow.

    |a - b|^2 = aa + bb - 2 ab

The norms are taken from the Gram matrix's own diagonal, never summed another way: two equal points
then get a distance of exactly 0, and points equal to them get equal distances, so ties stay ties.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import config_for, dot, is_interpreted
from prunevid_kernels.kernels.groups import GroupTable


@triton.jit
def gram_tile(
    a_ptrs,
    b_ptrs,
    a_inside,
    b_inside,
    first_c,
    last_c,
    INTERPRETED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Products [BLOCK, BLOCK] of the rows at the pointers over channels [first_c, last_c)."""
    tile = tl.zeros([BLOCK, BLOCK], dtype=tl.float32)
    for c_start in range(first_c, last_c, BLOCK_C):
        c = c_start + tl.arange(0, BLOCK_C)
        c_inside = c < last_c
        # [BLOCK, BLOCK_C] and [BLOCK_C, BLOCK]
        a = tl.load(
            a_ptrs[:, None] + c[None, :], mask=a_inside[:, None] & c_inside[None, :], other=0.0
        )
        b = tl.load(
            b_ptrs[None, :] + c[:, None], mask=b_inside[None, :] & c_inside[:, None], other=0.0
        )
        tile = dot(a, b, tile, INTERPRETED)
    return tile


@triton.jit
def store_gram_tile(tile, gram_ptr, norm_ptr, i, j, n, pitch):
    """Store a tile at rows i and columns j of a Gram matrix of n points, and the norms on its
    diagonal. Columns up to the next multiple of 16 are stored too, for readers of whole vectors."""
    inside = (i < n)[:, None] & (j < tl.cdiv(n, 16) * 16)[None, :]
    tl.store(gram_ptr + i[:, None] * pitch + j[None, :], tile, mask=inside)
    on_diagonal = i[:, None] == j[None, :]
    norm = tl.sum(tl.where(on_diagonal, tile, 0.0), axis=1)
    holds_norm = tl.sum(on_diagonal.to(tl.int32), axis=1) > 0
    tl.store(norm_ptr + i, norm, mask=holds_norm & (i < n))


@triton.jit
def _gram_kernel(
    x_ptr,
    first_row_ptr,
    end_row_ptr,
    gram_ptr,
    norm_ptr,
    num_rows,
    C,
    pitch,
    channels_per_split,
    INTERPRETED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program (set of points and tile, tiles fastest; split): rows ``first_row[set]`` to
    ``end_row[set]`` of x."""
    tiles = tl.cdiv(pitch, BLOCK)
    points, split = tl.program_id(0) // (tiles * tiles), tl.program_id(1)
    tile_index = tl.program_id(0) % (tiles * tiles)
    first = tl.load(first_row_ptr + points).to(tl.int64)
    n = (tl.load(end_row_ptr + points) - first).to(tl.int32)
    i = tile_index // tiles * BLOCK + tl.arange(0, BLOCK)
    j = tile_index % tiles * BLOCK + tl.arange(0, BLOCK)
    first_c = split * channels_per_split
    tile = gram_tile(
        x_ptr + (first + i) * C,
        x_ptr + (first + j) * C,
        i < n,
        j < n,
        first_c,
        tl.minimum(first_c + channels_per_split, C),
        INTERPRETED,
        BLOCK,
        BLOCK_C,
    )
    row = split.to(tl.int64) * num_rows + first
    store_gram_tile(tile, gram_ptr + row * pitch, norm_ptr + row, i, j, n, pitch)


def padded_pitch(n: int) -> int:
    """Floats from a row of a matrix with n columns to the next: whole 64-byte vectors."""
    return -(-n // 16) * 16


def gram(x: Tensor, first_row: Tensor, end_row: Tensor, pitch: int) -> tuple[Tensor, Tensor]:
    """Gram matrices of the sets of points that x [R, C] holds.

    Few points of many channels would leave most of the chip idle, so the channels are split and the
    parts stored side by side; their reader adds them up in order.

    Args:
        first_row, end_row: [B] int32, each set's first row and the row behind its last.
        pitch: the most points of a set, by :func:`padded_pitch`.

    Returns:
        gram [splits, R, pitch] and norms [splits, R], float32.
    """
    assert x.is_contiguous() and pitch % 16 == 0
    rows, channels = x.shape
    config = config_for("gram", x.device).copy()
    per_split = config.pop("SPLIT_C")
    splits = triton.cdiv(channels, per_split)
    matrices = torch.empty((splits, rows, pitch), dtype=torch.float32, device=x.device)
    norms = torch.empty((splits, rows), dtype=torch.float32, device=x.device)
    tiles = triton.cdiv(pitch, config["BLOCK"])
    # The sets in the first dimension: the others of a grid end at 65,535.
    _gram_kernel[(len(first_row) * tiles * tiles, splits)](
        x,
        first_row,
        end_row,
        matrices,
        norms,
        rows,
        channels,
        pitch,
        per_split,
        INTERPRETED=is_interpreted(),
        **config,
    )
    return matrices, norms


@triton.jit
def channels_per_part(C, length, SPLIT_C: tl.constexpr):
    """Channels of each part of the Gram matrix of a segment's static tokens. The segment's
    ``length`` frames have room for a part each."""
    return tl.cdiv(tl.cdiv(C, SPLIT_C), length) * SPLIT_C


@triton.jit
def _mean_over_time(ptrs, inside, length, frame_stride, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr):
    """[BLOCK, BLOCK_C] means over a segment's frames of the values at the pointers."""
    total = tl.zeros([BLOCK, BLOCK_C], dtype=tl.float32)
    for frame in tl.range(0, length, loop_unroll_factor=2):  # two loads under way
        total += tl.load(ptrs + frame * frame_stride, mask=inside, other=0.0).to(tl.float32)
    return total / length


@triton.jit
def _static_gram_tile(
    x_ptr,
    position_i,
    position_j,
    i_inside,
    j_inside,
    length,
    frame_stride,
    first_c,
    last_c,
    C,
    INTERPRETED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Products [BLOCK, BLOCK] of means over time, which are made where they are needed: stored,
    they would take as much memory as the features."""
    tile = tl.zeros([BLOCK, BLOCK], dtype=tl.float32)
    for c_start in range(first_c, last_c, BLOCK_C):
        c = c_start + tl.arange(0, BLOCK_C)
        c_inside = (c < last_c)[None, :]
        i_ptrs = x_ptr + (position_i * C)[:, None] + c[None, :]
        j_ptrs = x_ptr + (position_j * C)[:, None] + c[None, :]
        a = _mean_over_time(
            i_ptrs, i_inside[:, None] & c_inside, length, frame_stride, BLOCK, BLOCK_C
        )
        b = _mean_over_time(
            j_ptrs, j_inside[:, None] & c_inside, length, frame_stride, BLOCK, BLOCK_C
        )
        tile = dot(a, tl.trans(b), tile, INTERPRETED)
    return tile


@triton.jit
def _group_gram_kernel(
    x_ptr,
    segment_start_ptr,
    segment_length_ptr,
    static_count_ptr,
    static_size_ptr,
    frame_size_ptr,
    position_ptr,
    gram_ptr,
    norm_ptr,
    num_frames,
    N,
    C,
    pitch,
    min_cluster_tokens,
    HAS_BUDGET: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
    FLOAT32_BLOCK_C: tl.constexpr,
    SPLIT_C: tl.constexpr,
):
    """Program (group, tile), tiles fastest: the dynamic tokens of frame ``group``, or, from
    ``num_frames`` on, the part that frame ``group - num_frames`` has room for of the static tokens
    of its segment."""
    tiles = tl.cdiv(N, BLOCK)
    group, tile_index = tl.program_id(0) // (tiles * tiles), tl.program_id(0) % (tiles * tiles)
    is_static = group >= num_frames
    frame = tl.where(is_static, group - num_frames, group)
    start = tl.load(segment_start_ptr + frame)
    length = tl.load(segment_length_ptr + start)
    num_static = tl.load(static_count_ptr + start)
    n = tl.where(is_static, num_static, N - num_static)
    largest_passed = min_cluster_tokens
    if HAS_BUDGET:
        size_ptr = tl.where(is_static, static_size_ptr + start, frame_size_ptr + frame)
        largest_passed = tl.load(size_ptr)
    part_channels = channels_per_part(C, length, SPLIT_C)
    first_c = tl.where(is_static, (frame - start) * part_channels, 0)
    first_i, first_j = tile_index // tiles * BLOCK, tile_index % tiles * BLOCK
    if (first_c < C) & (n > largest_passed) & (first_i < n) & (first_j < n):
        i, j = first_i + tl.arange(0, BLOCK), first_j + tl.arange(0, BLOCK)
        # A frame's rows: first those of static tokens, then those of its dynamic ones.
        before = tl.where(is_static, 0, num_static)
        position_ptr += start.to(tl.int64) * N + before
        position_i = tl.load(position_ptr + i, mask=i < n, other=0)
        position_j = tl.load(position_ptr + j, mask=j < n, other=0)
        row = frame.to(tl.int64) * N + before
        if is_static:
            first_token = start.to(tl.int64) * N
            tile = _static_gram_tile(
                x_ptr + first_token * C,
                position_i,
                position_j,
                i < n,
                j < n,
                length,
                tl.cast(N, tl.int64) * C,
                first_c,
                tl.minimum(first_c + part_channels, C),
                C,
                INTERPRETED,
                BLOCK,
                FLOAT32_BLOCK_C,
            )
        else:
            first_token = frame.to(tl.int64) * N
            tile = gram_tile(
                x_ptr + (first_token + position_i) * C,
                x_ptr + (first_token + position_j) * C,
                i < n,
                j < n,
                0,
                C,
                INTERPRETED,
                BLOCK,
                BLOCK_C,
            )
        store_gram_tile(tile, gram_ptr + row * pitch, norm_ptr + row, i, j, n, pitch)


def group_gram(
    x: Tensor,
    segment_start: Tensor,
    segment_length: Tensor,
    static_count: Tensor,
    table: GroupTable,
    min_cluster_tokens: int | None,
) -> tuple[Tensor, Tensor]:
    """Gram matrices of all groups that are clustered.

    A segment of W frames has S static and D dynamic positions, S + D = N. In the N rows of each of
    its frames, the last D hold the products of that frame's dynamic tokens. The first S hold a part
    of the products of the segment's static tokens, from a part of the channels; the parts are added
    up by their reader. So a static group that costs W times as much to average is computed by W
    times as many programs, and takes no memory of its own.

    Args:
        x: [F, N, C] features.
        segment_start, segment_length, static_count: [F] int32.
        min_cluster_tokens: groups of at most so many tokens are passed through; None (budget mode):
            groups with room for all their tokens are.

    Returns:
        gram [F, N, pitch] and norms [F, N] float32.
    """
    frames, n, channels = x.shape
    config = config_for("group_gram", x.device).copy()
    if x.dtype == torch.float32:
        config["BLOCK_C"] = config["FLOAT32_BLOCK_C"]
    pitch = padded_pitch(n)
    matrices = torch.empty((frames, n, pitch), dtype=torch.float32, device=x.device)
    norms = torch.empty((frames, n), dtype=torch.float32, device=x.device)
    tiles = triton.cdiv(n, config["BLOCK"])
    _group_gram_kernel[(2 * frames * tiles * tiles,)](
        x,
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
        HAS_BUDGET=min_cluster_tokens is None,
        INTERPRETED=is_interpreted(),
        **config,
    )
    return matrices, norms
