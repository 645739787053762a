"""How the commands of ``prunevid`` talk to people and to programs.

Bars and problems for a person on stderr, one line for an error, and one line of JSON at the end of
stdout for a program. Cheap to import: the progress bars' library is loaded with the first bar.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any, NoReturn

import typer

# Every command that prints a result has this option.
AsJson = Annotated[
    bool,
    typer.Option("--json", help="End with a line of JSON, as when the output is not a terminal."),
]

# Every command that reads videos has this one.
ReaderName = Annotated[
    str,
    typer.Option(
        "--reader", help="What reads video files: decord, pyav, or auto: decord where it is right."
    ),
]

# Called after each item, with what is wrong with it if anything is.
Advance = Callable[[str | None], None]
# Called with a label, the number of items and how many of them were done before.
Progress = Callable[[str, int, int], AbstractContextManager[Advance]]

SHOWN_PROBLEMS = 5


def fail(message: str) -> NoReturn:
    """One line on stderr, whatever line breaks a file name may hold, and exit code 2."""
    print("prunevid: error: " + " ".join(message.split()), file=sys.stderr)
    raise typer.Exit(2)


def print_summary(summary: Mapping[str, Any], as_json: bool) -> None:
    """A command's result as one line of JSON, for programs: a person has read it above.

    Args:
        summary: JSON values.
        as_json: print it on a terminal as well.
    """
    if as_json or not sys.stdout.isatty():
        print(json.dumps(summary))


@contextmanager
def progress_bar(label: str, total: int, done: int) -> Iterator[Advance]:
    """A bar on stderr with rate and time to go; the first problems are shown, all are counted."""
    from tqdm import tqdm

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
