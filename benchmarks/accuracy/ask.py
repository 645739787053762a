"""Asking a model a benchmark's questions, one line of the log for each.

A video that cannot be read, or a question that makes no prompt, is noted in the log with the reason
and left out; whatever else goes wrong is a bug and stops the run, which can be resumed. Answers to
multiple-choice questions are read by every extractor at once, so that choosing another one later
costs nothing. Seconds are of single passes, to see where time goes; ``prunevid bench latency``
measures. The vision side of a video runs once for all methods and questions that look at it; its
time, measured then, is part of the time of each of them.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from prunevid_kernels.adapters import (
    ModelError,
    PruneCall,
    VideoModel,
    apply_method,
    share_vision,
)
from prunevid_kernels.adapters.methods.registry import find_method
from prunevid_kernels.adapters.methods.sharing import SharedVision
from prunevid_kernels.adapters.video.reader import VideoError

from ..cost.flops.methods import sample_flops
from ..datasets.frames import take_frames
from ..datasets.registry import DATASETS, Scoring
from ..datasets.sample import LETTERS, Sample
from ..support.terminal import Advance
from .extract import EXTRACTORS, is_word
from .plan import Plan
from .protocol import prompt
from .run_log import LineWriter, Record


@dataclass(frozen=True)
class Asking:
    """A run that is under way.

    Attributes:
        plan: the pruning method.
        settings: of the run: ``benchmark``, which decides the prompt; how many ``frames`` to take,
            by which ``sampling`` and with which ``reader``; options of ``generate`` under
            ``generation``.
        log: takes its records.
        done: ids of the questions that need no asking.
    """

    plan: Plan
    settings: Mapping[str, Any]
    log: LineWriter
    done: frozenset[str] = frozenset()


def answer_questions(
    model: VideoModel, runs: Sequence[Asking], samples: Iterable[Sample], advance: Advance
) -> None:
    """Ask every question of ``samples`` in every run and log what comes of it.

    Question by question, so that what a method does not change is done once: reading and
    preprocessing the video, and the model's vision side (:func:`..adapters.share_vision`). The runs
    also meet the same load of the machine then. Times are given as if each run were alone.

    Args:
        advance: called after each answer that is on disk.
    """
    clock = _clock(model)
    with share_vision(model.model, clock.read) as shared:
        for sample in samples:
            prompts: dict[int, _Prompt | str] = {}
            for run in runs:
                if sample.id in run.done:
                    continue
                frames = run.settings["frames"]
                if frames not in prompts:
                    prompts[frames] = _prompt(model, run.settings, sample, clock)
                record = _record(model, run, sample, prompts[frames], shared, clock)
                run.log.write(record)
                advance(record.skipped)


def question_options(plan: Plan, question: str) -> dict[str, Any]:
    """The method's options for one question, by its id: what draws at random draws anew for each,
    and the same again whenever that is asked."""
    defaults = find_method(plan.method).defaults
    if "seed" not in defaults:
        return plan.options
    seed = plan.options.get("seed", defaults["seed"])
    return {**plan.options, "seed": zlib.crc32(f"{seed} {question}".encode())}


class _Clock(NamedTuple):
    """What times are taken by: its name in the log, and what gives seconds."""

    name: Literal["wall", "processor"]
    read: Callable[[], float]


def _clock(model: VideoModel) -> _Clock:
    """On one thread of a CPU the processor's time, which does not count what other programs do on
    the machine; elsewhere the time that passes."""
    if model.model.device.type == "cpu" and torch.get_num_threads() == 1:
        return _Clock("processor", time.process_time)
    return _Clock("wall", time.perf_counter)


@dataclass(frozen=True)
class _Prompt:
    """A question with its video, as the model takes it, and how long that took."""

    inputs: dict[str, Tensor]
    reader: str
    read_s: float
    encode_s: float


def _prompt(
    model: VideoModel, settings: Mapping[str, Any], sample: Sample, clock: _Clock
) -> _Prompt | str:
    """The prompt, or why there is none."""
    try:
        start = clock.read()
        taken = take_frames(
            sample.video, settings["frames"], settings["sampling"], settings["reader"]
        )
        read = clock.read()
        words = prompt(model.family, settings["benchmark"], sample)
        inputs = model.encode(
            taken.frames,
            words.question,
            system=words.system,
            answer_prefix=words.answer_prefix,
            seconds=taken.seconds,
        )
        return _Prompt(inputs, taken.reader, read - start, clock.read() - read)
    except (VideoError, ModelError) as error:
        return str(error)


def _record(
    model: VideoModel,
    run: Asking,
    sample: Sample,
    asked: _Prompt | str,
    shared: SharedVision,
    clock: _Clock,
) -> Record:
    if isinstance(asked, str):
        return Record(sample.id, sample.task, gold=sample.gold_text, skipped=asked)
    spared = shared.saved_s
    start = clock.read()
    options = question_options(run.plan, sample.id)
    with (
        apply_method(model.model, run.plan.method, options) as handle,
        _first_pass(model.model, clock) as passed,
    ):
        begun = clock.read()
        response = model.generate(asked.inputs, **run.settings["generation"])
    done = clock.read()
    spared = shared.saved_s - spared
    call = _one_prompt(handle.report.last)
    scoring = DATASETS[run.settings["benchmark"]].scoring
    predictions, correct = read_answer(scoring, sample, response)
    return Record(
        id=sample.id,
        task=sample.task,
        reader=asked.reader,
        response=response,
        gold=sample.gold_text,
        predictions=predictions,
        correct=correct,
        tokens_before=call.tokens_before,
        tokens_merged=call.tokens_merged,
        tokens_kept=call.tokens_kept,
        tokens_text=call.other_tokens[0],
        layers_ratio=fmean(call.retained_ratio_per_layer),
        cached_ratio=call.cached_ratio,
        flops=sample_flops(call, model.shape).as_dict(),
        seconds={
            "read": asked.read_s,
            "encode": asked.encode_s,
            "generate": done - start + spared,
        },
        first_token_ms=1e3 * (passed[0] - begun + spared) if passed else None,
        clock=clock.name,
    )


@contextmanager
def _first_pass(model: nn.Module, clock: _Clock) -> Iterator[list[float]]:
    """Holds, at the end of the block, when the first forward call of a model was over; nothing
    where there was none."""
    times: list[float] = []

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if not times:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(clock.read())

    hook = model.register_forward_hook(after)
    try:
        yield times
    finally:
        hook.remove()


def _one_prompt(call: PruneCall) -> PruneCall:
    """What a question cost once: ``generate`` repeats its prompt for each beam."""
    return replace(
        call,
        videos=tuple(video for video in call.videos if video.prompt == 0),
        other_tokens=call.other_tokens[:1],
        image_tokens=call.image_tokens[:1],
        cached_tokens=call.cached_tokens[:1],
    )


def read_answer(
    scoring: Scoring, sample: Sample, response: str
) -> tuple[dict[str, str | None], dict[str, bool]]:
    """What a response means and whether that is right, by each way of reading it.

    Both are empty where a judge decides, the second also where the right answer is hidden.
    """
    if scoring == "judge":
        return {}, {}
    if scoring == "word":
        return {"word": response}, {"word": is_word(response, str(sample.gold))}
    accepted = {name: find(response, sample.options) for name, find in EXTRACTORS.items()}
    predictions = {n: LETTERS[found[0]] if found else None for n, found in accepted.items()}
    if sample.gold is None:
        return predictions, {}
    return predictions, {name: sample.gold in found for name, found in accepted.items()}
