"""``prunevid eval check`` and ``eval prepare``: the benchmarks' files, before anything is asked.

The check prints everything that is missing to stdout and ends in exit code 1 where anything is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..support.terminal import (
    SHOWN_PROBLEMS,
    AsJson,
    DataRoot,
    ReaderName,
    fail,
    print_summary,
    progress_bar,
    say,
    show_problems,
)

if TYPE_CHECKING:
    from ..datasets.check import DatasetCheck, Videos
    from ..datasets.registry import OnDisk

DATA_ROOT = Path("DATAS")


def check_command(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(
            help="mvbench, videomme, egoschema or vcgbench; several may be named.  [default: all]",
            show_default=False,
        ),
    ] = None,
    data_root: DataRoot = DATA_ROOT,
    read: Annotated[
        bool,
        typer.Option(
            "--read", help="Also read the first and the last frame that each question asks for."
        ),
    ] = False,
    reader: ReaderName = "auto",
    as_json: AsJson = None,
) -> None:
    """List everything that is missing under --data-root. Exit code 1 if anything is.

    Finds question files and videos as an evaluation does: docs/data.md has the tree and the
    sources.
    """
    from ..datasets.check import check_dataset, on_disk
    from ..datasets.registry import DATASETS
    from ..support.options import InputError, require_reader

    names = datasets or [name for name, dataset in DATASETS.items() if dataset.on_disk]
    try:
        layouts = {name: on_disk(name) for name in names}
        used_reader = require_reader(reader)
    except InputError as error:
        fail(str(error))
    except ValueError as error:
        fail(f"eval check: {error}")
    progress = progress_bar if read else None
    try:
        checks = [check_dataset(name, data_root, progress, used_reader) for name in layouts]
    except OSError as error:
        fail(f"{error.filename or data_root}: {error.strerror or error}")
    for check in checks:
        _print_check(check, layouts[check.name])
    is_complete = all(check.is_complete for check in checks)
    if is_complete:
        part = [check.name for check in checks if check.left_out]
        two = [check.name for check in checks if check.contradictions]
        of = f", but the files hold a part of the questions of {', '.join(part)}" if part else ""
        of += f", but questions contradict each other in {', '.join(two)}" if two else ""
        say(f"complete{of}")
    else:
        say(f"NOT complete: {', '.join(check.name for check in checks if not check.is_complete)}")
    result = {
        "data_root": str(data_root),
        "is_complete": is_complete,
        "datasets": {check.name: check.as_dict() for check in checks},
    }
    print_summary(result, as_json)
    if not is_complete:
        raise typer.Exit(1)


def prepare_command(
    dataset: Annotated[str, typer.Argument(help="videomme or egoschema.")],
    source: Annotated[
        Path,
        typer.Argument(
            help="videomme: the official parquet file, or its folder;"
            " egoschema: the folder with questions.json and subset_answers.json."
        ),
    ],
    data_root: DataRoot = DATA_ROOT,
    as_json: AsJson = None,
) -> None:
    """Convert the official files of Video-MME or EgoSchema. The others need nothing."""
    from ..datasets.registry import DATASETS
    from ..datasets.sample import DatasetError

    known = {
        name: entry.on_disk.prepare
        for name, entry in DATASETS.items()
        if entry.on_disk and entry.on_disk.prepare
    }
    if dataset not in known:
        fail(f"prepare knows {' and '.join(known)}, not {dataset!r}")
    try:
        files = known[dataset].write(source, data_root)
        questions = DATASETS[dataset].load(data_root)
    except DatasetError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    show_problems(dataset, questions.problems)
    count = len(questions.samples)
    say(f"{count} questions in {len(files)} file(s)")
    say(f"next: prunevid eval check {dataset} --data-root {data_root}")
    print_summary({"files": [str(file) for file in files], "questions": count}, as_json)


def _print_check(check: DatasetCheck, layout: OnDisk) -> None:
    say(f"{check.name}: {check.folder}")
    if not check.is_there:
        say("    no such folder")
    else:
        say(f"    question files  {check.whole_files} of {check.files}{_published(check, layout)}")
        _print_lines(check.file_problems)
        if check.row_problems:
            say(f"    bad questions   {len(check.row_problems)}, which an evaluation leaves out")
            _print_lines(check.row_problems)
        if check.contradictions:
            say(f"    contradictions  {len(check.contradictions)}: two answers to one question")
            _print_lines(check.contradictions)
        _print_videos("videos          ", check.videos)
        if check.hidden_questions:
            _print_videos("hidden answers  ", check.hidden_videos)
            say("                    asked for with --export only; not counted as missing")
    if check.file_problems and layout.prepare:
        say(f"    next            prunevid eval prepare {check.name} SOURCE, SOURCE being")
        say(f"                    {layout.prepare.source}")
    elif not check.is_complete:
        say("    next            docs/data.md says where the files come from and where they go")


def _published(check: DatasetCheck, layout: OnDisk) -> str:
    found = check.questions + check.hidden_questions
    if not found:
        return ""
    of = "" if layout.questions in (None, found) else f" of {layout.questions:,} that are published"
    return f", {found:,} questions{of}"


def _print_videos(label: str, videos: Videos) -> None:
    there = videos.count - len(videos.missing)
    bad = f", {len(videos.unreadable):,} of them unreadable" if videos.unreadable else ""
    say(f"    {label}{there:,} of {videos.count:,}{bad}")
    for found in (videos.missing, videos.unreadable):
        _print_lines(
            [
                f"{problem} ({questions} question{'' if questions == 1 else 's'})"
                for _, problem, questions in found
            ]
        )


def _print_lines(problems: list[str]) -> None:
    """The first ones; ``--json`` has them all."""
    for problem in problems[:SHOWN_PROBLEMS]:
        say(f"        {problem}")
    if len(problems) > SHOWN_PROBLEMS:
        say(f"        {len(problems) - SHOWN_PROBLEMS:,} more like these (--json lists them all)")
