"""The README's examples run as they are printed, and what the pages link to is there."""

import re
from pathlib import Path

import pytest
from paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


def test_the_plain_tensor_example_runs():
    (example,) = [block for block in python_blocks() if "torch.randn" in block]
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    merged, kept = names["merged"], names["kept"]
    assert 0 < len(kept) < merged.layout.num_merged < 16 * 144
    assert names["visual_key"].shape == (1, 2, len(kept), 64)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_and_pictures_are_there(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing
