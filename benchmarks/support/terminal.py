"""How the commands of ``prunevid`` talk to a person: bars, and one line for an error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NoReturn

import typer
from tqdm import tqdm

# Called after each item, with what is wrong with it if anything is.
Advance = Callable[[str | None], None]
# Called with a label, the number of items and how many of them were done before.
Progress = Callable[[str, int, int], AbstractContextManager[Advance]]

SHOWN_PROBLEMS = 5


def fail(message: str) -> NoReturn:
    """One line on stderr, whatever line breaks a file name may hold, and exit code 2."""
    print("prunevid: error: " + " ".join(message.split()), file=sys.stderr)
    raise typer.Exit(2)


@contextmanager
def progress_bar(label: str, total: int, done: int) -> Iterator[Advance]:
    """A bar on stderr with rate and time to go; the first problems are shown, all are counted."""
    problems: list[str] = []
    with tqdm(total=total, initial=done, desc=label, unit="q", dynamic_ncols=True) as bar:

        def advance(problem: str | None) -> None:
            if problem is not None:
                problems.append(problem)
                if len(problems) <= SHOWN_PROBLEMS:
                    tqdm.write(f"{label}: {problem}", file=sys.stderr)
            bar.update()

        yield advance
    show_more(label, problems)


def show_problems(label: str, problems: list[str]) -> None:
    """The first of a list of problems on stderr, and how many more there are."""
    for problem in problems[:SHOWN_PROBLEMS]:
        print(f"{label}: {problem}", file=sys.stderr)
    show_more(label, problems)


def show_more(label: str, problems: list[str]) -> None:
    """How many problems there are beyond those that were shown."""
    if len(problems) > SHOWN_PROBLEMS:
        print(f"{label}: {len(problems) - SHOWN_PROBLEMS} more like these", file=sys.stderr)
