"""Traced launches compiled for a GPU that is not there.

A launch names its kernel and its arguments; the kernel is compiled as the launch would compile it,
the specialisation of each argument included. Two things differ from what was traced: the flag that
tells a kernel that it is interpreted is off, and tensors are types without memory.
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

from ....compile_check import Target, compiling_for, resources
from .counts import Structure, structure_of
from .sass import Code, disassemble, graph_of
from .trace import Launch


class _Pointer:
    """A tensor as far as the compiler looks at one."""

    def __init__(self, dtype: Any, is_aligned: bool) -> None:
        self.dtype = dtype
        self._address = 0 if is_aligned else 8

    def data_ptr(self) -> int:
        return self._address


@dataclass(frozen=True)
class Compiled:
    """A kernel as compiled code.

    Attributes:
        registers: of a thread.
        spill_bytes: of a thread, in local memory.
        shared_bytes: of a program.
        warps: of a program.
    """

    name: str
    code: Code
    structure: Structure
    ptx: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    warps: int
    ttgir: str


def compile_launch(launch: Launch, target: Target) -> Compiled:
    """Compile a launch's kernel for ``target``; needs a process without TRITON_INTERPRET."""
    module, name = launch.kernel.split(":")
    module_of = importlib.import_module(module)
    function = getattr(module_of, name)
    arguments: dict[str, Any] = {}
    for parameter, described in launch.arguments.items():
        kind, value = described[0], described[1]
        if kind == "tensor":
            arguments[parameter] = _Pointer(getattr(torch, value), described[2])
        elif parameter == "INTERPRETED":
            arguments[parameter] = False
        elif kind == "const" and isinstance(value, str) and value.startswith("tl."):
            arguments[parameter] = getattr(tl, value.removeprefix("tl."))
        else:
            arguments[parameter] = value
    with compiling_for(target), triton.knobs.cache.scope():
        # What another checkout compiled from the same text names that checkout's files.
        here = hashlib.sha256(str(Path(module_of.__file__ or "").parent).encode()).hexdigest()[:12]
        triton.knobs.cache.dir = str(Path(triton.knobs.cache.dir) / f"prunevid-{here}")
        kernel = function.run(grid=launch.grid, warmup=True, **arguments, **launch.options)
    registers, spill_bytes = resources(kernel, target)
    code = disassemble(kernel.asm["cubin"], kernel.asm["ptx"])
    return Compiled(
        name=function.fn.__name__.strip("_").removesuffix("_kernel"),
        code=code,
        structure=structure_of(graph_of(code)),
        ptx=kernel.asm["ptx"],
        registers=registers,
        spill_bytes=spill_bytes,
        shared_bytes=kernel.metadata.shared,
        warps=kernel.metadata.num_warps,
        ttgir=kernel.asm["ttgir"],
    )
