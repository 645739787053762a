"""The documentation's site, as far as it shows without MkDocs; ``scripts/docs.sh`` builds it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import docs_site
import pytest
import setuptools
import yaml
from documents import DOCS, PAGES, ROOT

MKDOCS = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
HEADING = re.compile(r"^#+ (.+)$", re.M)


def nav_pages(entry: Any) -> list[str]:
    """Every page below an entry of the menu."""
    if isinstance(entry, str):
        return [entry]
    below = entry.values() if isinstance(entry, dict) else entry
    return [page for each in below for page in nav_pages(each)]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as MkDocs and GitHub name them."""
    prose = docs_site.FENCE.sub("", text)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(prose))
    return {heading.strip().replace(" ", "-") for heading in plain}


def test_the_menu_and_the_folder_hold_the_same_pages() -> None:
    menu = nav_pages(MKDOCS["nav"])
    assert len(menu) == len(set(menu))
    assert sorted(menu) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_headings_that_are_there(page: Path) -> None:
    text = docs_site.FENCE.sub("", page.read_text(encoding="utf-8"))
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", text):
        if "://" not in target:
            other = page.parent / target if target else page
            assert anchor in anchors(other.read_text(encoding="utf-8")), (target, anchor)


def test_nothing_is_fetched_from_elsewhere() -> None:
    """No font, no script: the site works where there is no network."""
    assert MKDOCS["theme"]["font"] is False
    plugins = {
        name
        for plugin in MKDOCS["plugins"]
        for name in ([plugin] if isinstance(plugin, str) else plugin)
    }
    assert "extra_javascript" not in MKDOCS and "offline" not in plugins
    assert all("://" not in sheet for sheet in MKDOCS["extra_css"])


def test_links_out_of_the_folder_lead_to_the_same_on_the_site() -> None:
    text = (
        "[a](../benchmarks/results/README.md#schema) ![b](../benchmarks/x.png) [c](../examples/)\n"
        "[d](video.md) [e](https://example.org/x.md)\n```\n[f](../g.md)\n```\n"
    )
    assert docs_site.with_site_links(text, DOCS / "methods.md") == (
        "[a](repository/benchmarks/results/README.md#schema) ![b](repository/benchmarks/x.png) c\n"
        "[d](video.md) [e](https://example.org/x.md)\n```\n[f](../g.md)\n```\n"
    )
    back = docs_site.with_site_links(
        "[v](../../docs/video.md)", ROOT / "benchmarks" / "results" / "R.md"
    )
    assert back == "[v](../../../video.md)"


def test_pages_outside_the_folder_are_found_with_their_own_links() -> None:
    found = [path.relative_to(ROOT).as_posix() for path in docs_site.outside_files()]
    assert "benchmarks/results/synthetic/shares.png" in found
    assert "benchmarks/embedded/data/tiny_video_qa/README.md" in found
    assert not [path for path in found if not (ROOT / path).exists()]


def test_the_sources_are_linked_as_they_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path(str(ROOT / "setup.py"))
    installed = {folder: name.replace(".", "/") for name, folder in given["package_dir"].items()}
    assert installed == docs_site.FOLDERS

    docs_site.link_sources(tmp_path / "sources")
    docs_site.link_sources(tmp_path / "sources")  # again: made anew
    package = tmp_path / "sources" / "prunevid_kernels"
    for path in ("ops.py", "adapters/pruning.py", "benchmarks/embedded/model.py"):
        assert (package / path).is_symlink() and (package / path).read_text()


def test_the_reference_has_every_command() -> None:
    """With options and whole summaries, and nothing heavy was imported to write it."""
    from prunevid_kernels.benchmarks.cli.command import app

    page = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    assert docs_site.COMMANDS in page
    reference = docs_site.command_reference()
    names = [command.name for command in app.registered_commands]
    names += [group.name for group in app.registered_groups]
    for name in names:
        assert f"## `prunevid {name}`" in reference
    assert "* `--question <str>`: What to ask about the video" in reference
    linked = re.findall(r"^\* \[`(.+)`\]\(#(.+)\): (.+)$", reference, re.M)
    assert ("prunevid eval mvbench", "prunevid-eval-mvbench") in [link[:2] for link in linked]
    for command, anchor, summary in linked:
        assert f"## `{command}`\n\n{summary}\n" in reference
        assert anchor in anchors(reference) and not summary.endswith("...")
    assert "--help" not in reference and not re.search(r":\n+(#|\*\*|$)", reference)


def test_commands_that_cannot_be_read_end_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs_site.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="typer cannot describe"):
        docs_site.command_reference()


def test_a_search_that_finds_nothing_ends_the_build() -> None:
    """On an index as the build writes it; `bash scripts/docs.sh` looks into its own."""
    search = next(p["search"] for p in MKDOCS["plugins"] if isinstance(p, dict) and "search" in p)
    entry = {
        "location": "config.html#fields",
        "title": "Fields",
        "text": "<p>A near-tie (see <code>keep_ratio</code>).</p>",
    }
    index = {"config": {"separator": search["separator"]}, "docs": [entry]}
    for word in ("near-tie", "keep_ratio", "keep", "Fields"):
        docs_site.require_found(index, {word: "config.html"})
    for word, page in (("keep_ratio", "method.html"), ("budget", "config.html")):
        with pytest.raises(RuntimeError, match=f"does not find '{word}' on the page {page}"):
            docs_site.require_found(index, {word: page})


def test_pages_that_the_search_is_tried_on_are_there() -> None:
    for page in docs_site.SEARCHED.values():
        source = page.replace("index.html", "README.md").replace(".html", ".md")
        assert docs_site.repository_path(source).is_file(), page
