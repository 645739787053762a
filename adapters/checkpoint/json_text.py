"""JSON that somebody else wrote: parsed, or refused with a reason.

Python's parser runs out of stack on deep nesting, takes lone surrogates, which no file can hold
again, and stumbles over the mark that some editors put at a file's beginning. Whoever reads JSON
from a folder that a user names reads it here, and gives the error the name of the file.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_DEPTH = 100  # a config has 4, the index of a checkpoint 2


def parse_json(
    text: str | bytes,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The value of a JSON text.

    Args:
        text: bytes are UTF-8, with or without a byte order mark.
        object_pairs_hook: makes an object of its names and values; see ``json.loads``.

    Raises:
        ValueError: not UTF-8, not JSON, nested too deeply.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        value = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=object_pairs_hook)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _require_shallow(value)
    return value


def read_bytes(file: Path) -> bytes:
    """The content of a file; a pipe or a device, which might never end, is none.

    Raises:
        OSError: no such file, or one that cannot be read.
    """
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    return file.read_bytes()


def require_text(value: Any) -> None:
    """Refuse a JSON value with a string, or a name, that is no text.

    Raises:
        ValueError: a lone surrogate, which JSON can spell and no file can hold.
    """
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str) and not _is_text(item):
            raise ValueError(f"a string with a lone surrogate: {ascii(item[:40])}")
        left += _children(item)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, (list, tuple)) else []


def _require_shallow(value: Any) -> None:
    level = _children(value)
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [child for parent in level for child in _children(parent)]
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
