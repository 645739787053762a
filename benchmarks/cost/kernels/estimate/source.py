"""Source lines of kernels as statements and loops.

Counts are kept by statement, because a statement over several lines is one step of the program: the
interpreter reports each of its lines, the compiler one of them.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Loop:
    """A ``for`` or ``while``.

    Attributes:
        header: line of the statement; 0 stands for the whole function.
        first: line of the first statement in its body.
    """

    header: int
    first: int


@dataclass(frozen=True)
class SourceFile:
    """What the lines of a file belong to.

    Attributes:
        statement: line -> first line of its statement; the head of a compound statement is one.
        loop: first line of a statement -> the innermost loop around it, within its function.
        loops: header -> loop.
    """

    statement: dict[int, int]
    loop: dict[int, int]
    loops: dict[int, Loop]


@functools.cache
def read(path: str) -> SourceFile:
    """The statements of a Python file."""
    found = SourceFile({}, {}, {})
    _visit(ast.parse(Path(path).read_text()).body, 0, found)
    return found


def _visit(body: list[ast.stmt], loop: int, found: SourceFile) -> None:
    for node in body:
        blocks = [block for name in ("body", "orelse") if (block := getattr(node, name, None))]
        if not blocks:
            last = node.end_lineno or node.lineno
        else:  # the head alone
            last = max(node.lineno, blocks[0][0].lineno - 1)
        for line in range(node.lineno, last + 1):
            found.statement[line] = node.lineno
        found.loop[node.lineno] = loop
        inner = loop
        if isinstance(node, ast.For | ast.While):
            found.loops[node.lineno] = Loop(node.lineno, node.body[0].lineno)
            inner = node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            inner = 0
        for block in blocks:
            _visit(block, inner, found)
