"""Docstrings against the code: the names in ``Args:`` are parameters, and the public functions of
the core describe each of theirs in an entry of its own.

Google style: an entry begins at the section's own indentation with ``name: ``, or with a few names
that share a description, ``first, second: ``; what continues it is indented further. An entry that
was run into the one before it is found. Classes are held to their fields and to the parameters of
``__init__``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from structure import CORE, ROOT, modules

import prunevid_kernels

SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Yields")
ENTRY = re.compile(r"(\*{0,2}[\w, ]+):(?:\s|$)")


def section(docstring: str, title: str) -> list[str]:
    """The lines of one section, without their common indentation."""
    lines = docstring.splitlines()
    heads = [index for index, line in enumerate(lines) if line.strip() == f"{title}:"]
    if not heads:
        return []
    found = []
    for line in lines[heads[0] + 1 :]:
        if line.strip() and not line.startswith("    "):
            break
        found.append(line[4:])
    return found


def entries(docstring: str, title: str) -> list[tuple[str, str]]:
    """(name, text) of each entry of a section."""
    found: list[tuple[str, str]] = []
    for line in section(docstring, title):
        if line[:1].strip():
            match = ENTRY.match(line)
            name = match.group(1) if match else line
            found.append((name, line[match.end() :] if match else ""))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    return found


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of all parameters, stars as in the signature, without self and cls."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    names += [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    names += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    return [name for name in names if name not in ("self", "cls")]


def attributes(node: ast.ClassDef) -> list[str]:
    """Fields, properties, and what ``__init__`` sets on ``self``."""
    names = []
    for child in node.body:
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            names.append(child.target.id)
        elif isinstance(child, ast.Assign):
            names += [target.id for target in child.targets if isinstance(target, ast.Name)]
        elif isinstance(child, ast.FunctionDef):
            names.append(child.name)
            for inner in ast.walk(child):
                if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                    names.append(inner.attr)
    return names


def problems(source: str) -> Iterator[str]:
    """What is wrong with the docstrings of a module, a line each."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        docstring = ast.get_docstring(node)
        if docstring is None:
            continue
        if isinstance(node, ast.ClassDef):
            inits = [c for c in node.body if getattr(c, "name", None) == "__init__"]
            fields = attributes(node)
            known = {"Args": [*parameters(inits[0])] if inits else fields, "Attributes": fields}
        else:
            known = {"Args": parameters(node)}
        for title, names in known.items():
            for name, text in entries(docstring, title):
                for one in name.split(", "):
                    if one not in names:
                        yield f"{node.name}: {title} has {one!r}, which is none of {names}"
                for other in names:
                    if re.search(rf"\. {re.escape(other)}: ", text):
                        yield f"{node.name}: {other!r} stands in the line of {name!r}"


def test_docstrings_name_what_there_is():
    found = {module: list(problems(path.read_text())) for module, path in modules().items()}
    assert {module: named for module, named in found.items() if named} == {}


def test_the_public_functions_describe_every_parameter():
    missing, found = [], set()
    for module, names in prunevid_kernels._MODULES.items():
        for node in ast.parse((ROOT / CORE / f"{module}.py").read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name in names:
                found.add(node.name)
                described = [name for name, _ in entries(ast.get_docstring(node) or "", "Args")]
                missing += [f"{node.name}: {p}" for p in parameters(node) if p not in described]
    assert found == {name for name in prunevid_kernels.__all__ if name.islower()}
    assert not missing


@pytest.mark.parametrize(
    ("docstring", "problem"),
    [
        pytest.param("x.\n\n    Args:\n        b: what\n", "none of", id="unknown"),
        pytest.param("x.\n\n    Args:\n        a, b: what\n", "none of", id="unknown-in-a-group"),
        pytest.param(
            "x.\n\n    Args:\n        a: what. c: and this\n", "stands in the line", id="reflowed"
        ),
    ],
)
def test_a_planted_docstring_is_found(docstring, problem):
    source = f'def f(a, c):\n    """{docstring}    """\n'
    assert problem in " ".join(problems(source))


def test_a_clean_docstring_is_not_reported():
    source = (
        'def f(a, *, c, **rest):\n    """x.\n\n    Args:\n        a: one\n            goes on.\n'
        '        c: two\n        **rest: more\n    """\n'
    )
    assert not list(problems(source))
