"""Launches that a variant of which was compiled before take past Triton's binder.

Of an eager call's host time, half was spent on looking at every argument of every launch, to find
the compiled variant that Triton made for others like them. A launcher knows what its variants
depend on: the dtypes and alignments of the caller's tensors and a few sizes. So it says that, in a
tuple, and its compiled kernel is found by it; the first launch of each goes through Triton, which
compiles. ``prunevid_kernels.benchmarks.cost.host_time`` holds the tuples against Triton's own keys.

Not taken past it: launches on AMD GPUs, where Triton also looks at the sizes of storages, and all
launches while ``JITFunction.run`` is replaced, as tools do that watch or compile launches. While
somebody's hooks wait for launches (Triton's profiler sets them), they pass through Triton's runner,
which calls those.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

try:
    from triton import knobs

    _HOOKS: Any = knobs.runtime
except ImportError:  # before Triton 3.4
    from triton.compiler import CompiledKernel

    _HOOKS = CompiledKernel

MAX_INT32 = 2**31 - 1

_TRITONS_RUN = JITFunction.run
_LOOKS_AT_SIZES = torch.version.hip is not None

_COMPILED: dict[tuple[Any, ...], tuple[Any, Any, Any, Any, tuple[Any, ...]]] = {}
"""Kernel, variant and constants -> the compiled kernel, what its launch needs of it, and its
constants in order."""


def is_watched() -> bool:
    """Whether launches have to look like Triton's own: somebody replaced its way to launch, or it
    asks more of arguments than their dtypes and addresses."""
    return JITFunction.run is not _TRITONS_RUN or _LOOKS_AT_SIZES


def alike(*tensors: Tensor) -> tuple[Any, ...]:
    """What variants depend on in the caller's tensors, all on one device: that, and of each its
    dtype and whether it is aligned to 16 bytes."""
    variant: list[Any] = [tensors[0].device]
    for tensor in tensors:
        variant += (tensor.dtype, tensor.data_ptr() & 15 == 0)
    return tuple(variant)


def specialised(integers: tuple[int, ...]) -> tuple[Any, ...]:
    """All that variants depend on in integers that they are specialised on, such as strides that
    differ from prompt to prompt: which are 1, which are multiples of 16, which need 64 bits."""
    rests = tuple([value & 15 for value in integers])
    return (rests, integers) if 1 in integers or max(integers) > MAX_INT32 else rests


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
    if JITFunction.run is not _TRITONS_RUN or _LOOKS_AT_SIZES:  # as is_watched() has it
        kernel[grid](*arguments, **constants)
        return
    # By its identity: its hash would be that of its source, under a lock.
    key = (id(kernel), variant, *constants.values())
    found = _COMPILED.get(key)
    if found is not None:
        compiled, run, function, metadata, in_order = found
        if _has_hooks():
            compiled[grid](*arguments, *in_order)
            return
        active = driver.active
        stream = active.get_current_stream(active.get_current_device())
        run(*grid, stream, function, metadata, None, None, None, *arguments, *in_order)
        return
    compiled = kernel[grid](*arguments, **constants)
    if isinstance(kernel, triton.JITFunction):
        in_order = tuple(constants[name] for name in kernel.arg_names[len(arguments) :])
        of_launch = compiled.run, compiled.function, compiled.packed_metadata
        _COMPILED[key] = (compiled, *of_launch, in_order)


def _has_hooks() -> bool:
    """Whether somebody wants to be told of launches. A hook is a function or None in older versions
    of Triton, and a chain of functions, which may be empty, in newer ones."""
    enter, leave = _HOOKS.launch_enter_hook, _HOOKS.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))
