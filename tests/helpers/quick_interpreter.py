"""Triton's interpreter without work that it does again and again.

Half of the interpreter's time goes into two searches whose result never changes. Before every
launch, and before every call of a ``@triton.jit`` function from a kernel, it goes through all names
of ``triton.language`` for the builtins to replace; and for every value it builds the table of
NumPy's types anew. Here each is done once and remembered. What runs in a kernel, and in which
order, stays Triton's own: tests/core/test_quick_interpreter.py compares both.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def install() -> None:
    """Replace the two searches; once a process, before the first launch."""
    for package in (tl, tl.core, tl.tensor, tl.math):
        builtins_of(package)
    interpreter._patch_builtin = patch_builtin
    interpreter._get_np_dtype = numpy_dtype


search_builtins = interpreter._patch_builtin
search_dtype = interpreter._get_np_dtype


@functools.cache
def builtins_of(package: Any) -> tuple[str, ...]:
    """The builtins of a module or class of ``triton.language``; asked before one is replaced."""
    return tuple(name for name in dir(package) if tl.core.is_builtin(getattr(package, name)))


def patch_builtin(package: Any, *arguments: Any) -> None:
    """``interpreter._patch_builtin``: replace the builtins that are not replaced yet. All are where
    the first is: it searches no further then."""
    names = builtins_of(package)
    if names and tl.core.is_builtin(getattr(package, names[0])):
        for name in names:
            member = getattr(package, name)
            if tl.core.is_builtin(member):
                interpreter._patch_attr(package, name, member, *arguments)


@functools.cache
def _of_a_number(dtype: tl.dtype) -> np.dtype:
    return search_dtype(dtype)


def numpy_dtype(dtype: tl.dtype) -> np.dtype:
    """``interpreter._get_np_dtype``: the type of the array that holds values of ``dtype``."""
    scalar = dtype.scalar
    return search_dtype(scalar) if isinstance(scalar, tl.pointer_type) else _of_a_number(scalar)
