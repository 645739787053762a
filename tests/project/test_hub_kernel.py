"""The Hub kernel that ``scripts/hub_kernel.py`` writes: it stands alone, and beside other builds.

Loaded here the way the kernels package loads one, from a folder that no import path names;
``scripts/test_publishing.sh`` loads it with that package.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import hub_kernel
import pytest
import torch
from paths import ROOT
from torch.utils._python_dispatch import TorchDispatchMode

import prunevid_kernels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "prunevid"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "hub_kernel.py", out], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(out / "build" / f"torch-{b}") for b in hub_kernel.BACKENDS]
    return out


def load(variant: Path) -> ModuleType:
    name = json.loads((variant / "metadata.json").read_text())["id"]
    spec = importlib.util.spec_from_file_location(name, variant / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kernels(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[ModuleType]:
    """Two builds under two names, and the package itself, in one process."""
    other = tmp_path_factory.mktemp("other") / "second"
    hub_kernel.write_hub_kernel(other, "prunevid-second", 2)
    return [
        load(folder / "build" / "torch-cpu"),
        load(other / "build" / "torch-cpu"),
        prunevid_kernels,
    ]


def test_it_has_what_a_builder_and_a_reader_look_for(folder: Path) -> None:
    text = (folder / "build.toml").read_text()
    for line in ('name = "prunevid"', "version = 1", "edition = 5", "[torch-noarch]"):
        assert f"{line}\n" in text
    card = (folder / "CARD.md").read_text()
    assert "@" not in card.replace("@triton", "") and 'get_kernel("ORGANISATION/prunevid"' in card
    for name in prunevid_kernels.__all__:
        if name[0].islower():
            assert f"`{name}`" in card, "a public function that the card does not name"
    for file in ("LICENSE", "NOTICE", "benchmarks/benchmark.py", "torch-ext/prunevid/__init__.py"):
        assert (folder / file).is_file()
    assert not (folder / "torch-ext" / "prunevid" / "_ops.py").exists(), "the builder's own file"


def test_nothing_in_it_is_imported_from_elsewhere(folder: Path) -> None:
    allowed = {*sys.stdlib_module_names, "torch", "triton"}
    files = list((folder / "build" / "torch-cuda").rglob("*.py"))
    assert len(files) > 30
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= allowed, file
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").partition(".")[0] in allowed, file


def test_each_build_has_files_of_its_own(kernels: list[ModuleType]) -> None:
    for kernel in kernels[:2]:
        folder = Path(str(kernel.__file__)).parent
        for name in ("ops", "kernels.merge", "reference.merging"):
            module = __import__(f"{kernel.__name__}.{name}", fromlist=["x"])
            assert Path(str(module.__file__)).is_relative_to(folder)
        assert sorted(kernel.__all__) == sorted(prunevid_kernels.__all__)
    assert kernels[0].MergedVideo is not kernels[1].MergedVideo


def test_builds_give_the_package_s_results_side_by_side(kernels: list[ModuleType]) -> None:
    features, index = torch.randn(6, 9, 32), torch.tensor([0, 2])
    query, key = torch.randn(1, 4, 3, 16), torch.randn(1, 2, 20, 16)
    found = []
    for kernel in kernels:
        merged = kernel.merge_video(features, kernel.PruneVidConfig(budget=20))
        scores = kernel.score_visual_tokens(query, key, slice(2, 12), impl="triton")
        (kept,) = kernel.compact([features], index, dim=0, impl="triton")
        found.append((merged.tokens, merged.layout.source_to_merged, scores, kept))
    for other in found[1:]:
        for left, right in zip(found[0], other, strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=0)


class Called(TorchDispatchMode):
    """Collects the namespaces of the ops that run."""

    def __init__(self) -> None:
        super().__init__()
        self.namespaces: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.namespaces.add(func.namespace)
        return func(*args, **(kwargs or {}))


def test_ops_of_two_builds_do_not_meet(
    kernels: list[ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each build registers its ops under its own name, and a tracer sees its own."""
    seen = set()
    for kernel in kernels:
        module = sys.modules[f"{kernel.__name__}.ops"]
        monkeypatch.setattr(module, "is_tracing", lambda: True)
        with Called() as called:
            kernel.compact([torch.randn(4, 3)], torch.tensor([0, 2]), dim=0)
        (name,) = (name for name in called.namespaces if "prunevid" in name)
        seen.add(name)
        assert kernel.apply_layout is not None  # its module registers the last of the ops
        for op in ("merge_to_budget", "score_visual_tokens", "compact", "apply_layout"):
            assert hasattr(getattr(torch.ops, name), op)
    assert len(seen) == 3 and "prunevid" in seen


def test_a_build_is_named_for_all_that_it_is_made_of(folder: Path) -> None:
    """The same sources give the same build again; anything else another one."""
    metadata = json.loads((folder / "build" / "torch-cpu" / "metadata.json").read_text())
    files = hub_kernel.core_files()
    made_of: dict[str, Any] = {"name": "prunevid", "version": 1, "backend": "cpu", "files": files}
    assert hub_kernel.build_id(**made_of) == metadata["id"]
    changed = {**files, "ops.py": files["ops.py"] + b"#"}
    others: list[dict[str, Any]] = [
        {"name": "other"},
        {"version": 2},
        {"backend": "cuda"},
        {"files": changed},
    ]
    ids = [hub_kernel.build_id(**{**made_of, **other}) for other in others]
    assert len({metadata["id"], *ids}) == 5 and all(name.isidentifier() for name in ids)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.nn\n", "import torch.nn\n"),
        (
            "from prunevid_kernels.config import A\nx = f(torch.ops.prunevid.y)\n",
            "from .._ops import ops\nfrom ..config import A\nx = f(ops.y)\n",
        ),
        (
            "from prunevid_kernels import b\ng('prunevid::h', f'prunevid::{i}')\n",
            "from .._ops import add_op_namespace_prefix\nfrom .. import b\n"
            "g(add_op_namespace_prefix('h'), add_op_namespace_prefix(f'{i}'))\n",
        ),
    ],
    ids=["nothing", "ops", "names"],
)
def test_how_a_module_is_rewritten(source: str, expected: str) -> None:
    assert hub_kernel.relative(source.encode(), Path("kernels/x.py")).decode() == expected


@pytest.mark.parametrize(
    "source", ["import numpy\n", "from numpy import x\n", "import prunevid_kernels\n"]
)
def test_a_module_that_needs_more_than_torch_is_refused(source: str) -> None:
    with pytest.raises(hub_kernel.HubKernelError, match=r"kernels/x\.py: a Hub kernel imports"):
        hub_kernel.relative(source.encode(), Path("kernels/x.py"))


def test_a_module_that_is_named_in_a_text_is_refused() -> None:
    """It would be found where the package is installed, and nowhere else."""
    source = b"'prunevid_kernels.ops is fine in a docstring'\nf = load('prunevid_kernels.ops')\n"
    with pytest.raises(hub_kernel.HubKernelError, match=r"x\.py: line 2 names a module of"):
        hub_kernel.relative(source, Path("x.py"))


def test_what_no_kernel_can_be(tmp_path: Path) -> None:
    for name in ("Prunevid", "p", "prune_vid", "-p", "p-", "p" * 97, ""):
        with pytest.raises(hub_kernel.HubKernelError, match="name must be 2 to 96 small letters"):
            hub_kernel.write_hub_kernel(tmp_path / "out", name)
    for name in ("class", "async"):
        with pytest.raises(hub_kernel.HubKernelError, match=f"'{name}' is a keyword"):
            hub_kernel.write_hub_kernel(tmp_path / "out", name)
    with pytest.raises(hub_kernel.HubKernelError, match="version must be an integer >= 1, got 0"):
        hub_kernel.write_hub_kernel(tmp_path / "out", version=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(hub_kernel.HubKernelError, match="full: must be an empty folder"):
        hub_kernel.write_hub_kernel(tmp_path / "full")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize("was_there", [True, False])
def test_half_a_kernel_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_there: bool
) -> None:
    """What stops in the middle, as on a full disk, leaves the folder as it was."""
    out, write = tmp_path / "out", hub_kernel._write
    if was_there:
        out.mkdir()

    def fail_at_metadata(file: Path, content: bytes) -> None:
        if file.name == "metadata.json":
            raise OSError(28, "No space left on device", str(file))
        write(file, content)

    monkeypatch.setattr(hub_kernel, "_write", fail_at_metadata)
    with pytest.raises(OSError, match="No space left"):
        hub_kernel.write_hub_kernel(out)
    assert [*tmp_path.iterdir()] == ([out] if was_there else [])
    assert not was_there or not [*out.iterdir()]
    monkeypatch.undo()
    assert len(hub_kernel.write_hub_kernel(out, "p" * hub_kernel.LONGEST_NAME)) == 3
