"""Gram matrices on the tensor cores: products of all pairs of points, from which distances follow.

    |a - b|^2 = aa + bb - 2 ab

The norms are taken from the Gram matrix's own diagonal, never summed another way: two equal points
then get a distance of exactly 0, and points equal to them get equal distances, so ties stay ties.

Where points lie far from 0 and close to each other, the difference of such sums holds nothing but
rounding errors. Distances do not change with the place of 0, so points are first taken relative to
a point in their midst, in float32, where it pays: tokens of a frame in the blocks of channels that
:mod:`~prunevid_kernels.kernels.means.frame_mean` found offset, other points in the channels in
which a few of them are close together. Elsewhere they stay as they are: the products of 16-bit
features are exact then, and a sixth of the work.

Matrices are symmetric: the tiles above the diagonal are computed, and stored twice. A tile on the
diagonal loads its points once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import _bfloat16_parts, config_for, dot, is_interpreted
from prunevid_kernels.kernels._launch import alike, launch
from prunevid_kernels.kernels._parts import parts


@triton.jit
def _dot_float32(a, b, same, left, right, INTERPRETED: tl.constexpr):
    """``same + left + right + a @ b`` of float32, to its precision, in the three sums.

    A float32 is the sum of three bfloat16 of 8 bits each; of the nine products of parts, six reach
    above the last bit. The smaller part of a pair is on the left in as many products as on the
    right; summed apart, the two give the same bits when a and b change places, which a matrix of
    which half is computed needs for its ties.
    """
    # a [BLOCK, BLOCK_C], b [BLOCK_C, BLOCK]; the three sums and each product: [BLOCK, BLOCK]
    if INTERPRETED:
        same = dot(a, b, same, INTERPRETED)
    else:
        a_high, a_middle, a_low = _bfloat16_parts(a)
        b_high, b_middle, b_low = _bfloat16_parts(b)
        left = tl.dot(a_low, b_high, left)
        right = tl.dot(a_high, b_low, right)
        left = tl.dot(a_middle, b_high, left)
        right = tl.dot(a_high, b_middle, right)
        same = tl.dot(a_middle, b_middle, same)
        same = tl.dot(a_high, b_high, same)
    return same, left, right


@triton.jit
def _center(
    ptr,
    n,
    is_offset,
    c_start,
    c,
    c_inside,
    C,
    CENTERS: tl.constexpr,
    OFFSET_C: tl.constexpr,
):
    """[BLOCK_C] what to take away from n points: in ``CENTERS`` = 1, the row at the pointer where
    the bit of the channels' block is set. Otherwise the mean of as many of the n rows at the
    pointer, evenly spaced, in the channels in which they lie close together far from 0."""
    if CENTERS == 1:
        block_is_offset = ((is_offset >> (c_start // OFFSET_C)) & 1) != 0
        return tl.load(ptr + c, mask=c_inside & block_is_offset, other=0.0)
    else:
        count = tl.minimum(n, CENTERS)
        total = tl.zeros(c.shape, dtype=tl.float32)
        square = tl.zeros(c.shape, dtype=tl.float32)
        for step in tl.static_range(CENTERS):
            row = ((2 * step + 1) * n // (2 * count)).to(tl.int64)
            mask = c_inside & (step < count)
            x = tl.load(ptr + row * C + c, mask=mask, other=0.0).to(tl.float32)  # [BLOCK_C]
            total += x
            square += x * x
        mean = total / count
        # So few rows are close together by chance more often than those of a whole frame.
        is_close = mean * mean > 16.0 * (square / count - mean * mean)
        return tl.where(is_close, mean, 0.0)


@triton.jit
def add_products(
    same,
    a_ptrs,
    b_ptrs,
    a_inside,
    b_inside,
    skipped,
    first_c,
    last_c,
    SKIPPED_C: tl.constexpr,
    IS_DIAGONAL: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Add the products [BLOCK, BLOCK], over channels [first_c, last_c), of the 16-bit rows at the
    pointers, but for the blocks of ``SKIPPED_C`` channels whose bit is set in ``skipped``."""
    for c_start in range(first_c, last_c, BLOCK_C):
        c = c_start + tl.arange(0, BLOCK_C)
        c_inside = (c < last_c) & (((skipped >> (c_start // SKIPPED_C)) & 1) == 0)
        # a and b: [BLOCK, BLOCK_C]
        a = tl.load(
            a_ptrs[:, None] + c[None, :], mask=a_inside[:, None] & c_inside[None, :], other=0.0
        )
        b = a
        if not IS_DIAGONAL:
            b = tl.load(
                b_ptrs[:, None] + c[None, :], mask=b_inside[:, None] & c_inside[None, :], other=0.0
            )
        same = dot(a, tl.trans(b), same, INTERPRETED)
    return same


@triton.jit
def add_float32_products(
    # Sums so far.
    same,
    left,
    right,
    # Read: rows, and what is taken away from them.
    a_ptrs,
    b_ptrs,
    a_inside,
    b_inside,
    center_ptr,
    num_points,
    is_offset,
    # Channels.
    first_c,
    last_c,
    C,
    CENTERS: tl.constexpr,
    OFFSET_C: tl.constexpr,
    IS_DIAGONAL: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Add the products [BLOCK, BLOCK], over channels [first_c, last_c), of the rows at the pointers
    less :func:`_center`, or of the rows as they are (``CENTERS`` = 0)."""
    for c_start in range(first_c, last_c, BLOCK_C):
        c = c_start + tl.arange(0, BLOCK_C)
        c_inside = c < last_c
        center = tl.zeros([BLOCK_C], dtype=tl.float32)
        if CENTERS > 0:
            center = _center(
                center_ptr, num_points, is_offset, c_start, c, c_inside, C, CENTERS, OFFSET_C
            )
        # a and b: [BLOCK, BLOCK_C]
        a = tl.load(
            a_ptrs[:, None] + c[None, :], mask=a_inside[:, None] & c_inside[None, :], other=0.0
        )
        a = a.to(tl.float32) - center[None, :]
        b = a
        if not IS_DIAGONAL:
            b = tl.load(
                b_ptrs[:, None] + c[None, :], mask=b_inside[:, None] & c_inside[None, :], other=0.0
            )
            b = b.to(tl.float32) - center[None, :]
        same, left, right = _dot_float32(a, tl.trans(b), same, left, right, INTERPRETED)
    return same, left, right


@triton.jit
def add_offset_products(
    # Sums so far.
    same,
    left,
    right,
    # Read: rows, and what is taken away from them.
    a_ptrs,
    b_ptrs,
    a_inside,
    b_inside,
    mean_ptr,
    is_offset,
    # Channels: whole blocks.
    first_c,
    last_c,
    C,
    OFFSET_C: tl.constexpr,
    IS_DIAGONAL: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Add the products, about the mean, over the blocks of channels in [first_c, last_c) whose bit
    is set."""
    for block in range(first_c // OFFSET_C, tl.cdiv(last_c, OFFSET_C)):
        if ((is_offset >> block) & 1) != 0:
            same, left, right = add_float32_products(
                same,
                left,
                right,
                a_ptrs,
                b_ptrs,
                a_inside,
                b_inside,
                mean_ptr,
                1,
                is_offset,
                block * OFFSET_C,
                tl.minimum((block + 1) * OFFSET_C, last_c),
                C,
                1,
                OFFSET_C,
                IS_DIAGONAL,
                INTERPRETED,
                BLOCK_C,
            )
    return same, left, right


@triton.jit
def store_tile(tile, gram_ptr, norm_ptr, i, j, n, pitch, IS_DIAGONAL: tl.constexpr):
    """Store a tile [BLOCK, BLOCK] at rows i and columns j of a Gram matrix of n points, with the
    norms on its diagonal, or with its mirror image. Columns up to the next multiple of 16 are
    stored too, for readers of whole vectors."""
    inside = (i < n)[:, None] & (j < tl.cdiv(n, 16) * 16)[None, :]
    tl.store(gram_ptr + i[:, None] * pitch + j[None, :], tile, mask=inside)
    if IS_DIAGONAL:
        norm = tl.sum(tl.where(i[:, None] == j[None, :], tile, 0.0), axis=1)  # [BLOCK]
        tl.store(norm_ptr + i, norm, mask=i < n)
    else:
        # Rows i are a block that is full: another one stands after it.
        tl.store(gram_ptr + j[None, :] * pitch + i[:, None], tile, mask=(j < n)[None, :])


# ------------------------------------------------------------------------------------------------
# Sets of points that lie next to each other
# ------------------------------------------------------------------------------------------------


@triton.jit
def _gram_tile(
    # Read.
    x_ptr,
    # Written.
    gram_ptr,
    norm_ptr,
    # The tile's place, sizes and strides.
    first_i,
    first_j,
    n,
    first_c,
    last_c,
    C,
    pitch,
    IS_DIAGONAL: tl.constexpr,
    INTERPRETED: tl.constexpr,
    CENTERS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    i, j = first_i + tl.arange(0, BLOCK), first_j + tl.arange(0, BLOCK)
    zeros = tl.zeros([BLOCK, BLOCK], dtype=tl.float32)
    same, left, right = add_float32_products(
        zeros,
        zeros,
        zeros,
        x_ptr + i.to(tl.int64) * C,
        x_ptr + j.to(tl.int64) * C,
        i < n,
        j < n,
        x_ptr,
        n,
        0,
        first_c,
        last_c,
        C,
        CENTERS,
        BLOCK_C,
        IS_DIAGONAL,
        INTERPRETED,
        BLOCK_C,
    )
    store_tile(same + (left + right), gram_ptr, norm_ptr, i, j, n, pitch, IS_DIAGONAL)


@triton.jit(
    do_not_specialize=["num_rows"],
    do_not_specialize_on_alignment=["first_row_ptr", "end_row_ptr"],
)
def _gram_kernel(
    # Read: points, and where each set's rows are.
    x_ptr,
    first_row_ptr,
    end_row_ptr,
    # Written.
    gram_ptr,
    norm_ptr,
    # Sizes and strides.
    num_rows,
    C,
    pitch,
    INTERPRETED: tl.constexpr,
    CENTERS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
    SPLIT_C: tl.constexpr,
):
    """Program (set of points, tile, split): rows ``first_row[set]`` to ``end_row[set]`` of x."""
    points, split = tl.program_id(0), tl.program_id(2)
    tiles = tl.cdiv(pitch, BLOCK)
    first_i, first_j = tl.program_id(1) // tiles * BLOCK, tl.program_id(1) % tiles * BLOCK
    first = tl.load(first_row_ptr + points).to(tl.int64)
    n = (tl.load(end_row_ptr + points) - first).to(tl.int32)
    row = split.to(tl.int64) * num_rows + first
    first_c = split * SPLIT_C
    last_c = tl.minimum(first_c + SPLIT_C, C)
    x_ptr += first * C
    gram_ptr += row * pitch
    norm_ptr += row
    for IS_DIAGONAL in tl.static_range(2):
        if (first_i <= first_j) & (first_j < n) & ((first_i == first_j) == IS_DIAGONAL):
            _gram_tile(
                x_ptr,
                gram_ptr,
                norm_ptr,
                first_i,
                first_j,
                n,
                first_c,
                last_c,
                C,
                pitch,
                IS_DIAGONAL,
                INTERPRETED,
                CENTERS,
                BLOCK,
                BLOCK_C,
            )


def padded_pitch(n: int) -> int:
    """Floats from a row of a matrix with n columns to the next: whole 64-byte vectors."""
    return -(-n // 16) * 16


def gram(x: Tensor, first_row: Tensor, end_row: Tensor, pitch: int) -> tuple[Tensor, Tensor]:
    """Gram matrices of the sets of points that x [R, C] holds, each about a point in its midst.

    Few points of many channels would leave most of the chip idle, so the channels are split and the
    parts stored side by side; their reader adds them up in order.

    Args:
        first_row, end_row: [B] int32, each set's first row and the row after its last; of
            ``first_row`` more may be there.
        pitch: the most points of a set, by :func:`padded_pitch`.

    Returns:
        gram [splits, R, pitch] and norms [splits, R], float32.
    """
    assert x.is_contiguous() and pitch % 16 == 0
    rows, channels = x.shape
    # Tiles of one size, whatever the sets' sizes: a video's products have the same bits beside a
    # longer one.
    config = config_for("gram", x.device)
    splits = -(-channels // config["SPLIT_C"])
    matrices, norms = parts(
        x.device,
        ((splits, rows, pitch), torch.float32),
        ((splits, rows), torch.float32),
    )
    tiles = -(-pitch // config["BLOCK"])
    launch(
        _gram_kernel,
        (*alike(x), channels, pitch),
        (len(end_row), tiles * tiles, splits),
        (x, first_row, end_row, matrices, norms, rows, channels, pitch),
        {"INTERPRETED": is_interpreted(), "CENTERS": 4, **config},
    )
    return matrices, norms
