"""What importing the package loads, and that its names are where a type checker looks for them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton

import prunevid_kernels

CORE = "prunevid_kernels"
FOLDER = Path(__file__).resolve().parents[2]


def modules_after(source):
    """What a process of its own has loaded after running ``source``."""
    return subprocess.run(
        [sys.executable, "-c", f"{source}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=FOLDER.parent,
    ).stdout.split()


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("import prunevid_kernels", id="import"),
        pytest.param("import prunevid_kernels; prunevid_kernels.__version__", id="version"),
        pytest.param("import prunevid_kernels; dir(prunevid_kernels)", id="dir"),
        pytest.param(
            "from prunevid_kernels import PruneVidConfig, budget_tokens, __version__\n"
            "budget_tokens(8, 10, PruneVidConfig(budget=0.5).budget)",
            id="config",
        ),
    ],
)
def test_importing_the_package_and_its_config_loads_no_torch(source):
    loaded = modules_after(source)
    assert "prunevid_kernels" in loaded
    assert not [name for name in ("torch", "triton", "numpy") if name in loaded]


def test_every_public_name_is_exported_and_no_other_and_torch_alone_is_loaded():
    source = """
import prunevid_kernels
names = prunevid_kernels.__all__
assert set(names) <= set(dir(prunevid_kernels)), dir(prunevid_kernels)
for name in names:
    value = getattr(prunevid_kernels, name)
    assert value.__name__ == name and vars(prunevid_kernels)[name] is value
try:
    prunevid_kernels.merge_vidoe
except AttributeError as error:
    assert "merge_vidoe" in str(error)
else:
    raise AssertionError
try:
    from prunevid_kernels import merge_vidoe
except ImportError as error:
    assert "merge_vidoe" in str(error)
"""
    loaded = modules_after(source)
    assert "torch" in loaded
    unwanted = (
        "triton",
        "transformers",
        "decord",
        "av",
        "matplotlib",
        f"{CORE}.kernels",
        f"{CORE}.adapters",
        f"{CORE}.benchmarks",
    )
    assert not [name for name in unwanted if name in loaded]


def test_the_lazy_exports_are_what_a_type_checker_sees():
    tree = ast.parse((FOLDER / CORE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name for node in block.body for alias in node.names}
    assert seen == set(prunevid_kernels.__all__)
    for node in block.body:
        module = node.module.removeprefix(f"{CORE}.")
        for alias in node.names:
            assert prunevid_kernels._MODULE_OF[alias.name] == module


def test_the_interpreter_s_numpy_is_asked_for_where_it_is_missing():
    """An installation of the core alone has torch and Triton, and on a GPU needs no more."""
    source = """
import sys
sys.modules["numpy"] = None  # as if it were not installed
import torch
from prunevid_kernels import PruneVidConfig, merge_video
features = torch.zeros(2, 3, 4)
assert merge_video(features, PruneVidConfig()).tokens.shape[1] == 4
try:
    merge_video(features, PruneVidConfig(), impl="triton")
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Triton's interpreter (TRITON_INTERPRET=1) needs numpy, which nothing else here does:"
        " pip install numpy"
    ]


def test_an_interpreter_that_cannot_run_the_kernels_is_told(monkeypatch):
    """An unpinned installation beside a CPU build of torch brings it."""
    features = torch.zeros(2, 3, 4)
    monkeypatch.setattr(triton, "__version__", "3.9.0")
    with pytest.raises(ValueError, match=r"impl='triton' on cpu: .* pip install triton==3\.7\.1"):
        prunevid_kernels.merge_video(features, prunevid_kernels.PruneVidConfig(), impl="triton")
