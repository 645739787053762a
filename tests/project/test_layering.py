"""The arrows: who may import whom.

Every module of the three folders is parsed, so an import inside a function counts as well. An
import of our own has to match a rule below; what no rule allows is refused. Of other projects the
core may use torch alone and its kernels torch and triton; adapters and benchmarks are free there.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from paths import ROOT

FOLDERS = {
    "prunevid_kernels": "prunevid_kernels",
    "adapters": "prunevid_kernels.adapters",
    "benchmarks": "prunevid_kernels.benchmarks",
}
CORE = "prunevid_kernels"
KERNELS = f"{CORE}.kernels"
ADAPTERS = f"{CORE}.adapters"
BENCHMARKS = f"{CORE}.benchmarks"

# Core module -> the core modules it may import. "kernels (lazy)": inside functions only.
CORE_ARROWS = {
    "config": set(),
    "layout": set(),
    "_validate": {"kernels (lazy)"},  # asks whether they run under the interpreter
    "reference": {"config", "layout"},
    "custom_ops": {"config", "reference", "_validate", "kernels (lazy)"},
    "ops": {"config", "layout", "reference", "_validate", "custom_ops", "kernels (lazy)"},
    "pipeline": {"config", "layout", "ops", "_validate"},
    "": {"config", "layout", "ops", "pipeline"},  # prunevid_kernels/__init__.py
}
# Benchmarks that compile or time single kernels; everything else goes through the public names.
MAY_IMPORT_KERNELS = {f"{BENCHMARKS}.compile_check", f"{BENCHMARKS}.tune"}


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


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """The imports of one module that no rule allows, as ``module:line: reason``."""
    found = []
    for item in imports_of(source, module, is_package=is_package):
        reason = _why_refused(module, item)
        if reason is not None:
            found.append(f"{module}:{item.line}: {reason}")
    return found


def _why_refused(module: str, item: Import) -> str | None:
    top = item.module.partition(".")[0]
    if top in ("adapters", "benchmarks"):
        return f"{top} is a folder, the package is {FOLDERS[top]}"
    if top == CORE:
        return _why_refused_inside(module, _submodule(item), item)
    if not _is_in(module, ADAPTERS) and not _is_in(module, BENCHMARKS):
        allowed = {"torch", "triton"} if _is_in(module, KERNELS) else {"torch"}
        if top not in allowed and top not in sys.stdlib_module_names:
            return f"{top} is not among {', '.join(sorted(allowed))} and the standard library"
    return None


def _why_refused_inside(module: str, target: str, item: Import) -> str | None:
    """Imports of our own modules: ``target`` is the module that provides what is imported."""
    for package in (ADAPTERS, BENCHMARKS):
        if _is_in(module, package):
            if _is_in(target, package):
                return None
            if package == BENCHMARKS and _is_in(target, ADAPTERS):
                return None
            if module in MAY_IMPORT_KERNELS and _is_in(target, KERNELS):
                return None
            if target == CORE and item.name in {*public_names(), "__version__"}:
                return None
            return f"{target} is no public name of {CORE}"
    if _is_in(module, KERNELS):
        return None if _is_in(target, KERNELS) else f"a kernel imports {target}"
    importer = module.removeprefix(CORE).lstrip(".")
    imported = target.removeprefix(CORE).lstrip(".").partition(".")[0]
    allowed = CORE_ARROWS.get(importer)
    if allowed is None:
        return f"{module} has no line in CORE_ARROWS"
    if imported == "kernels" and "kernels (lazy)" in allowed:
        return None if item.lazy else "the kernels are imported inside functions only"
    return None if imported in allowed else f"{importer or CORE} -> {imported or CORE}"


def _submodule(item: Import) -> str:
    """``from prunevid_kernels import ops`` imports the module prunevid_kernels.ops."""
    if item.name is not None and f"{item.module}.{item.name}" in modules():
        return f"{item.module}.{item.name}"
    return item.module


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def modules() -> dict[str, Path]:
    """Every module of the three folders by its installed name."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


def public_names() -> list[str]:
    tree = ast.parse((ROOT / CORE / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError("prunevid_kernels/__init__.py has no __all__")


@pytest.mark.parametrize("module", modules())
def test_imports_follow_the_arrows(module):
    path = modules()[module]
    assert not violations(path.read_text(), module, is_package=path.name == "__init__.py")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param(f"{CORE}.config", "from .layout import TokenLayout", id="config-to-layout"),
        pytest.param(f"{CORE}.layout", "from prunevid_kernels import ops", id="layout-to-ops"),
        pytest.param(
            f"{CORE}.reference",
            "def f():\n    from prunevid_kernels.kernels import frame_mean",
            id="reference-to-kernels",
        ),
        pytest.param(f"{CORE}.reference", "import triton", id="reference-to-triton"),
        pytest.param(f"{CORE}.ops", "from .kernels import frame_mean", id="ops-to-kernels-eagerly"),
        pytest.param(f"{CORE}.ops", "import transformers.cache_utils", id="core-to-transformers"),
        pytest.param(f"{CORE}.ops", "import numpy", id="core-to-numpy"),
        pytest.param(f"{CORE}.ops", "from .adapters import prune", id="core-to-adapters"),
        pytest.param(f"{CORE}.pipeline", "from . import reference", id="pipeline-to-reference"),
        pytest.param(f"{CORE}.novel", "from .config import X", id="module-without-a-rule"),
        pytest.param(f"{KERNELS}.segments", "from .. import reference", id="kernel-to-reference"),
        pytest.param(f"{KERNELS}.segments", "from ..config import X", id="kernel-to-config"),
        pytest.param(f"{KERNELS}.segments", "import transformers", id="kernel-to-transformers"),
        pytest.param(
            f"{ADAPTERS}.engine", "import prunevid_kernels.kernels", id="adapter-to-kernels"
        ),
        pytest.param(
            f"{ADAPTERS}.engine",
            "from prunevid_kernels.ops import dpc_knn",
            id="adapter-to-submodule",
        ),
        pytest.param(
            f"{ADAPTERS}.engine", "from prunevid_kernels import reference", id="adapter-to-private"
        ),
        pytest.param(f"{ADAPTERS}.engine", "from adapters import prune", id="folder-name"),
        pytest.param(
            f"{ADAPTERS}.engine", "from ..benchmarks import cli", id="adapter-to-benchmark"
        ),
        pytest.param(
            f"{BENCHMARKS}.latency",
            "from prunevid_kernels.kernels.compact import compact",
            id="benchmark-to-kernels",
        ),
    ],
)
def test_a_planted_violation_is_found(module, source):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param(
            f"{CORE}.ops",
            "def f():\n    from .kernels.dpc_knn import dpc_knn",
            id="ops-to-kernels-lazily",
        ),
        pytest.param(f"{KERNELS}.segments", "from ._device import x", id="kernel-to-sibling"),
        pytest.param(
            f"{ADAPTERS}.engine",
            "from prunevid_kernels import PruneVidConfig, __version__\nfrom .video import x",
            id="adapter-to-public-names",
        ),
        pytest.param(
            f"{BENCHMARKS}.cli", "from ..adapters import prune", id="benchmark-to-adapter"
        ),
        pytest.param(
            f"{BENCHMARKS}.compile_check",
            "from prunevid_kernels.kernels import compact",
            id="compile-check-to-kernels",
        ),
    ],
)
def test_an_allowed_import_is_not_reported(module, source):
    assert not violations(source, module)


def test_importing_the_core_loads_torch_alone():
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, prunevid_kernels; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
    ).stdout.split()
    assert "torch" in loaded
    unwanted = (
        "triton",
        "transformers",
        "decord",
        "av",
        "matplotlib",
        KERNELS,
        ADAPTERS,
        BENCHMARKS,
    )
    assert not [name for name in unwanted if name in loaded]
