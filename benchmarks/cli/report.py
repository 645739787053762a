"""``prunevid report``: runs and latency files in, the paper's table and its pictures out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..support.terminal import AsJson, Extractor, fail, print_summary, require_out_folder, say


def report_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders of prunevid eval, or folders that hold some; latency.json files, or"
            " their folders; results of on_gpu."
        ),
    ],
    extractor: Extractor = "strict",
    out: Annotated[Path, typer.Option(help="Folder to write the report to.")] = Path(
        "prunevid-paper"
    ),
    as_json: AsJson = None,
) -> None:
    """Combine runs into the paper's table, with plots.

    Published numbers stand beside the measured ones and their intervals.
    """
    from ..accuracy.extract import EXTRACTORS
    from ..accuracy.run_log import RunLogError
    from ..report.page import report_markdown, write_paper_report
    from ..report.table import ReportError, build_table

    if extractor not in EXTRACTORS:
        fail(f"--extractor must be one of {', '.join(EXTRACTORS)}, got {extractor!r}")
    require_out_folder(out)
    try:
        table = build_table(runs, extractor)
        files = write_paper_report(table, out)
    except (ReportError, RunLogError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror or error}")
    say(report_markdown(table))
    print_summary({"report": str(files[0]), "files": [str(file) for file in files]}, as_json)
