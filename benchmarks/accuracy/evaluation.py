"""``prunevid eval`` without its command line: questions, model, runs, table.

Everything that the user gave is checked before the first question is asked, the options of the last
run of a sweep included. A run is a folder of its own below ``--out``, named for benchmark, model,
method and options, so that runs of any day can lie side by side and be compared.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prunevid_kernels.adapters import (
    NothingPrunedWarning,
    VideoModel,
    apply_method,
    load_video_model,
)
from prunevid_kernels.adapters.methods.registry import find_method
from prunevid_kernels.adapters.video.reader import Reader

from ..datasets.registry import DATASETS
from ..datasets.sample import LETTERS, Questions, Sample
from ..embedded import model as embedded_model
from ..support.environment import describe
from ..support.options import PAPER_LAYER, parse_config, resolve_device
from ..support.terminal import Progress
from .ask import Asking, answer_questions
from .plan import ALL, Plan, plan_runs
from .protocol import protocol
from .ranks import Ranks
from .run_log import Run, append_lines, check_settings, open_run, read_run, samples_file
from .terms import at_shares, with_more_frames


class EvaluationError(ValueError):
    """An evaluation that cannot begin; the message is one line."""


@dataclass(frozen=True)
class EvaluationRequest:
    """What the user asked for.

    Attributes:
        benchmark: name in :data:`..datasets.registry.DATASETS`.
        data_root: folder of the data sets.
        model: checkpoint folder; None: the embedded model.
        methods: names of pruning methods.
        config: options of the methods, see :func:`..support.options.parse_config`.
        sweeps: values of options to try, see :func:`.plan.plan_runs`.
        retain: shares of the visual tokens, see :mod:`.terms`; every method at each of them.
        more_frames: multiples of the frames that are asked about as well, at that part of each
            share, see :func:`.terms.with_more_frames`.
        limit: most questions of each task; None: all.
        frames, max_new_tokens: instead of the protocol's.
        with_hidden: ask questions whose answers are hidden as well.
        out: folder of the runs.
        resume: go on with runs that are there.
        device: a torch device, "auto": this process's GPU where there is one.
        lora_alpha: for a checkpoint whose LoRA is not merged.
        reader: what reads video files, see :func:`..adapters.video.reader.read_video`.

    Raises:
        EvaluationError: a number below 1; ``more_frames`` without ``retain``.
    """

    benchmark: str
    data_root: Path
    model: Path | None = None
    methods: tuple[str, ...] = ("prunevid",)
    config: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = ()
    retain: tuple[float, ...] = ()
    more_frames: tuple[int, ...] = ()
    limit: int | None = None
    frames: int | None = None
    max_new_tokens: int | None = None
    with_hidden: bool = False
    out: Path = Path("prunevid-eval")
    resume: bool = False
    device: str = "auto"
    lora_alpha: float | None = None
    reader: Reader = "auto"

    def __post_init__(self) -> None:
        for name in ("limit", "frames", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = "--" + name.replace("_", "-")
                raise EvaluationError(f"{option} must be an integer >= 1, got {value}")
        if self.more_frames and not self.retain:
            raise EvaluationError("--more-frames needs --retain: it keeps the number of tokens")


def load_questions(
    benchmark: str, data_root: Path, *, limit: int | None = None, with_hidden: bool = False
) -> Questions:
    """The questions that a run asks: of each task at most ``limit``, those with hidden answers only
    where they are wanted.

    Raises:
        DatasetError: the benchmark's files cannot be used.
        EvaluationError: nothing is left.
    """
    loaded = DATASETS[benchmark].load(data_root)
    samples: list[Sample] = []
    taken: Counter[str] = Counter()
    for sample in loaded.samples:
        is_wanted = with_hidden or sample.gold is not None
        if is_wanted and (limit is None or taken[sample.task] < limit):
            taken[sample.task] += 1
            samples.append(sample)
    if not samples:
        raise EvaluationError(f"{benchmark}: no answer is public; --export asks all questions")
    return Questions(samples, loaded.problems)


def evaluate(
    request: EvaluationRequest,
    questions: Questions,
    ranks: Ranks,
    progress: Progress,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Ask this process's share of the questions in every run.

    Args:
        request: what the user asked for.
        questions: of the benchmark.
        ranks: which process this is.
        progress: shows how far a run is.
        tell: gets a line for each run that is left out: of all methods those that the model cannot
            be pruned by, and shares that a method cannot keep.

    Returns:
        The folders of the runs; other processes may still be writing to them.

    Raises:
        EvaluationError, PlanError: options that cannot be used.
        InputError, ModelError: likewise, from the config, the device or the checkpoint.
        RunLogError: a run folder that is in use by other settings.
    """
    plans = plan_runs(request.methods, parse_config(request.config), request.sweeps)
    model = _load_model(request, ranks)
    plans = [_with_defaults(plan, model, request.benchmark) for plan in plans]
    rules = protocol(model.family, request.benchmark)
    frames = request.frames or rules.frames or model.default_frames
    if request.retain:
        layers = model.shape.decoder.num_layers
        terms: Any = {"num_layers": layers, "frames": frames, "tell": tell}
        more = with_more_frames(plans, request.retain, request.more_frames, **terms)
        plans = [*at_shares(plans, request.retain, **terms), *more]
    plans = _usable(plans, model, tell if ALL in request.methods else None)
    environment = describe(model.model.device)
    generation = dict(rules.generation)
    if request.max_new_tokens is not None:
        generation["max_new_tokens"] = request.max_new_tokens
    shared_settings = {
        "benchmark": request.benchmark,
        "model": model.name,
        "checkpoint": None if request.model is None else str(request.model.resolve()),
        "random_weights": model.is_random,
        "family": model.family.name,
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "lora_alpha": request.lora_alpha,
        "frames": frames,
        "sampling": rules.sampling,
        "reader": request.reader,
        "generation": generation,
        "questions": len(questions.samples),
        "questions_sha256": _fingerprint(questions.samples),
    }
    folders = []
    for plan in plans:
        folder = request.out / "-".join([request.benchmark, _plain(model.name), plan.name])
        settings = {**shared_settings, "method": plan.method, "options": plan.options}
        if plan.retain is not None:
            settings["retain"] = plan.retain
        if plan.frames is not None:
            settings["frames"] = plan.frames
        open_folder = partial(open_run, folder, settings, environment, resume=request.resume)
        ranks.first(folder.name, open_folder)
        check_settings(folder, settings)
        folders.append((folder, plan, settings))
    share = ranks.share(questions.samples)
    with ExitStack() as logs:
        runs = []
        for folder, plan, settings in folders:
            done = frozenset(record.id for record in read_run(folder).answered)
            log = logs.enter_context(append_lines(samples_file(folder, ranks.rank)))
            runs.append(Asking(plan, settings, log, done))
        total = len(share) * len(runs)
        done_before = sum(sample.id in run.done for run in runs for sample in share)
        label = plans[0].label if len(plans) == 1 else f"{len(plans)} runs"
        with progress(label + ranks.label, total, done_before) as advance:
            answer_questions(model, runs, share, advance)
    return [folder for folder, _, _ in folders]


def require_complete(run: Run, samples: Sequence[Sample]) -> None:
    """Hold that a run knows something of every question.

    Raises:
        EvaluationError: it does not.
    """
    missing = sum(sample.id not in run.records for sample in samples)
    if missing:
        raise EvaluationError(
            f"{run.folder}: {missing} of {len(samples)} questions have no line; go on with"
            " --resume, on a folder that all processes share"
        )


def write_submission(run: Run, extractor: str, file: Path) -> int:
    """Write EgoSchema's submission: for each question the index of the chosen option.

    The organisers take 0 to 4 and nothing else, so a question that was not asked, or whose answer
    names no option, is submitted as option 0: a guess, which the score printed here counts as
    wrong.

    Args:
        run: with all questions, those with hidden answers included.
        extractor: how answers are read.
        file: a ``.csv`` file gets lines of ``q_uid,answer``, any other a JSON object.

    Returns:
        How many of them are guesses.

    Raises:
        OSError: the file cannot be written.
    """
    letters = {
        record.id: record.predictions.get(extractor)
        for record in sorted(run.records.values(), key=lambda record: record.id)
    }
    chosen = {name: LETTERS.index(letter) if letter else 0 for name, letter in letters.items()}
    if file.suffix.lower() == ".csv":
        lines = ["q_uid,answer", *(f"{name},{index}" for name, index in chosen.items())]
        text = "\n".join(lines)
    else:
        text = json.dumps(chosen)
    file.write_text(text + "\n", encoding="utf-8")
    return sum(letter is None for letter in letters.values())


def _load_model(request: EvaluationRequest, ranks: Ranks) -> VideoModel:
    device = resolve_device(request.device)
    if request.device == "auto" and device == "cuda":
        device = f"cuda:{ranks.local_rank}"
    if request.model is None:
        return embedded_model.load_embedded_model(device, benchmark=request.benchmark)
    return load_video_model(request.model, device, lora_alpha=request.lora_alpha)


def _with_defaults(plan: Plan, model: VideoModel, benchmark: str) -> Plan:
    """Options that the user left open, as the authors set them for this model and benchmark."""
    defaults = dict(protocol(model.family, benchmark).options)
    if model.selection_layer is not None:
        defaults["layer"] = model.selection_layer
    known = find_method(plan.method).defaults
    own_layer = known.get("layer", PAPER_LAYER)
    if PAPER_LAYER != own_layer < model.shape.decoder.num_layers:
        defaults.pop("layer", None)  # another paper's layer, and the model has it
    chosen = {key: value for key, value in defaults.items() if key in known}
    return Plan(plan.method, {**chosen, **plan.options})


def _usable(
    plans: Sequence[Plan], model: VideoModel, tell: Callable[[str], None] | None
) -> list[Plan]:
    """The runs whose options fit the model; those that do not are an error, or told."""
    usable = []
    for plan in plans:
        try:
            _check(plan, model)
        except EvaluationError as error:
            if tell is None:
                raise
            tell(f"left out: {error}")
        else:
            usable.append(plan)
    return usable


def _check(plan: Plan, model: VideoModel) -> None:
    """Apply a method and take it off: options that do not fit show before anything runs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NothingPrunedWarning)
            with apply_method(model.model, plan.method, plan.options):
                pass
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"--method {plan.method}: {error}") from error


def _fingerprint(samples: list[Sample]) -> str:
    """Of everything that is asked, so that a run is not resumed on other questions."""
    asked = [[s.id, s.task, s.question, s.options, s.gold] for s in samples]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def _plain(name: str) -> str:
    return "_".join("".join(c if c.isalnum() or c in ".-" else " " for c in name).split())
