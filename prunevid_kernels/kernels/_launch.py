"""Launches that a variant of which was compiled before take past Triton's binder.

Of an eager call's host time, half was spent on looking at every argument of every launch, to find
the compiled variant that Triton made for others like them. A launcher knows what its variants
depend on: the dtypes and alignments of the caller's tensors and a few sizes. So it says that, in a
tuple, and its compiled kernel is found by it; the first launch of each goes through Triton, which
compiles. ``prunevid_kernels.benchmarks.cost.host_time`` holds the tuples against Triton's own keys.

Not taken past it: launches on AMD GPUs, where Triton also looks at the sizes of storages, and all
launches while ``JITFunction.run`` is replaced, as tools do that watch or compile launches.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction

_TRITONS_RUN = JITFunction.run
_LOOKS_AT_SIZES = torch.version.hip is not None

_COMPILED: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}
"""Kernel, variant and constants -> the compiled kernel, and its constants in order."""


def alike(*tensors: Tensor) -> tuple[Any, ...]:
    """What variants depend on in the caller's tensors, all on one device: that, and of each its
    dtype and whether it is aligned to 16 bytes."""
    variant: list[Any] = [tensors[0].device]
    for tensor in tensors:
        variant += (tensor.dtype, tensor.data_ptr() & 15 == 0)
    return tuple(variant)


def launch(
    kernel: Any,
    variant: tuple[Any, ...],
    grid: tuple[int, int, int],
    arguments: tuple[Any, ...],
    constants: dict[str, Any],
) -> None:
    """``kernel[grid](*arguments, **constants)``.

    Args:
        variant: everything that Triton tells variants of the arguments apart by: the device;
            dtypes, and alignments where the kernel does not exempt them; integers that it
            specialises; of others, whether they need 64 bits.
        constants: the compile-time constants, and options such as ``num_warps``.
    """
    if JITFunction.run is not _TRITONS_RUN or _LOOKS_AT_SIZES:
        kernel[grid](*arguments, **constants)
        return
    key = (kernel, variant, *constants.values())
    found = _COMPILED.get(key)
    if found is not None:
        compiled, in_order = found
        compiled[grid](*arguments, *in_order)
        return
    compiled = kernel[grid](*arguments, **constants)
    if isinstance(kernel, triton.JITFunction):
        in_order = tuple(constants[name] for name in kernel.arg_names[len(arguments) :])
        _COMPILED[key] = (compiled, in_order)
