"""The pages that people read, and the Python examples in them.

An example stands below a line that says how it runs: ``<!-- runs -->`` as it is printed, or
``<!-- needs NAME -->`` where the package of that name is installed.
"""

from __future__ import annotations

import re
from typing import Any

from paths import ROOT

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
RUNS = re.compile(r"^<!-- runs -->\n```python\n(.*?)^```", re.M | re.S)
NEEDS = re.compile(r"^<!-- needs (\w+) -->\n```python\n(.*?)^```", re.M | re.S)


def run(example: str) -> dict[str, Any]:
    """Run an example; its names."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "example", "exec", dont_inherit=True), names)
    return names
