"""Docstrings of this project on the site: griffe's extension, see mkdocs.yml.

The docstrings mark names as Sphinx does, ``:func:`merge_video```, which Markdown would print as it
stands. They become plain code.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`[~.]*([^`]+)`")


class Roles(Extension):
    """Leaves the names of ``:role:`name``` alone."""

    def on_object(self, *, obj: Object, **rest: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
