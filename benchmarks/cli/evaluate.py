"""``prunevid eval``: one command for each benchmark, and what goes with them.

The table goes to stdout; bars, skipped videos and errors go to stderr. Of
several processes the first one prints, once all are done.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from .data import DATA_ROOT, check_command, prepare_command

if TYPE_CHECKING:
    from ..datasets.sample import Questions, Sample

eval_app = typer.Typer(
    help="Measure accuracy on benchmarks, by any method.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
# The first sentence is the summary among the commands.
DATASETS = {
    "mvbench": "MVBench: choices about short videos, 20 tasks.",
    "videomme": "Video-MME: choices about videos of up to an hour.",
    "egoschema": "EgoSchema: choices about three minutes in first person.",
    "vcgbench": "VCG-Bench: open questions, scored by a judge model.",
    "synthetic": "Generated clips: one-word questions, no data needed.",
    "synthetic_hard": "Harder generated clips of 16 frames.",
    "synthetic_long": "The same kind in 32 frames, in which more happens.",
}
_ON_DISK = ("mvbench", "videomme", "egoschema", "vcgbench")
# Options that only some data sets have a use for; the help of the others does not show them.
_ONLY_FOR = {
    "data_root": _ON_DISK,
    "reader": _ON_DISK,
    "extractor": ("mvbench", "videomme", "egoschema"),
    "judge_url": ("vcgbench",),
    "judge_model": ("vcgbench",),
    "export": ("egoschema",),
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
        int | None,
        typer.Option(
            help="Ask at most so many questions of each task, of which a benchmark has several:"
            " --limit 10 asks 200 of MVBench's 20 tasks.  [default: all]"
        ),
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
        str | None, typer.Option(help="OpenAI-compatible endpoint of the judge.")
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="Name of the judge's model there.")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Also ask the questions whose answers are hidden, and write all"
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
        from ..datasets.sample import DatasetError
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
        try:
            questions = load_questions(
                benchmark, data_root, limit=limit, with_hidden=export is not None
            )
        except DatasetError as error:
            check = f"prunevid eval check {benchmark} --data-root {data_root}"
            fail(f"{error}; `{check}` lists everything that is missing")
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
    """Have a judge model score runs of VCG-Bench. Continues where it was stopped."""
    with _user_errors():
        from ..accuracy.evaluation import load_questions

        questions = load_questions("vcgbench", data_root)
        _judge(run, questions.samples, judge_url, judge_model)
        _print_table(run, questions, "strict", as_json)


def _command_of(dataset: str) -> Callable[..., None]:
    """:func:`evaluate_command` with the options hidden that the data set has no use for."""
    signature = inspect.signature(evaluate_command, eval_str=True)

    def shown(parameter: inspect.Parameter) -> inspect.Parameter:
        if dataset in _ONLY_FOR.get(parameter.name, DATASETS):
            return parameter
        (option,) = parameter.annotation.__metadata__
        hidden = copy(option)
        hidden.hidden = True
        return parameter.replace(annotation=Annotated[parameter.annotation.__origin__, hidden])

    @wraps(evaluate_command)
    def command(**given: Any) -> None:
        evaluate_command(**given)

    parameters = [shown(parameter) for parameter in signature.parameters.values()]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


eval_app.command("check")(check_command)
eval_app.command("prepare")(prepare_command)
for _name, _help in DATASETS.items():
    eval_app.command(_name, help=f"{_help}\n\n{evaluate_command.__doc__}")(_command_of(_name))
eval_app.command("judge")(judge_command)


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
    skipped = max(row.skipped for row in rows)
    name = runs[0].settings["benchmark"]
    if skipped and name in _ON_DISK:
        say(
            f"{skipped} questions were skipped; `prunevid eval check {name} --read`, with this"
            " --data-root, lists every video that is missing or unreadable",
            file=sys.stderr,
        )
    print_summary(result, as_json)
