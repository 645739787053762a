"""The interpreter made to count: statements, bytes, products.

Kernels get a count before each of their statements; loads, stores and atomics report their
addresses. What is computed does not have to be right here, so products and conversions of floats
give zeros, which is much faster.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from unittest import mock

import numpy as np

SECTOR = 32  # bytes that memory moves at least

# "file:line" of a statement -> times it ran since this was last cleared.
RAN: Counter[str] = Counter()

# Modules whose functions a kernel called, in this launch: the interpreter prepares each for every
# call, which takes longer than most calls do.
PATCHED: set[str] = set()


class Counts(Protocol):
    """What is counted of a program, see ``trace.Program``."""

    read: dict[str, int]
    written: dict[str, int]
    flops: float


def _count_statement(place: str) -> None:
    """Stands before every statement of an instrumented kernel."""
    RAN[place] += 1


class _Instrument(ast.NodeTransformer):
    """Puts a count before each statement; a body's line numbers are those of its file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for name in ("body", "orelse"):
            block = getattr(node, name, None)
            if isinstance(block, list) and not isinstance(node, ast.Module):
                setattr(node, name, [line for stmt in block for line in (self._count(stmt), stmt)])
        return node

    def _count(self, statement: ast.stmt) -> ast.stmt:
        place = f"{self._path}:{statement.lineno}"
        call = ast.Call(
            ast.Name("_count_statement", ast.Load()), [ast.Constant(place)], keywords=[]
        )
        return ast.fix_missing_locations(ast.copy_location(ast.Expr(call), statement))


@contextmanager
def instrumented() -> Iterator[None]:
    """Kernels count their statements, and nothing is computed that has to be right: products and
    conversions of floats give zeros."""
    from triton.runtime import interpreter
    from triton.runtime.interpreter import FunctionRewriter, InterpretedFunction

    transform = FunctionRewriter._transform_ast

    def counting(self: Any, text: str) -> Any:
        return _Instrument(self.filename).visit(transform(self, text))

    def device_function(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fn.__module__ not in PATCHED:
            PATCHED.add(self.fn.__module__)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    def converted(values: Any, _: Any, kind: Any, __: Any) -> Any:
        return np.zeros(values.shape, f"uint{kind.primitive_bitwidth}")

    with (
        # What the interpreter's module holds, it gives to the kernels' modules.
        mock.patch.object(interpreter, "_count_statement", _count_statement, create=True),
        mock.patch.object(FunctionRewriter, "_transform_ast", counting),
        mock.patch.object(InterpretedFunction, "rewritten_fn", {}),
        mock.patch.object(InterpretedFunction, "__call__", device_function),
        mock.patch.object(interpreter, "_convert_float", converted),
    ):
        yield


@contextmanager
def memory_counted(
    builder: Any, program: Counts, memory: dict[int, tuple[int, str, Any]]
) -> Iterator[None]:
    """Count what loads, stores and atomics move, and the products' operations."""
    starts = np.array(sorted(memory), dtype=np.uint64)

    def move(totals: dict[str, int], ptrs: Any, mask: Any) -> None:
        if ptrs.data.size == 1:
            addresses = ptrs.data.reshape(1)[np.atleast_1d(mask.data).reshape(-1)[:1].astype(bool)]
        else:
            addresses = ptrs.data[np.broadcast_to(mask.data, ptrs.data.shape).astype(bool)]
        if not addresses.size:
            return
        sectors = np.unique(addresses // np.uint64(SECTOR)).size
        first = int(np.searchsorted(starts, addresses.min(), side="right")) - 1
        end, number, _ = memory[int(starts[first])] if first >= 0 else (0, "elsewhere", None)
        number = number if int(addresses.min()) < end else "elsewhere"
        totals[number] = totals.get(number, 0) + sectors * SECTOR

    load, store = builder.create_masked_load, builder.create_masked_store
    atomic = builder.create_atomic_rmw

    def counted_load(ptrs: Any, mask: Any, *rest: Any) -> Any:
        move(program.read, ptrs, mask)
        return load(ptrs, mask, *rest)

    def counted_store(ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        move(program.written, ptrs, mask)
        return store(ptrs, value, mask, *rest)

    def counted_atomic(kind: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        move(program.written, ptrs, mask)
        return atomic(kind, ptrs, value, mask, *rest)

    def counted_dot(a: Any, b: Any, d: Any, *rest: Any) -> Any:
        program.flops += 2.0 * a.data.size * b.data.shape[-1]
        return d  # its values do not matter

    with (
        mock.patch.object(builder, "create_masked_load", counted_load),
        mock.patch.object(builder, "create_masked_store", counted_store),
        mock.patch.object(builder, "create_atomic_rmw", counted_atomic),
        mock.patch.object(builder, "create_dot", counted_dot),
    ):
        yield
