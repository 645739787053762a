"""The structure: who may import whom, and how large a folder may be.

Every module of the three folders is parsed (``scripts/structure.py``), so an import inside a
function counts as well. An import of our own has to match a rule below; what no rule allows is
refused. Of other projects the core may use torch alone and its kernels torch and triton; adapters
and benchmarks are free there.
"""

from __future__ import annotations

import ast
import sys

import pytest
import structure
from structure import (
    ADAPTERS,
    BENCHMARKS,
    CORE,
    FOLDERS,
    KERNELS,
    ROOT,
    Import,
    counted_modules,
    folder_of,
    imports_of,
    modules,
    target_of,
)

MOST_MODULES = 12

# The folders of adapters/ and benchmarks/ from the top down: a folder imports those below it. A row
# with several folders: they do not import each other. A folder that is not named belongs to the
# nearest one above it that is; the folder of a family, or of a kind of methods, imports the modules
# that all of them share and what is below, never another family's or kind's.
ORDER = [
    {"benchmarks/cli"},
    {"benchmarks/cli/bench"},
    {"benchmarks/on_gpu"},
    {"benchmarks/train_tiny"},
    {"benchmarks/app"},
    {"benchmarks/run"},
    {"benchmarks/report"},
    {"benchmarks/accuracy"},
    {"benchmarks/cost/serve", "benchmarks/cost/latency"},
    {"benchmarks/cost/kernels/estimate"},
    {"benchmarks/cost/kernels"},
    {"benchmarks/cost/flops"},
    {"benchmarks/cost"},
    {"benchmarks"},  # compile_check
    {"benchmarks/embedded"},
    {"benchmarks/datasets"},
    {"benchmarks/support"},
    {"adapters/vllm", "adapters/lmms_eval"},
    {"adapters/vllm/guard"},
    {"adapters"},  # the door
    {"adapters/families"},
    {"adapters/checkpoint", "adapters/video"},
    {"adapters/methods"},
    {"adapters/engine"},
    {"adapters/engine/prompt"},
]

# The two tables, of families and of methods, import from the folders of what they list.
FAMILY_TABLE = f"{ADAPTERS}.families"
TABLES = (FAMILY_TABLE, f"{ADAPTERS}.methods.registry")

# Core module, or room of modules, which may import each other -> the core modules it may import.
# "kernels (lazy)": inside functions only.
CORE_ARROWS = {
    "config": set(),
    "layout": set(),
    "_validate": {"config", "kernels (lazy)"},  # asks whether they run under the interpreter
    "_out": {"_validate"},
    "reference": {"config", "layout"},
    "gradients": {"layout"},
    "budget": {"config", "reference", "_validate", "_out", "kernels (lazy)"},
    "custom_ops": {"budget", "reference", "_validate", "_out", "gradients", "kernels (lazy)"},
    "merging": {
        "budget",
        "config",
        "layout",
        "reference",
        "_validate",
        "_out",
        "gradients",
        "custom_ops",
        "kernels (lazy)",
    },
    "ops": {"config", "reference", "_validate", "_out", "custom_ops", "kernels (lazy)"},
    "pipeline": {"config", "layout", "merging", "ops", "_validate"},
    "planes": {
        "layout",
        "reference",
        "_validate",
        "gradients",
        "custom_ops",
        "kernels (lazy)",
    },
    "warming": {"config", "ops", "pipeline", "planes", "_validate"},
    "": {
        "config",
        "layout",
        "ops",
        "pipeline",
        "planes",
        "warming",
    },  # prunevid_kernels/__init__.py
}
# Benchmarks that compile or time single kernels; everything else goes through the public names.
MAY_IMPORT_KERNELS = (
    f"{BENCHMARKS}.compile_check",
    f"{BENCHMARKS}.cost.host_time",
    f"{BENCHMARKS}.cost.kernels.tune",
    f"{BENCHMARKS}.cost.kernels.estimate",
)


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
        return _why_refused_inside(module, target_of(item, modules()), item)
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
                return _why_against_order(module, target)
            if package == BENCHMARKS and _is_in(target, ADAPTERS):
                return None
            if _may_import_kernels(module) and _is_in(target, KERNELS):
                return None
            if target == CORE and item.name in {*public_names(), "__version__"}:
                return None
            return f"{target} is no public name of {CORE}"
    if _is_in(module, KERNELS):
        return None if _is_in(target, KERNELS) else f"a kernel imports {target}"
    importer = module.removeprefix(CORE).lstrip(".").partition(".")[0]
    imported = target.removeprefix(CORE).lstrip(".").partition(".")[0]
    allowed = CORE_ARROWS.get(importer)
    if allowed is None:
        return f"{module} has no line in CORE_ARROWS"
    if importer == imported != "":
        return None
    if imported == "kernels" and "kernels (lazy)" in allowed:
        return None if item.lazy else "the kernels are imported inside functions only"
    return None if imported in allowed else f"{importer or CORE} -> {imported or CORE}"


def _why_against_order(module: str, target: str) -> str | None:
    """``module`` and ``target`` are both in adapters/, or both in benchmarks/."""
    importer, imported = _folder(module), _folder(target)
    if importer == imported or _rank(importer) < _rank(imported):
        return None
    if _rank(importer) == _rank(imported):
        if importer.startswith(f"{imported}/"):  # a family and what all families share
            return None
        if module in TABLES and imported.startswith(f"{importer}/"):
            return None
    return f"{importer} is not above {imported}"


def _folder(module: str) -> str:
    """The folder of a module that may be planted, from the root of the repository."""
    if module in modules():
        return folder_of(modules()[module])
    parts = module.removeprefix(f"{CORE}.").split(".")
    return "/".join(parts[:-1])


def _rank(folder: str) -> int:
    """The row of :data:`ORDER` that a folder, or the nearest named one above it, stands in."""
    while not any(folder in row for row in ORDER):
        assert "/" in folder, f"{folder} has no place in ORDER"
        folder = folder.rpartition("/")[0]
    return next(index for index, row in enumerate(ORDER) if folder in row)


def _may_import_kernels(module: str) -> bool:
    return any(_is_in(module, allowed) for allowed in MAY_IMPORT_KERNELS)


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def public_names() -> list[str]:
    tree = ast.parse((ROOT / CORE / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError("prunevid_kernels/__init__.py has no __all__")


def test_imports_follow_the_arrows():
    found = {
        module: violations(path.read_text(), module, is_package=path.name == "__init__.py")
        for module, path in modules().items()
    }
    assert {module: broken for module, broken in found.items() if broken} == {}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param(f"{CORE}.config", "from .layout import TokenLayout", id="config-to-layout"),
        pytest.param(f"{CORE}.layout", "from prunevid_kernels import ops", id="layout-to-ops"),
        pytest.param(
            f"{CORE}.reference",
            "def f():\n    from prunevid_kernels.kernels.means import frame_mean",
            id="reference-to-kernels",
        ),
        pytest.param(f"{CORE}.reference.merging", "import triton", id="reference-to-triton"),
        pytest.param(f"{CORE}.reference.merging", "from ..ops import x", id="reference-to-ops"),
        pytest.param(
            f"{CORE}.ops", "from .kernels.means import frame_mean", id="ops-to-kernels-eagerly"
        ),
        pytest.param(f"{CORE}.ops", "import transformers.cache_utils", id="core-to-transformers"),
        pytest.param(f"{CORE}.ops", "import numpy", id="core-to-numpy"),
        pytest.param(f"{CORE}.ops", "from .adapters import prune", id="core-to-adapters"),
        pytest.param(f"{CORE}.pipeline", "from . import reference", id="pipeline-to-reference"),
        pytest.param(f"{CORE}.novel", "from .config import X", id="module-without-a-rule"),
        pytest.param(f"{KERNELS}.segments", "from .. import reference", id="kernel-to-reference"),
        pytest.param(f"{KERNELS}.segments", "from ..config import X", id="kernel-to-config"),
        pytest.param(f"{KERNELS}.segments", "import transformers", id="kernel-to-transformers"),
        pytest.param(
            f"{ADAPTERS}.engine.engine", "import prunevid_kernels.kernels", id="adapter-to-kernels"
        ),
        pytest.param(
            f"{ADAPTERS}.engine.engine",
            "from prunevid_kernels.ops import dpc_knn",
            id="adapter-to-submodule",
        ),
        pytest.param(
            f"{ADAPTERS}.engine.engine",
            "from prunevid_kernels import reference",
            id="adapter-to-private",
        ),
        pytest.param(f"{ADAPTERS}.engine.engine", "from adapters import prune", id="folder-name"),
        pytest.param(
            f"{ADAPTERS}.engine.engine", "from ...benchmarks import cli", id="adapter-to-benchmark"
        ),
        pytest.param(
            f"{BENCHMARKS}.cost.latency.rows",
            "from prunevid_kernels.kernels.selection.compact import compact",
            id="benchmark-to-kernels",
        ),
        pytest.param(f"{ADAPTERS}.engine.cache", "from ..methods import fastv", id="upwards"),
        pytest.param(f"{ADAPTERS}.methods.prunevid", "from .. import prune", id="to-the-door"),
        pytest.param(
            f"{ADAPTERS}.methods.by_tower.prumerge",
            "from ..in_decoder.fastv import FastV",
            id="kind-to-kind",
        ),
        pytest.param(
            f"{ADAPTERS}.methods.attention",
            "from .in_decoder.fastv import FastV",
            id="shared-to-kind",
        ),
        pytest.param(
            f"{ADAPTERS}.families.pllava.model",
            "from ..st_llm.model import StLlm",
            id="family-to-family",
        ),
        pytest.param(f"{ADAPTERS}.video.reader", "from ..checkpoint import files", id="beside"),
        pytest.param(
            f"{BENCHMARKS}.datasets.sample", "from ..accuracy.ask import x", id="data-to-accuracy"
        ),
        pytest.param(f"{BENCHMARKS}.cost.harness", "from .kernels import near_ties", id="upstairs"),
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
        pytest.param(f"{CORE}.reference.merging", "from .floats import x", id="inside-a-room"),
        pytest.param(
            f"{ADAPTERS}.engine.engine",
            "from prunevid_kernels import PruneVidConfig, __version__\nfrom .cache import x",
            id="adapter-to-public-names",
        ),
        pytest.param(
            f"{BENCHMARKS}.cli.command", "from ...adapters import prune", id="benchmark-to-adapter"
        ),
        pytest.param(
            f"{BENCHMARKS}.compile_check",
            "from prunevid_kernels.kernels.selection import compact",
            id="compile-check-to-kernels",
        ),
    ],
)
def test_an_allowed_import_is_not_reported(module, source):
    assert not violations(source, module)


def too_full(folders: dict[str, int]) -> list[str]:
    """The folders with more modules than one can take in."""
    return [folder for folder, count in folders.items() if count > MOST_MODULES]


def test_no_folder_is_too_full():
    folders = {folder_of(path) for path in modules().values()}
    assert not too_full({folder: len(counted_modules(ROOT / folder)) for folder in folders})


def test_a_planted_full_folder_is_found(tmp_path):
    for index in range(MOST_MODULES):
        (tmp_path / f"module_{index}.py").touch()
    (tmp_path / "__init__.py").touch()
    assert not too_full({"planted": len(counted_modules(tmp_path))})
    (tmp_path / "one_more.py").touch()
    assert too_full({"planted": len(counted_modules(tmp_path))}) == ["planted"]


def test_the_page_shows_the_structure_of_today():
    page = ROOT / "CONTRIBUTING.md"
    assert structure.updated(page.read_text()) == page.read_text(), (
        "run python scripts/structure.py --write"
    )
