"""The project as others install it: the wheel, its metadata, its types, and the pinned versions."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from paths import ROOT

import prunevid_kernels

FOLDERS = ("prunevid_kernels", "adapters", "benchmarks")
PACKAGES = ("prunevid_kernels", "prunevid_kernels.adapters", "prunevid_kernels.benchmarks")
CHECKOUT_ONLY = "benchmarks/train_tiny"

# One process builds and installs; the others do not do it again.


def in_process(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    # What is installed is what is looked at, whatever the caller's path holds.
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=clean, text=True, capture_output=True, timeout=600)


def run(*command: str | Path, cwd: Path) -> str:
    done = in_process(*command, cwd=cwd)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: a build in the tree would pick up what an older one left."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for name in FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    built = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--wheel-dir", built, source, cwd=built)
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The Python of a clean environment with the wheel, which sees torch and the rest by a path."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    site = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    run(*pip, wheel, cwd=folder)
    return python


def test_the_wheel_holds_every_module_and_data_file(wheel):
    expected = {
        f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder)}"
        for folder, package in zip(FOLDERS, PACKAGES, strict=True)
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
        if not path.is_relative_to(ROOT / CHECKOUT_ONLY)
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected


def test_the_installed_wheel_imports_from_another_folder(installed, tmp_path):
    code = f"import {', '.join(PACKAGES)}; print(prunevid_kernels.__file__)"
    printed = run(installed, "-c", code, cwd=tmp_path)
    assert printed.startswith(str(installed.parents[1]))


def test_what_trains_the_embedded_model_needs_a_checkout_and_says_so(installed, tmp_path):
    command = [installed, "-m", "prunevid_kernels.benchmarks.cli", "train-tiny", "--out", "out"]
    done = in_process(*command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("prunevid: error: train-tiny needs a checkout")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_installed_wheel_is_fully_typed(installed, tmp_path):
    """The code that is not in the wheel is put beside it, to be checked as well."""
    site = Path(sysconfig.get_path("purelib", vars={"base": str(installed.parents[1])}))
    beside = site / "prunevid_kernels" / CHECKOUT_ONLY
    shutil.copytree(ROOT / CHECKOUT_ONLY, beside, ignore=shutil.ignore_patterns("__pycache__"))
    mypy = [sys.executable, "-m", "mypy", "--python-executable", installed]
    mypy += ["--config-file", ROOT / "pyproject.toml", "--cache-dir", ROOT / ".mypy_cache"]
    checked = subprocess.run(
        [*mypy, "-p", "prunevid_kernels"], cwd=tmp_path, text=True, capture_output=True
    )
    shutil.rmtree(beside)
    printed = checked.stdout + checked.stderr
    # As paths in the repository, where the faults are to be mended.
    printed = re.sub(r"^\S*/site-packages/", "", printed, flags=re.M)
    printed = re.sub(r"^prunevid_kernels/(?=adapters/|benchmarks/)", "", printed, flags=re.M)
    assert checked.returncode == 0, f"mypy:\n{printed}"

    # The types reach the user of the package.
    use = tmp_path / "use.py"
    use.write_text("import prunevid_kernels\n\nprunevid_kernels.PruneVidConfig(tau='high')\n")
    refused = subprocess.run([*mypy, use], cwd=tmp_path, text=True, capture_output=True)
    assert 'has incompatible type "str"; expected "float"' in refused.stdout, refused.stdout


def test_version_and_command_are_in_the_metadata():
    metadata = importlib.metadata.distribution("prunevid-kernels")
    assert metadata.version == prunevid_kernels.__version__
    assert f"## [{metadata.version}]" in (ROOT / "CHANGELOG.md").read_text()
    (command,) = metadata.entry_points.select(group="console_scripts")
    assert (command.name, command.value) == ("prunevid", "prunevid_kernels.benchmarks.cli:main")


def test_the_plugins_that_the_wheel_declares_are_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        declared = configparser.ConfigParser()
        declared.read_string(archive.read(path).decode())
        for group in ("lmms_eval.models", "vllm.general_plugins"):
            module, name = declared[group]["prunevid"].split(":")
            file = module.replace(".", "/")
            (file,) = {f"{file}.py", f"{file}/__init__.py"} & {*archive.namelist()}
            assert name in archive.read(file).decode()


def test_setup_maps_every_package_folder():
    tree = ast.parse((ROOT / "setup.py").read_text())
    (setup,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    listed = next(ast.literal_eval(item.value) for item in setup.keywords if item.arg == "packages")
    present = [
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
        for folder, package in zip(FOLDERS, PACKAGES, strict=True)
        for path in (ROOT / folder).rglob("__init__.py")
        if path.parent != ROOT / CHECKOUT_ONLY
    ]
    assert sorted(listed) == sorted(present)


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_constraint_is_one_exact_version(python):
    environment = {**default_environment(), "python_version": python}
    names = [
        pin.name for pin in constraints() if not pin.marker or pin.marker.evaluate(environment)
    ]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in constraints())


def test_everything_that_the_scripts_install_is_pinned():
    pinned = {pin.name: pin.specifier for pin in constraints()}
    metadata = importlib.metadata.requires("prunevid-kernels")
    assert metadata is not None
    for requirement in map(Requirement, metadata):
        if requirement.name not in (
            "prunevid-kernels",
            "flash-attn",
            "gradio",
            "lmms-eval",
            "mkdocs-material",
            "mkdocstrings",
            "vllm",
        ):
            (version,) = pinned[requirement.name]
            assert requirement.specifier.contains(version.version), requirement


@pytest.mark.parametrize(
    "script",
    [
        "scripts/demo.sh",
        "scripts/test.sh",
        "scripts/test_app.sh",
        "scripts/test_lmms_eval.sh",
        "scripts/test_publishing.sh",
        "scripts/test_vllm.sh",
        ".ci/run",
    ],
)
def test_scripts_are_executable_and_parse(script):
    assert (ROOT / script).stat().st_mode & 0o111
    run("bash", "-n", ROOT / script, cwd=ROOT)
