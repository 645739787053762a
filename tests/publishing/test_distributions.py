"""sdist and wheel as a release makes them: by ``python -m build``, held by ``twine check``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from paths import ROOT

import prunevid_kernels

try:
    version("twine")
except PackageNotFoundError:
    pytest.skip(
        "twine has an environment of its own: scripts/test_publishing.sh", allow_module_level=True
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both, from a copy of what git tracks."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_both_are_of_this_version(built: Path) -> None:
    name = f"prunevid_kernels-{prunevid_kernels.__version__}"
    assert sorted(path.name for path in built.iterdir()) == [
        f"{name}-py3-none-any.whl",
        f"{name}.tar.gz",
    ]


def test_twine_has_nothing_to_say(built: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *built.iterdir()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_neither_holds_tests_or_what_git_ignores(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names += [name.partition("/")[2] for name in sdist.getnames()]
    for name in names:
        assert not {"tests", "train_tiny", "__pycache__"} & {*Path(name).parts}, name
