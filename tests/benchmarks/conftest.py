"""The command line's tests call it hundreds of times in one process."""

import functools

import typer.testing

# Typer's test client makes the commands of an app anew for each call, which takes longer than most
# of what is called here: a tenth of a second for ours.
typer.testing._get_command = functools.cache(typer.testing._get_command)
