"""Integers that the host knows, as a tensor on the device: where each video starts, say.

A copy from ordinary memory makes the host wait for all that the stream still has to do. A copy from
pinned memory does not, but has no place in a CUDA graph, whose replays would read that memory again
and keep nothing of it alive. So the integers travel as the arguments of a launch that stores them:
nothing waits, and what a captured launch needs belongs to the graph. Two widths, because each
argument costs the host a fifth of a microsecond.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

NARROW, WIDE = 12, 64
"""Integers that one launch takes."""

_NAMES = tuple(f"v{i}" for i in range(WIDE))


@triton.jit
def _store_4(out_ptr, first: tl.constexpr, count, v0, v1, v2, v3):
    tl.store(out_ptr + first, v0.to(out_ptr.dtype.element_ty), mask=first < count)
    tl.store(out_ptr + first + 1, v1.to(out_ptr.dtype.element_ty), mask=first + 1 < count)
    tl.store(out_ptr + first + 2, v2.to(out_ptr.dtype.element_ty), mask=first + 2 < count)
    tl.store(out_ptr + first + 3, v3.to(out_ptr.dtype.element_ty), mask=first + 3 < count)


# No integer is specialised: whatever the values, there is one compiled kernel for each width and
# dtype. The first ``count`` values are stored.
# fmt: off
@triton.jit(do_not_specialize=("count", *_NAMES[:NARROW]))
def _narrow_kernel(
    out_ptr, count,
    v0: tl.int64, v1: tl.int64, v2: tl.int64, v3: tl.int64, v4: tl.int64, v5: tl.int64,
    v6: tl.int64, v7: tl.int64, v8: tl.int64, v9: tl.int64, v10: tl.int64, v11: tl.int64,
):
    _store_4(out_ptr, 0, count, v0, v1, v2, v3)
    _store_4(out_ptr, 4, count, v4, v5, v6, v7)
    _store_4(out_ptr, 8, count, v8, v9, v10, v11)


@triton.jit(do_not_specialize=("count", *_NAMES))
def _wide_kernel(
    out_ptr, count,
    v0: tl.int64, v1: tl.int64, v2: tl.int64, v3: tl.int64, v4: tl.int64, v5: tl.int64,
    v6: tl.int64, v7: tl.int64, v8: tl.int64, v9: tl.int64, v10: tl.int64, v11: tl.int64,
    v12: tl.int64, v13: tl.int64, v14: tl.int64, v15: tl.int64, v16: tl.int64, v17: tl.int64,
    v18: tl.int64, v19: tl.int64, v20: tl.int64, v21: tl.int64, v22: tl.int64, v23: tl.int64,
    v24: tl.int64, v25: tl.int64, v26: tl.int64, v27: tl.int64, v28: tl.int64, v29: tl.int64,
    v30: tl.int64, v31: tl.int64, v32: tl.int64, v33: tl.int64, v34: tl.int64, v35: tl.int64,
    v36: tl.int64, v37: tl.int64, v38: tl.int64, v39: tl.int64, v40: tl.int64, v41: tl.int64,
    v42: tl.int64, v43: tl.int64, v44: tl.int64, v45: tl.int64, v46: tl.int64, v47: tl.int64,
    v48: tl.int64, v49: tl.int64, v50: tl.int64, v51: tl.int64, v52: tl.int64, v53: tl.int64,
    v54: tl.int64, v55: tl.int64, v56: tl.int64, v57: tl.int64, v58: tl.int64, v59: tl.int64,
    v60: tl.int64, v61: tl.int64, v62: tl.int64, v63: tl.int64,
):
    _store_4(out_ptr, 0, count, v0, v1, v2, v3)
    _store_4(out_ptr, 4, count, v4, v5, v6, v7)
    _store_4(out_ptr, 8, count, v8, v9, v10, v11)
    _store_4(out_ptr, 12, count, v12, v13, v14, v15)
    _store_4(out_ptr, 16, count, v16, v17, v18, v19)
    _store_4(out_ptr, 20, count, v20, v21, v22, v23)
    _store_4(out_ptr, 24, count, v24, v25, v26, v27)
    _store_4(out_ptr, 28, count, v28, v29, v30, v31)
    _store_4(out_ptr, 32, count, v32, v33, v34, v35)
    _store_4(out_ptr, 36, count, v36, v37, v38, v39)
    _store_4(out_ptr, 40, count, v40, v41, v42, v43)
    _store_4(out_ptr, 44, count, v44, v45, v46, v47)
    _store_4(out_ptr, 48, count, v48, v49, v50, v51)
    _store_4(out_ptr, 52, count, v52, v53, v54, v55)
    _store_4(out_ptr, 56, count, v56, v57, v58, v59)
    _store_4(out_ptr, 60, count, v60, v61, v62, v63)
# fmt: on


def device_integers(
    values: Sequence[int], device: torch.device, dtype: torch.dtype = torch.int32
) -> Tensor:
    """``values`` as a tensor [len(values)] on the device, without a wait, inside a capture or
    outside of one."""
    count = len(values)
    out = torch.empty(count, dtype=dtype, device=device)
    for first in range(0, count, WIDE):
        some = values[first : first + WIDE]
        is_narrow = len(some) <= NARROW
        kernel = _narrow_kernel if is_narrow else _wide_kernel
        padding = (0,) * ((NARROW if is_narrow else WIDE) - len(some))
        target = out[first:] if first else out
        kernel[(1,)](target, len(some), *some, *padding, num_warps=1)
    return out
