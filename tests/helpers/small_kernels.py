"""Kernels whose time can be told without a model, for the tests of the model."""

import triton
import triton.language as tl


@triton.jit
def copy(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """Bandwidth and nothing else."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < n), mask=i < n)


@triton.jit
def chain(next_ptr, out_ptr, steps):
    """Loads of which each needs the one before."""
    place = tl.load(next_ptr)
    for _ in range(steps):
        place = tl.load(next_ptr + place)
    tl.store(out_ptr, place)


@triton.jit
def product(a_ptr, b_ptr, out_ptr, depth, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):
    """A tile of a product, on the tensor cores."""
    i = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK, BLOCK], dtype=tl.float32)
    for first in range(0, depth, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        a = tl.load(a_ptr + i[:, None] * depth + k[None, :])
        b = tl.load(b_ptr + i[None, :] * depth + k[:, None])
        total = tl.dot(a, b, total)
    tl.store(out_ptr + i[:, None] * BLOCK + i[None, :], total)


@triton.jit
def mean_reduced_in_the_loop(
    x_ptr, mean_ptr, norm_ptr, bad_ptr, N, C, blocks, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Means, norms and a check for NaN of a frame's tokens; every step adds up over threads."""
    f, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_C], dtype=tl.float32)
    bad = tl.zeros([BLOCK_C], dtype=tl.int32)
    for first in range(0, N, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        inside = (n < N)[:, None] & (c < C)[None, :]
        x = tl.load(x_ptr + (f * N + n)[:, None] * C + c[None, :], mask=inside, other=0.0)
        x = x.to(tl.float32)
        total += tl.sum(x, axis=0)
        bad += tl.sum((x - x != 0.0).to(tl.int32), axis=0)
        norm = tl.sum(x * x, axis=1)
        tl.store(norm_ptr + (f * N + n) * blocks + block, norm, mask=n < N)
    tl.store(mean_ptr + f * C + c, total / N, mask=c < C)
    tl.store(bad_ptr + f * blocks + block, (tl.sum(bad, axis=0) > 0).to(tl.int32))


@triton.jit
def mean_reduced_once(
    x_ptr, mean_ptr, norm_ptr, bad_ptr, N, C, blocks, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr
):
    """The same, but sums over tokens stay in their threads until the loop is done."""
    f, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_N, BLOCK_C], dtype=tl.float32)
    bad = tl.zeros([BLOCK_N, BLOCK_C], dtype=tl.int32)
    for first in range(0, N, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        inside = (n < N)[:, None] & (c < C)[None, :]
        x = tl.load(x_ptr + (f * N + n)[:, None] * C + c[None, :], mask=inside, other=0.0)
        x = x.to(tl.float32)
        total += x
        bad |= (x - x != 0.0).to(tl.int32)
        norm = tl.sum(x * x, axis=1)
        tl.store(norm_ptr + (f * N + n) * blocks + block, norm, mask=n < N)
    tl.store(mean_ptr + f * C + c, tl.sum(total, axis=0) / N, mask=c < C)
    is_bad = tl.max(tl.max(bad, axis=0), axis=0)
    tl.store(bad_ptr + f * blocks + block, is_bad)
