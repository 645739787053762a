"""The command ``prunevid``, one file a subcommand."""

from .command import app, main

__all__ = ["app", "main"]
