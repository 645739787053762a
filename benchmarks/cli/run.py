"""``prunevid run``: one video and one question in, both answers, counts, times and a report out."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..support.terminal import (
    AsJson,
    Config,
    Device,
    LoraAlpha,
    ModelFolder,
    ReaderName,
    fail,
    print_summary,
    require_out_folder,
    say,
)

if TYPE_CHECKING:
    from ..run.run import RunResult

# Ends soon, or in the one line of an error.
_QUICK = ("Reading video and model",)
TOO_SMALL_TO_RACE = (
    "(where time goes; for what pruning saves in a model of real size: prunevid bench latency)"
)


def run_command(
    video: Annotated[
        Path | None,
        typer.Option(help="Video file, or folder of png or jpg frames.  [default: a sample clip]"),
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="What to ask about the video; required with --video.")
    ] = None,
    model: ModelFolder = None,
    lora_alpha: LoraAlpha = None,
    frames: Annotated[
        int | None, typer.Option(help="Number of frames to sample.  [default: the model's own]")
    ] = None,
    config: Config = None,
    out: Annotated[Path, typer.Option(help="Folder to write the report to.")] = Path(
        "prunevid-report"
    ),
    max_new_tokens: Annotated[
        int, typer.Option(help="Maximum length of an answer, in tokens.")
    ] = 16,
    device: Device = "auto",
    reader: ReaderName = "auto",
    as_json: AsJson = None,
) -> None:
    """Ask one question about one video, pruned and unpruned.

    Writes a report that shows where every token went.
    """
    require_out_folder(out)
    with _status("Starting"):
        from prunevid_kernels.adapters.families.video_model import ModelError, silence_transformers
        from prunevid_kernels.adapters.video.reader import VideoError

        from ..run.page import write_report
        from ..run.run import RunRequest, prepare, run
        from ..support.options import InputError, require_reader

        silence_transformers()
    try:
        request = RunRequest(
            video=video,
            question=question,
            model=model,
            lora_alpha=lora_alpha,
            frames=frames,
            config=tuple(config or ()),
            max_new_tokens=max_new_tokens,
            device=device,
            reader=require_reader(reader),
        )
        with _progress("Reading video and model"):
            inputs = prepare(request)
        result = run(inputs, _progress)
        with _progress("Drawing the report"):
            path = write_report(result, out)
    except (InputError, ModelError, VideoError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"--out: {error.filename or out}: {error.strerror or error}")
    _print_result(result, path)
    print_summary(result.summary() | {"report": str(path)}, as_json)


def _print_result(result: RunResult, report: Path) -> None:
    counts, model = result.counts, result.inputs.model
    taken, total = counts.frames, result.inputs.video.total_frames
    which = f"all {taken} frames" if taken == total else f"{taken} of {total} frames"
    visual, merged, kept = counts.visual_tokens, counts.merged_tokens, counts.kept_tokens
    where = "" if counts.layer is None else f", after layer {counts.layer} of {counts.num_layers}"
    say(f"model          {model.name}")
    if model.limits:
        say(f"               {model.limits}")
    summary = result.summary()
    source = " ".join(str(summary["video"]).split())
    segments = f"{counts.segments} segment{'' if counts.segments == 1 else 's'}"
    say(f"video          {source} ({which}, {segments})")
    if summary["reader_reason"]:
        say(f"               read by PyAV, not decord: {summary['reader_reason']}")
    say(f"question       {_hanging(result.inputs.question)}")
    guess = "" if result.knows_the_video else "   (a guess: the model does not know such videos)"
    say(f"answer         {_hanging(result.answer)}{guess}")
    say(f"unpruned       {_hanging(result.unpruned_answer)}{guess}")
    say(
        f"visual tokens  {visual} -> {merged} merged ({merged / visual:.1%})"
        f" -> {kept} kept ({kept / visual:.1%}{where})"
    )
    if kept == visual:
        say("               WARNING: nothing was pruned with this config")
    say(
        f"FLOPs          {result.flops_ratio_exact:.1%} of the unpruned prompt's"
        f" ({result.flops_ratio_paper:.1%} by the paper's formula)"
    )
    for stage, seconds in result.seconds.items():
        unpruned = result.unpruned_seconds.get(stage) if result.times_compare else None
        beside = "" if unpruned is None else f"   (unpruned {unpruned:.3f} s)"
        say(f"  {stage:<28}{seconds:8.3f} s{beside}")
    if not result.times_compare:
        say(f"               {TOO_SMALL_TO_RACE}")
    say(f"report         {report}")


def _hanging(text: str) -> str:
    """A text of several lines, which must not be taken for lines of this program."""
    return "\n               ".join(text.splitlines())


@contextmanager
def _progress(text: str) -> Iterator[None]:
    """A spinner while the block runs; a line with its time once it is done. Where no spinner can be
    seen a line says what begins: a large model takes minutes for one answer."""
    start = time.perf_counter()
    if not sys.stderr.isatty() and text not in _QUICK:
        say(f"{text} ...", file=sys.stderr)
    with _status(text):
        yield
    say(f"{text}: {time.perf_counter() - start:.1f} s", file=sys.stderr)


@contextmanager
def _status(text: str) -> Iterator[None]:
    """A spinner on stderr, where that is a terminal."""
    from rich.console import Console

    with Console(stderr=True, highlight=False).status(f"{text} ..."):
        yield
