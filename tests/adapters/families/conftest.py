"""One checkpoint folder of each family for all tests here; those that damage it copy it first."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_folders import WRITERS


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: write(root / name) for name, write in WRITERS.items()}
