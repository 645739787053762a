"""How the commands of ``prunevid`` talk to people and to programs.

Bars and problems for a person on stderr, one line for an error, and one line of JSON at the end of
stdout for a program. Cheap to import: the progress bars' library is loaded with the first bar.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer

from prunevid_kernels.adapters.families import DEFAULT_SIZE

# Options that several commands have, the same in all of them.
AsJson = Annotated[
    bool | None,
    typer.Option(
        "--json/--no-json",
        help="End with the result as a line of JSON.  [default: where stdout is no terminal]",
        show_default=False,
    ),
]
# Of commands that take several methods.
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "--methods",
        help="Methods: NAME[,NAME...], or all; may be repeated.  [default: all]",
    ),
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1 ...; auto uses a GPU if there is one.")
]
ModelFolder = Annotated[
    Path | None,
    typer.Option(help="Checkpoint folder of a supported model.  [default: the embedded model]"),
]
LoraAlpha = Annotated[
    float | None,
    typer.Option(
        help="Strength of LoRA weights that the checkpoint holds unmerged; 14 in the paper."
    ),
]
Config = Annotated[
    list[str] | None,
    typer.Option(
        help="Option of a method as key=value, such as keep_ratio=0.3, or a FILE.json of them; may"
        " be repeated."
    ),
]
DataRoot = Annotated[Path, typer.Option(help="Folder that holds the data sets.")]
Extractor = Annotated[
    str, typer.Option(help="How to read answers: strict, or released (as published).")
]
# Of the benchmarks of kernels: shapes are those of published models.
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--model", help=f"Model whose shapes to use; may be repeated.  [default: {DEFAULT_SIZE}]"
    ),
]
FrameCounts = Annotated[
    list[int] | None,
    typer.Option(
        "--frames", help="Number of frames; may be repeated.  [default: each model's own]"
    ),
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


def printable(text: str) -> str:
    """A text for the terminal, which obeys what it prints: file names, questions and answers of
    others may hold sequences that clear it, recolour it or write into its title. Control
    characters but line breaks and tabs are left out, so are those that turn the direction of
    writing, and what is no text (a byte of a file name that is not UTF-8) is a question mark."""
    return _CONTROLS.sub("", text).encode(errors="replace").decode()


# C0 without tab and line feed, DEL, C1; marks, embeddings, overrides and isolates of direction.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def say(text: str = "", *, file: TextIO | None = None) -> None:
    """Print what may hold other people's words; see :func:`printable`.

    Args:
        text: one line or several.
        file: where to; None: stdout.
    """
    print(printable(text), file=file)


def fail(message: str) -> NoReturn:
    """One line on stderr, whatever line breaks a file name may hold, and exit code 2."""
    say("prunevid: error: " + " ".join(message.split()), file=sys.stderr)
    raise typer.Exit(2)


def is_folder(path: Path) -> bool:
    """Whether there is such a folder. A name that no file system takes is that of none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def require_out_folder(out: Path) -> None:
    """Refuse an ``--out`` that cannot be a folder, before anything is computed for it."""
    try:
        if out.exists() and not out.is_dir():
            fail(f"--out: {out} is not a folder")
    except OSError as error:  # a name that is too long
        fail(f"--out: {str(out):.200}: {error.strerror or error}")


def named_methods(given: list[str] | None) -> list[str] | None:
    """The names that :data:`Methods` was given, in order; None for all methods."""
    names = [name.strip() for item in given or () for name in item.split(",")]
    return None if not names or "all" in names else names


def print_summary(summary: Mapping[str, Any], as_json: bool | None) -> None:
    """A command's result as one line of JSON, for programs: a person has read it above.

    Args:
        summary: JSON values.
        as_json: whether to; None: where stdout is no terminal.
    """
    if as_json or (as_json is None and not sys.stdout.isatty()):
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
                    tqdm.write(printable(f"{label}: {problem}"), file=sys.stderr)
            bar.update()

        yield advance
    show_more(label, problems)


def show_problems(label: str, problems: list[str]) -> None:
    """The first of a list of problems on stderr, and how many more there are."""
    for problem in problems[:SHOWN_PROBLEMS]:
        say(f"{label}: {problem}", file=sys.stderr)
    show_more(label, problems)


def show_more(label: str, problems: list[str]) -> None:
    """How many problems there are beyond those that were shown."""
    if len(problems) > SHOWN_PROBLEMS:
        print(f"{label}: {len(problems) - SHOWN_PROBLEMS} more like these", file=sys.stderr)
