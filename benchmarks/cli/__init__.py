"""The command ``prunevid``, one file a subcommand."""

from __future__ import annotations

import sys

try:
    from .command import app, main
except ModuleNotFoundError as error:
    if error.name != "typer":
        raise

    # The core installs the console script as well, without what it needs.
    def main() -> None:
        """Name the extra that brings what the command needs."""
        print(
            'prunevid: error: the command needs the extra "benchmarks":'
            ' pip install ".[benchmarks]" in a checkout',
            file=sys.stderr,
        )
        raise SystemExit(2)


__all__ = ["app", "main"]
