"""A family is named in its own folder and in the table of families, and nowhere else.

Whatever depends on "which model is it?" is a field of its record; a name elsewhere is the beginning
of a second table.
"""

from __future__ import annotations

import re

import pytest
from structure import ADAPTERS, BENCHMARKS, ROOT, folder_of, modules

FAMILY_TABLE = f"{ADAPTERS}.families"
# Where a family's name may stand besides its own folder and the table, and why.
NAMES_ALLOWED = {
    "adapters/vllm": "an engine wants a class for each architecture",
    "adapters/lmms_eval": "an engine wants a class for each architecture",
    "benchmarks/embedded": "the embedded model is one of a family",
    "benchmarks/train_tiny": "the embedded model is one of a family",
}


def family_names() -> dict[str, re.Pattern[str]]:
    """A family's folder -> its name in any spelling: ``st_llm``, ``ST-LLM``, ``StLlmConfig``."""
    folders = [path.parent.name for path in (ROOT / "adapters" / "families").glob("*/__init__.py")]
    return {
        name: re.compile(rf"(?<![a-z]){name.replace('_', '[ _-]?')}", re.IGNORECASE)
        for name in folders
    }


def named_families(folder: str, module: str, source: str) -> list[str]:
    """The families that a module names although neither it nor its folder is the place for it."""
    if module == FAMILY_TABLE or any(folder.startswith(place) for place in NAMES_ALLOWED):
        return []
    return [
        name
        for name, pattern in family_names().items()
        if not folder.startswith(f"adapters/families/{name}") and pattern.search(source)
    ]


def test_a_family_is_named_in_its_folder_and_in_the_table():
    found = {
        module: named_families(folder_of(path), module, path.read_text())
        for module, path in modules().items()
    }
    assert {module: named for module, named in found.items() if named} == {}


@pytest.mark.parametrize(
    "source",
    [
        pytest.param('if family == "st_llm":', id="key"),
        pytest.param("# as ST-LLM does", id="comment"),
        pytest.param("from .pllava import Pllava", id="import"),
        pytest.param("x = LlavaOnevisionConfig()", id="class"),
        pytest.param('MODEL = "llava-onevision-7b"', id="size"),
    ],
)
def test_a_planted_family_name_is_found(source):
    assert len(named_families("benchmarks/cost", f"{BENCHMARKS}.cost.harness", source)) == 1
    assert len(named_families("adapters/families/other", "x", source)) == 1


def test_a_family_may_be_named_at_home():
    assert not named_families("adapters/families/st_llm", "x", "StLlm")
    assert not named_families("adapters/families", FAMILY_TABLE, "st_llm, pllava")
    assert not named_families("benchmarks/cost", "x", "most llms")
