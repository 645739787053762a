"""Kernels that read and write the same memory, some in order and some not; never run."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _in_place_kernel(x_ptr, HAS_BARRIER: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    ptrs = x_ptr + i[:, None] * BLOCK + i[None, :]
    x = tl.load(ptrs)
    if HAS_BARRIER:
        tl.debug_barrier()
    tl.store(ptrs, 2.0 * x)


@triton.jit
def _in_place_scalar_kernel(x_ptr):
    tl.store(x_ptr, tl.load(x_ptr) + 1.0)


@triton.jit
def _other_layout_kernel(x_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i[:, None] * BLOCK + i[None, :])
    tl.store(x_ptr + i[None, :] * BLOCK + i[:, None], x)


@triton.jit
def _read_back_kernel(x_ptr, y_ptr, HAS_BARRIER: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x_ptr + i, i.to(tl.float32))
    if HAS_BARRIER:
        tl.debug_barrier()
    tl.store(y_ptr + i, tl.load(x_ptr + (i + 1) % BLOCK))


@triton.jit
def _running_total_kernel(x_ptr, parts, stride, HAS_BARRIER: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    for part in range(1, parts):
        total = tl.load(x_ptr + i) + tl.load(x_ptr + part * stride + i)
        if HAS_BARRIER:
            tl.debug_barrier()
        tl.store(x_ptr + i, total)
        if HAS_BARRIER:
            tl.debug_barrier()


@triton.jit
def _either_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    if n > 5:
        tl.store(x_ptr + i, i.to(tl.float32))
    else:
        tl.store(y_ptr + i, tl.load(x_ptr + i))


@triton.jit
def _after_either_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    if n > 5:
        tl.store(x_ptr + i, i.to(tl.float32))
    tl.store(y_ptr + i, tl.load(x_ptr + i))


def launch(name: str) -> None:
    """Launch a kernel by name, on tensors without memory."""
    x, y = torch.empty((2, 1 << 16), dtype=torch.float32, device="meta")
    launches = {
        # 256 elements on 512 threads.
        "shared tile": lambda: _in_place_kernel[(1,)](x, False, 16, num_warps=16),
        "shared tile, barrier": lambda: _in_place_kernel[(1,)](x, True, 16, num_warps=16),
        "own elements": lambda: _in_place_kernel[(1,)](x, False, 64, num_warps=4),
        "scalar": lambda: _in_place_scalar_kernel[(1,)](x),
        "other layout": lambda: _other_layout_kernel[(1,)](x, 64, num_warps=4),
        "read back": lambda: _read_back_kernel[(1,)](x, y, False, 1024),
        "read back, barrier": lambda: _read_back_kernel[(1,)](x, y, True, 1024),
        "running total": lambda: _running_total_kernel[(1,)](x, 5, 4096, False, 1024),
        "running total, barriers": lambda: _running_total_kernel[(1,)](x, 5, 4096, True, 1024),
        "either branch": lambda: _either_kernel[(1,)](x, y, 7, 1024),
        "after a branch": lambda: _after_either_kernel[(1,)](x, y, 7, 1024),
    }
    launches[name]()
