"""The Hub kernel in the kernels package, from a local folder, under two names at once."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import hub_kernel
import pytest
import torch

import prunevid_kernels

try:
    version("kernels")
except PackageNotFoundError:
    pytest.skip(
        "the kernels package has an environment of its own: scripts/test_publishing.sh",
        allow_module_level=True,
    )

from kernels import get_loaded_kernels, get_local_kernel
from kernels._rust import Build  # the builder's own parser of build.toml


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("hub")
    names = ("prunevid", "prunevid-second")
    for name in names:
        hub_kernel.write_hub_kernel(out / name, name)
    return [out / name for name in names]


def test_the_builder_reads_build_toml(folders: list[Path]) -> None:
    for folder in folders:
        backends = Build.open(folder).general.backends
        assert {str(backend).lower() for backend in backends} == {*hub_kernel.BACKENDS}


def test_two_kernels_live_in_one_process(folders: list[Path]) -> None:
    loaded = [get_local_kernel(folder / "build") for folder in folders]
    names = {str(kernel.metadata.name) for kernel in get_loaded_kernels()}
    assert {"prunevid", "prunevid-second"} <= names
    features = torch.randn(6, 9, 32)
    tokens = []
    for kernel in (*loaded, prunevid_kernels):
        for impl in ("reference", "triton"):
            config = kernel.PruneVidConfig(budget=20)
            tokens.append(kernel.merge_video(features, config, impl=impl).tokens)
    for other in tokens[2:]:
        assert any(torch.equal(other, first) for first in tokens[:2])
    spaces = [name for name in dir(torch.ops) if name.startswith("_prunevid")]
    assert len(spaces) == 2


def test_the_benchmark_holds_the_kernel_to_the_reference(folders: list[Path]) -> None:
    """At a small size, on this machine's device."""
    spec = importlib.util.spec_from_file_location(
        "hub_benchmark", folders[0] / "benchmarks" / "benchmark.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    benchmark = module.PruneVidBenchmark()
    benchmark.frames, benchmark.tokens, benchmark.channels, benchmark.heads = 4, 9, 32, 2
    benchmark.kernel = get_local_kernel(folders[0] / "build")
    benchmark.setup()
    for name in ("merge", "score"):
        getattr(benchmark, f"benchmark_{name}")()
        torch.testing.assert_close(benchmark.out, getattr(benchmark, f"verify_{name}")())
