"""The structure of the package as its own imports tell it: folders, their modules, their arrows.

    python scripts/structure.py            # the table, with the lines of every folder
    python scripts/structure.py --write    # put it, without the lines, into CONTRIBUTING.md

Every module of the three folders is parsed, never imported, so an import inside a function counts
as well. ``tests/project/test_layering.py`` and ``test_family_names.py`` hold the rules about it.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = "prunevid_kernels"
KERNELS = f"{CORE}.kernels"
ADAPTERS = f"{CORE}.adapters"
BENCHMARKS = f"{CORE}.benchmarks"
FOLDERS = {"prunevid_kernels": CORE, "adapters": ADAPTERS, "benchmarks": BENCHMARKS}

BEGIN = "<!-- structure: written by scripts/structure.py -->"
END = "<!-- end of structure -->"


@dataclass(frozen=True)
class Import:
    """One imported module, and the name taken from it (None for a plain ``import``)."""

    module: str
    name: str | None
    lazy: bool
    line: int


def imports_of(source: str, module: str, *, is_package: bool) -> Iterator[Import]:
    """Every import statement of a module, relative ones made absolute."""
    package = module if is_package else module.rpartition(".")[0]

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, None, lazy, child.lineno)
            elif isinstance(child, ast.ImportFrom):
                origin = child.module or ""
                if child.level:
                    parents = package.split(".")
                    base = parents[: len(parents) - child.level + 1]
                    origin = ".".join([*base, origin]).rstrip(".")
                for alias in child.names:
                    yield Import(origin, alias.name, lazy, child.lineno)
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from walk(child, lazy or inside)

    yield from walk(ast.parse(source), False)


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the three folders by its installed name."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


def target_of(item: Import, known: Iterable[str]) -> str:
    """The module that an import loads: ``from prunevid_kernels import ops`` loads ``ops``."""
    if item.name is not None and f"{item.module}.{item.name}" in known:
        return f"{item.module}.{item.name}"
    return item.module


def folder_of(path: Path) -> str:
    """A module's folder, from the root of the repository."""
    return path.parent.relative_to(ROOT).as_posix()


def counted_modules(folder: Path) -> list[Path]:
    """The modules of one folder, without its door."""
    return sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")


def arrows() -> dict[str, set[str]]:
    """Folder -> the other folders that its modules import."""
    known = modules()
    found: dict[str, set[str]] = {folder_of(path): set() for path in known.values()}
    for module, path in known.items():
        is_package = path.name == "__init__.py"
        for item in imports_of(path.read_text(), module, is_package=is_package):
            target = known.get(target_of(item, known))
            if target is not None and folder_of(target) != folder_of(path):
                found[folder_of(path)].add(folder_of(target))
    return found


def table(*, count_lines: bool) -> str:
    """Folders, their modules and what they import, as Markdown; with the lines of each if asked."""
    heads = ["folder", "modules", *(["lines"] if count_lines else []), "imports"]
    rule = ["---", *["---:"] * (len(heads) - 2), "---"]
    rows = []
    totals = [0, 0, 0]
    for folder, targets in sorted(arrows().items()):
        counts = (
            len(counted_modules(ROOT / folder)),
            sum(len(path.read_text().splitlines()) for path in (ROOT / folder).glob("*.py")),
            len(targets),
        )
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        names = ", ".join(f"`{target}`" for target in sorted(targets))
        rows.append((f"`{folder}`", counts, names))
    rows.append(("in all", (totals[0], totals[1], 0), f"{totals[2]} arrows"))
    lines = [f"| {' | '.join(heads)} |", f"|{'|'.join(rule)}|"]
    for name, counts, imports in rows:
        numbers = [f"{count:,}" for count in counts[: 2 if count_lines else 1]]
        lines.append(f"| {' | '.join([name, *numbers, imports])} |")
    return "\n".join(lines)


def updated(text: str) -> str:
    """CONTRIBUTING.md with the table of today between its marks.

    Without the number of lines, which every change alters: the page shows who imports whom.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} ... {END} to write between")
    return f"{before}{BEGIN}\n\n{table(count_lines=False)}\n\n{END}{after}"


def main() -> None:
    if sys.argv[1:] == ["--write"]:
        page = ROOT / "CONTRIBUTING.md"
        page.write_text(updated(page.read_text()))
    elif sys.argv[1:]:
        sys.exit(f"usage: {Path(sys.argv[0]).name} [--write]")
    else:
        print(table(count_lines=True))


if __name__ == "__main__":
    main()
