"""What the documentation site shows beyond the pages in ``docs/``: hooks of MkDocs, see mkdocs.yml.

- The command line's reference is written by typer from the commands themselves at every build, so
  it cannot be out of date.
- Pages link to files outside ``docs/`` as a reader of the repository needs it. Markdown pages and
  pictures among those become part of the site, under ``repository/``; other files and folders,
  which a site cannot show, stay as their names.
- The API reference is read from the sources without importing them. They lie in three folders that
  are one package once installed (``setup.py``), so the reader gets that package as a tree of links.
- A build whose search does not find what people look for is no build.

Nothing here imports MkDocs or torch, so the tests use it as it is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SOURCES = ROOT / "build" / "docs" / "sources"  # as in mkdocs.yml
COMMANDS_PAGE = "reference/cli.md"
COMMANDS = "<!-- commands: written by scripts/docs_site.py -->"
OUTSIDE = "repository"
SHOWN = (".md", ".png", ".jpg", ".svg")
FOLDERS = {  # as in setup.py
    "prunevid_kernels": "prunevid_kernels",
    "adapters": "prunevid_kernels/adapters",
    "benchmarks": "prunevid_kernels/benchmarks",
}

# A word that somebody looks for -> the page that the search has to find: written by hand, read from
# docstrings, from the commands, from outside docs/.
SEARCHED = {
    "near-tie": "method.html",
    "keep_ratio": "config.html",
    "score_visual_tokens": "reference/core.html",
    "load_video_model": "reference/adapters.html",
    "max-seconds": "reference/cli.html",
    "accuracy": "repository/benchmarks/embedded/data/tiny_video_qa/index.html",
}

LINK = re.compile(r"(?P<open>!?\[(?P<text>[^\]]*)\])\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)


def on_startup(**rest: Any) -> None:
    """The sources as one package, before mkdocstrings looks which of its paths are there."""
    link_sources(SOURCES)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and pictures outside ``docs/`` that pages link to."""
    # MkDocs makes files of its own class only.
    kind = type(next(iter(files)))
    for path in outside_files():
        relative = path.relative_to(ROOT).as_posix()
        files.append(kind.generated(config, f"{OUTSIDE}/{relative}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **rest: Any) -> str:
    """A page's text as the site needs it."""
    source = page.file.src_uri
    if source == COMMANDS_PAGE:
        markdown = markdown.replace(COMMANDS, command_reference())
    return with_site_links(markdown, repository_path(source))


def on_post_build(config: Any, **rest: Any) -> None:
    """The search as its plugin, whose turn is before, has written it."""
    index = Path(config["site_dir"]) / "search" / "search_index.json"
    require_found(json.loads(index.read_text(encoding="utf-8")), SEARCHED)


def require_found(index: dict[str, Any], searched: dict[str, str]) -> None:
    """Refuse a search index that lacks words.

    Args:
        index: of MkDocs' search plugin.
        searched: word -> the page that has to have it.

    Raises:
        RuntimeError: a word that the search does not find on its page.
    """
    words: dict[str, set[str]] = {}
    separator = re.compile(index["config"]["separator"])
    for entry in index["docs"]:
        text = re.sub(r"<[^>]*>", " ", f"{entry['title']} {entry['text']}").lower()
        page = entry["location"].partition("#")[0]
        words.setdefault(page, set()).update(separator.split(text))
    for word, page in searched.items():
        # The search takes what is typed for the beginning of a word.
        if not all(
            any(found.startswith(part) for found in words.get(page, ()))
            for part in separator.split(word.lower())
        ):
            raise RuntimeError(f"the site's search does not find {word!r} on the page {page}")


def repository_path(source: str) -> Path:
    """The file that a page of the site is made of."""
    inside = source.removeprefix(f"{OUTSIDE}/")
    return ROOT / inside if inside != source else DOCS / source


def site_path(path: Path) -> str | None:
    """Where the site has a file of the repository; None where it has not."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    if path.suffix in SHOWN and path.is_relative_to(ROOT):
        return f"{OUTSIDE}/{path.relative_to(ROOT).as_posix()}"
    return None


def local_links(markdown: str, page: Path) -> list[Path]:
    """The files that a page links to, code left out; a file that is missing is among them."""
    prose = FENCE.sub("", markdown)
    targets = (match["target"] for match in LINK.finditer(prose))
    return [Path(os.path.normpath(page.parent / t)) for t in targets if "://" not in t]


def with_site_links(markdown: str, page: Path) -> str:
    """``markdown`` of the file ``page`` with links that lead to the same things on the site."""
    here = site_path(page)
    assert here is not None, f"{page} is no page of the site"

    def relinked(match: re.Match[str]) -> str:
        target = match["target"]
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        there = site_path(Path(os.path.normpath(page.parent / target)))
        if there is None:
            return match["text"]
        relative = os.path.relpath(there, os.path.dirname(here))
        return f"{match['open']}({relative}{match['anchor'] or ''})"

    pieces, end = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [LINK.sub(relinked, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, LINK.sub(relinked, markdown[end:])])


def outside_files() -> list[Path]:
    """Pages and pictures outside ``docs/`` that pages of the site lead to."""
    found: list[Path] = []
    waiting = sorted(DOCS.rglob("*.md"))
    while waiting:
        page = waiting.pop()
        for path in local_links(page.read_text(encoding="utf-8"), page):
            site = site_path(path)
            if site is None or not site.startswith(f"{OUTSIDE}/") or path in found:
                continue
            found.append(path)
            if path.suffix == ".md":
                waiting.append(path)
    return sorted(found)


def link_sources(target: Path) -> None:
    """Make ``target`` a folder that holds the installed package, as links to the sources."""
    shutil.rmtree(target, ignore_errors=True)
    for folder, installed in FOLDERS.items():
        for source in sorted((ROOT / folder).rglob("*.py")):
            link = target / installed / source.relative_to(ROOT / folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source)


def command_reference() -> str:
    """Markdown: every command of ``prunevid`` with its options, by typer.

    Raises:
        RuntimeError: the commands cannot be read, with what Python says.
    """
    module = "prunevid_kernels.benchmarks.cli.command"
    call = [sys.executable, "-m", "typer", module, "utils", "docs", "--name", "prunevid"]
    result = subprocess.run(call, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"typer cannot describe {module}:\n{result.stderr}")
    _, _, commands = result.stdout.partition("\n## ")  # without the heading of the whole
    # Every command has --help, and many groups no option but that.
    commands = commands.replace("* `--help`: Show this message and exit.\n", "")
    return with_whole_summaries("## " + re.sub(r"\*\*Options\*\*:\n\n(?=\n|$)", "", commands))


def with_whole_summaries(reference: str) -> str:
    """typer cuts the summaries in its lists of subcommands; here they are links with all of it."""
    heads = re.findall(r"^#+ `(.+)`\n\n(.*)$", reference, re.M)
    summaries = dict(heads)
    lines, command = [], ""
    for line in reference.splitlines():
        if head := re.match(r"#+ `(.+)`$", line):
            command = head[1]
        item = re.match(r"\* `([\w-]+)`: ", line)
        whole = f"{command} {item[1]}" if item else ""
        if whole in summaries:
            line = f"* [`{whole}`](#{whole.replace(' ', '-')}): {summaries[whole]}"
        lines.append(line)
    return "\n".join(lines) + "\n"
