"""``prunevid eval``: one command for each benchmark, with the same options, and ``prepare``.

The table goes to stdout; bars, skipped videos and errors go to stderr. Of
several processes the first one prints, once all are done.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..support.terminal import (
    AsJson,
    Config,
    DataRoot,
    Device,
    Extractor,
    LoraAlpha,
    ReaderName,
    fail,
    print_summary,
    progress_bar,
    require_out_folder,
    say,
    show_problems,
)

if TYPE_CHECKING:
    from ..datasets.sample import Questions, Sample

eval_app = typer.Typer(
    help="Measure accuracy on the paper's benchmarks.", no_args_is_help=True, rich_markup_mode=None
)
DATA_ROOT = Path("DATAS")
DATASETS = {
    "mvbench": "MVBench: 20 tasks of multiple-choice questions about short videos.",
    "videomme": "Video-MME: multiple-choice questions about short, medium and long videos.",
    "egoschema": "EgoSchema: multiple-choice questions about three-minute first-person videos.",
    "vcgbench": "VCG-Bench: open questions, scored from 0 to 5 by a judge model.",
    "synthetic": "Generated clips: one-word questions that the embedded model can answer; no data.",
    "synthetic_hard": "Harder generated clips of 16 frames, with an embedded model of their own.",
    "synthetic_long": "The same kind of clips in 32 frames, in which more happens.",
}


def evaluate_command(
    context: typer.Context,
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint folder.  [default: the embedded model]")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "--methods",
            help="Method to evaluate: NAME[,NAME...], or all; may be repeated."
            "  [default: prunevid]",
        ),
    ] = None,
    retain: Annotated[
        str | None,
        typer.Option(
            help="Shares of the visual tokens to keep, such as 0.1,0.2,0.3: each method runs at"
            " each, set by its own option (see prunevid methods)."
        ),
    ] = None,
    more_frames: Annotated[
        str | None,
        typer.Option(
            help="With --retain: ask again with so many times the frames, such as 2,4, at that part"
            " of each share: the same number of tokens from more frames."
        ),
    ] = None,
    data_root: DataRoot = DATA_ROOT,
    config: Config = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="Option values to try, such as 'alpha=0.2,0.4;tau=0.7,0.8' for four runs. Known:"
            " alpha (keep_ratio), tau, layer, segment_ratio, cluster_ratio; may be repeated."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Maximum number of questions per task.  [default: all]")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Number of frames per video.  [default: the model's own]")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(help="Maximum length of an answer, in tokens.  [default: the benchmark's]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write the runs to.")] = Path("prunevid-eval"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the unfinished runs in --out.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write prunevid report's table, page and plots to this folder."),
    ] = None,
    extractor: Extractor = "strict",
    judge_url: Annotated[
        str | None, typer.Option(help="vcgbench only: OpenAI-compatible endpoint of the judge.")
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="vcgbench only: name of the judge's model there.")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            help="egoschema only: also ask the questions whose answers are hidden, and write all"
            " answers to this .csv or .json file for submission."
        ),
    ] = None,
    device: Device = "auto",
    lora_alpha: LoraAlpha = None,
    reader: ReaderName = "auto",
    as_json: AsJson = None,
) -> None:
    """Ask the questions, read the answers, print the score beside the published one."""
    benchmark = str(context.info_name)
    methods = tuple(name.strip() for item in method or ["prunevid"] for name in item.split(","))
    is_one_run = len(methods) == 1 and methods != ("all",) and not sweep and not retain
    if export is not None and (benchmark != "egoschema" or not is_one_run):
        fail("--export belongs to egoschema, with one method and no sweep")
    if (judge_url or judge_model) and benchmark != "vcgbench":
        fail("--judge-url and --judge-model belong to vcgbench")
    if bool(judge_url) != bool(judge_model):
        fail("--judge-url and --judge-model are needed together")

    from ..accuracy.extract import EXTRACTORS

    if extractor not in EXTRACTORS:
        fail(f"--extractor must be one of {', '.join(EXTRACTORS)}, got {extractor!r}")
    if report is not None:
        require_out_folder(report)
    with _user_errors():
        from prunevid_kernels.adapters.families.video_model import silence_transformers

        from ..accuracy.evaluation import (
            EvaluationRequest,
            evaluate,
            load_questions,
            require_complete,
        )
        from ..accuracy.ranks import Ranks
        from ..accuracy.run_log import read_run
        from ..accuracy.terms import parse_multiples, parse_shares
        from ..support.options import require_reader

        silence_transformers()
        request = EvaluationRequest(
            benchmark=benchmark,
            data_root=data_root,
            model=model,
            methods=methods,
            config=tuple(config or ()),
            sweeps=tuple(sweep or ()),
            retain=parse_shares(retain) if retain else (),
            more_frames=parse_multiples(more_frames) if more_frames else (),
            limit=limit,
            frames=frames,
            max_new_tokens=max_new_tokens,
            with_hidden=export is not None,
            out=out,
            resume=resume,
            device=device,
            lora_alpha=lora_alpha,
            reader=require_reader(reader),
        )
        ranks = Ranks.from_environment()
        questions = load_questions(
            benchmark, data_root, limit=limit, with_hidden=export is not None
        )
        if ranks.rank == 0:
            show_problems(benchmark, questions.problems)

        def tell(line: str) -> None:
            if ranks.rank == 0:
                print(line, file=sys.stderr)

        folders = evaluate(request, questions, ranks, progress_bar, tell)
        if ranks.is_last():
            for folder in folders:
                require_complete(read_run(folder), questions.samples)
            if judge_url and judge_model:
                _judge(folders, questions.samples, judge_url, judge_model)
            if export is not None:
                _export(folders[0], extractor, export)
            if report is not None:
                _write_report(folders, extractor, report)
            _print_table(folders, questions, extractor, as_json)


def judge_command(
    run: Annotated[list[Path], typer.Argument(help="Run folders of prunevid eval vcgbench.")],
    judge_url: Annotated[str, typer.Option(help="OpenAI-compatible endpoint of the judge.")],
    judge_model: Annotated[str, typer.Option(help="Name of the judge's model there.")],
    data_root: DataRoot = DATA_ROOT,
    as_json: AsJson = None,
) -> None:
    """Have a judge score the answers of VCG-Bench runs; continues where it was stopped."""
    with _user_errors():
        from ..accuracy.evaluation import load_questions

        questions = load_questions("vcgbench", data_root)
        _judge(run, questions.samples, judge_url, judge_model)
        _print_table(run, questions, "strict", as_json)


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
    """Convert the official question files; MVBench and VCG-Bench are used as published."""
    with _user_errors():
        from ..accuracy.evaluation import load_questions
        from ..datasets.egoschema import prepare_egoschema
        from ..datasets.videomme import prepare_videomme

        converters = {"videomme": prepare_videomme, "egoschema": prepare_egoschema}
        if dataset not in converters:
            fail(f"prepare knows {' and '.join(converters)}, not {dataset!r}")
        files = converters[dataset](source, data_root)
        questions = load_questions(dataset, data_root, with_hidden=True)
    show_problems(dataset, questions.problems)
    count = len(questions.samples)
    say(f"{count} questions in {len(files)} file(s)")
    print_summary({"files": [str(file) for file in files], "questions": count}, as_json)


for _name, _help in DATASETS.items():
    eval_app.command(_name, help=_help)(evaluate_command)
eval_app.command("judge")(judge_command)
eval_app.command("prepare")(prepare_command)


@contextmanager
def _user_errors() -> Iterator[None]:
    """What the user can put right ends in one line; every other error keeps its traceback."""
    from prunevid_kernels.adapters.families.video_model import ModelError

    from ..accuracy.evaluation import EvaluationError
    from ..accuracy.judge import JudgeError
    from ..accuracy.plan import PlanError
    from ..accuracy.run_log import RunLogError
    from ..datasets.sample import DatasetError
    from ..support.options import InputError

    try:
        yield
    except (
        DatasetError,
        PlanError,
        EvaluationError,
        JudgeError,
        ModelError,
        InputError,
        RunLogError,
    ) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _judge(folders: Sequence[Path], samples: Sequence[Sample], url: str, model: str) -> None:
    from ..accuracy.judge import judge
    from ..accuracy.run_log import read_run

    for folder in folders:
        judge(read_run(folder), samples, url, model, progress_bar)


def _write_report(folders: Sequence[Path], extractor: str, out: Path) -> None:
    from ..report.page import write_paper_report
    from ..report.table import build_table

    page = write_paper_report(build_table(folders, extractor), out)[0]
    say(f"{page}\n")


def _export(folder: Path, extractor: str, file: Path) -> None:
    from ..accuracy.evaluation import write_submission
    from ..accuracy.run_log import read_run

    guesses = write_submission(read_run(folder), extractor, file)
    if guesses:
        say(f"--export: {guesses} unread answers stand as option 0 in {file}", file=sys.stderr)


def _print_table(
    folders: Sequence[Path], questions: Questions, extractor: str, as_json: bool | None
) -> None:
    """The table, then everything in it as one line of JSON."""
    from ..accuracy.run_log import read_run
    from ..report.summary import compare, comparison_lines, scores_markdown, summarise

    runs = [read_run(folder) for folder in folders]
    rows = [summarise(run, extractor) for run in runs]
    compared = [compare(runs[0], run, extractor) for run in runs[1:]]
    comparisons = [item for item in compared if item is not None]
    say(scores_markdown(rows))
    if comparisons:
        say("\n" + comparison_lines(comparisons))
    result = {
        "extractor": extractor,
        "rows": [asdict(row) for row in rows],
        "comparisons": [asdict(item) for item in comparisons],
        "bad_rows": len(questions.problems),
        "runs": [str(folder) for folder in folders],
    }
    print_summary(result, as_json)
