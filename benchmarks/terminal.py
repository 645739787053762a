"""How every command of ``prunevid`` ends on input that cannot be used."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer


def fail(message: str) -> NoReturn:
    """One line on stderr, whatever line breaks a file name may hold, and exit code 2."""
    print("prunevid: error: " + " ".join(message.split()), file=sys.stderr)
    raise typer.Exit(2)
