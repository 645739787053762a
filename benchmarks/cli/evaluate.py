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

from ..support.terminal import AsJson, fail, print_summary, progress_bar, show_problems

if TYPE_CHECKING:
    from ..datasets.sample import Questions, Sample

eval_app = typer.Typer(
    help="Accuracy on the paper's benchmarks.", no_args_is_help=True, rich_markup_mode=None
)
DATA_ROOT = Path("DATAS")
DATASET_NAMES = ("mvbench", "videomme", "egoschema", "vcgbench", "synthetic")


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
            help="NAME[,NAME...], or all; may be repeated.  [default: prunevid]",
        ),
    ] = None,
    retain: Annotated[
        str | None,
        typer.Option(
            help="Shares of the visual tokens, such as 0.1,0.2,0.3: each method runs at each, set"
            " by its own knob (prunevid methods)."
        ),
    ] = None,
    data_root: Annotated[Path, typer.Option(help="Folder of the data sets.")] = DATA_ROOT,
    config: Annotated[
        list[str] | None,
        typer.Option(help="FILE.json or key=value, an option of the methods; may be repeated."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="Values of options to try, such as 'alpha=0.2,0.4;tau=0.7,0.8' for four runs:"
            " alpha (keep_ratio), tau, layer, segment_ratio, cluster_ratio; may be repeated."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Most questions of each task.")] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames of each video.  [default: the model's]")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest answer.  [default: the benchmark's]")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("prunevid-eval"),
    resume: Annotated[bool, typer.Option("--resume", help="Resume the runs in --out.")] = False,
    extractor: Annotated[
        str, typer.Option(help="How answers are read: strict, or released as published.")
    ] = "strict",
    judge_url: Annotated[
        str | None, typer.Option(help="vcgbench: OpenAI-compatible endpoint of the judge.")
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="vcgbench: the judge's name there.")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="egoschema: ask hidden questions too, write a .csv or .json submission."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1 ...; auto takes a GPU where there is one.")
    ] = "auto",
    lora_alpha: Annotated[
        float | None, typer.Option(help="For a checkpoint whose LoRA is not merged.")
    ] = None,
    as_json: AsJson = False,
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
        from ..accuracy.terms import parse_shares

        silence_transformers()
        request = EvaluationRequest(
            benchmark=benchmark,
            data_root=data_root,
            model=model,
            methods=methods,
            config=tuple(config or ()),
            sweeps=tuple(sweep or ()),
            retain=parse_shares(retain) if retain else (),
            limit=limit,
            frames=frames,
            max_new_tokens=max_new_tokens,
            with_hidden=export is not None,
            out=out,
            resume=resume,
            device=device,
            lora_alpha=lora_alpha,
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
            _print_table(folders, questions, extractor, as_json)


def judge_command(
    run: Annotated[list[Path], typer.Argument(help="Folders of VCG-Bench runs.")],
    judge_url: Annotated[str, typer.Option(help="OpenAI-compatible endpoint of the judge.")],
    judge_model: Annotated[str, typer.Option(help="The judge's name there.")],
    data_root: Annotated[Path, typer.Option(help="Folder of the data sets.")] = DATA_ROOT,
    as_json: AsJson = False,
) -> None:
    """Score the answers of VCG-Bench runs; needs no video model, goes on where it was stopped."""
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
            help="videomme: the official parquet file or its folder;"
            " egoschema: the folder of questions.json and subset_answers.json."
        ),
    ],
    data_root: Annotated[Path, typer.Option(help="Folder of the data sets.")] = DATA_ROOT,
    as_json: AsJson = False,
) -> None:
    """Convert official question files; MVBench and VCG-Bench are used as they are published."""
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
    print(f"{count} questions in {len(files)} file(s)")
    print_summary({"files": [str(file) for file in files], "questions": count}, as_json)


for _name in DATASET_NAMES:
    eval_app.command(_name, help=f"Evaluate on {_name}.")(evaluate_command)
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


def _export(folder: Path, extractor: str, file: Path) -> None:
    from ..accuracy.evaluation import write_submission
    from ..accuracy.run_log import read_run

    guesses = write_submission(read_run(folder), extractor, file)
    if guesses:
        print(f"--export: {guesses} unread answers stand as option 0 in {file}", file=sys.stderr)


def _print_table(
    folders: Sequence[Path], questions: Questions, extractor: str, as_json: bool
) -> None:
    """The table, then everything in it as one line of JSON."""
    from ..accuracy.run_log import read_run
    from ..report.summary import compare, comparison_lines, scores_markdown, summarise

    runs = [read_run(folder) for folder in folders]
    rows = [summarise(run, extractor) for run in runs]
    compared = [compare(runs[0], run, extractor) for run in runs[1:]]
    comparisons = [item for item in compared if item is not None]
    print(scores_markdown(rows))
    if comparisons:
        print("\n" + comparison_lines(comparisons))
    result = {
        "extractor": extractor,
        "rows": [asdict(row) for row in rows],
        "comparisons": [asdict(item) for item in comparisons],
        "bad_rows": len(questions.problems),
        "runs": [str(folder) for folder in folders],
    }
    print_summary(result, as_json)
