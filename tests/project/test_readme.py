"""The README's first screen, and what the pages link to. ``test_docs.py`` runs its examples."""

import re
from pathlib import Path

import pytest
from docs_site import local_links
from documents import PAGES, README


def test_the_first_screen_holds_the_commands_and_the_three_doors() -> None:
    """30 lines with the picture are about what a browser shows before anybody scrolls."""
    screen = "\n".join(README.read_text(encoding="utf-8").splitlines()[:30])
    for sign in (
        "bash scripts/demo.sh",
        "bash scripts/test.sh",
        "prunevid_run.jpg",
        "the same answer",
    ):
        assert sign in screen
    for door in ("measure kernels", "run models end to end", "use the kernels in another stack"):
        assert f"| {door} |" in screen


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_and_pictures_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    pictures = [page.parent / source for source in re.findall(r'<img src="([^"]+)"', text)]
    missing = [path for path in [*local_links(text, page), *pictures] if not path.exists()]
    assert not missing
