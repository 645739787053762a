"""End-to-end latency: one model, unpruned and under each method, split by stage.

A row is a method at a number of frames and a batch size. Each begins with one call from cold,
then has to pass its check (:mod:`.checks`), and only then is timed; a row whose check fails
holds no time, and one that cannot run (memory) says so. The unpruned model, without a hook of ours
and on the same attention backend, is the baseline of every other row of its shape. What replaces
the merge alone (the method as loops, vectorised, under ``torch.compile``, and engines' cosine
pruning) is measured apart, by the benchmark that ``prunevid bench kernels`` runs.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers.cache_utils import LinearAttentionLayer

from prunevid_kernels.adapters import PruneCall, PruneReport, apply_method
from prunevid_kernels.adapters.engine.cache import cache_of

from ..flops.methods import sample_flops
from ..harness import IncorrectResultError
from ..timing import Quantiles, time_runs
from .checks import check_method, generate
from .stages import STAGES, StageClock, StageTimes
from .subjects import Prompts, Subject, encode_clip, features_in_place, make_prompts

BASELINE = "full"


@dataclass(frozen=True)
class LatencySettings:
    """How much is measured.

    Attributes:
        warmups, runs: answers of one token before and while the time to the first token is taken.
        decode_runs: answers of ``output_tokens`` tokens.
        read_runs: readings of the video.
        seconds: a row that would take longer has fewer runs, 5 at least (of long answers 2).
        is_timed: False checks every row and times none.
    """

    warmups: int = 10
    runs: int = 50
    decode_runs: int = 5
    read_runs: int = 5
    output_tokens: int = 128
    seconds: float = float("inf")
    is_timed: bool = True

    def affordable(self, runs: int, once_s: float, *, least: int) -> int:
        """``runs``, or as many as fit into ``seconds``."""
        return runs if runs * once_s <= self.seconds else max(least, int(self.seconds / once_s))


ON_CPU = LatencySettings(warmups=1, runs=5, decode_runs=2, read_runs=2, output_tokens=16)


@dataclass
class LatencyRow:
    """One method at one shape; times are milliseconds, quantiles over runs.

    Attributes:
        features: ``"generated"`` in place of the projector's output, or the ``"model's own"``.
        status: ``"ok"``, ``"not timed"`` (its check passed), ``"incorrect"`` (it did not),
            ``"failed"`` (it could not run); ``reason`` says more.
        visual_tokens, merged_tokens, kept_tokens: of each prompt.
        tokens_per_frame: as they are merged.
        cold_ms: wall clock of the first call, kernels' compilation included where it was needed.
        stages: of the time to the first token, see :data:`.stages.STAGES`.
        read_ms: reading and preprocessing one video on the host; not part of any other time.
        first_token_ms: from the call of ``generate`` to the first token.
        ms_per_token: of each later one.
        tokens_per_s: of the whole answer, all prompts together.
        peak_memory_bytes: allocated at most, weights included.
        weights_bytes: the weights alone.
        kv_bytes: keys and values of the prompts.
        flops: form -> multiply-accumulates of all prompts.
        speedup: the unpruned row's time to the first token divided by this one's.
    """

    model: str
    method: str
    options: dict[str, Any]
    features: str
    device: str
    dtype: str
    attention: str
    frames: int
    batch: int
    output_tokens: int
    status: str = "not timed"
    reason: str | None = None
    text_tokens: int = 0
    visual_tokens: int = 0
    tokens_per_frame: int = 0
    merged_tokens: list[int] = field(default_factory=list)
    kept_tokens: list[int] = field(default_factory=list)
    runs: int = 0
    cold_ms: float | None = None
    read_ms: Quantiles | None = None
    stages: dict[str, Quantiles] = field(default_factory=dict)
    first_token_ms: Quantiles | None = None
    ms_per_token: Quantiles | None = None
    tokens_per_s: float | None = None
    weights_bytes: int = 0
    peak_memory_bytes: int | None = None
    kv_bytes: int = 0
    flops: dict[str, float] = field(default_factory=dict)
    speedup: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def forget_numbers(self) -> None:
        """Nothing measured stays in a row that turned out to be wrong."""
        self.cold_ms = self.read_ms = self.first_token_ms = self.ms_per_token = None
        self.tokens_per_s = self.peak_memory_bytes = self.speedup = None
        self.stages, self.flops, self.kv_bytes, self.runs = {}, {}, 0, 0


def latency_rows(
    subject: Subject,
    *,
    methods: Mapping[str, Mapping[str, Any]],
    frames: Sequence[int],
    batches: Sequence[int],
    settings: LatencySettings,
    has_time: Callable[[], bool] = lambda: True,
) -> Iterator[LatencyRow]:
    """A row for each number of frames, batch size and method, unpruned first.

    Args:
        methods: name -> options; the unpruned model is measured whether it is among them or not.
        has_time: asked before each row; no further row once it says no.
    """
    names = [BASELINE, *(name for name in methods if name != BASELINE)]
    for count in frames:
        read_ms = _read_times(subject, count, settings)
        for batch in batches:
            prompts, baseline = None, None
            for name in names:
                if not has_time():
                    return
                row = _empty_row(subject, name, methods.get(name, {}), count, batch, settings)
                row.read_ms = read_ms
                # The other rows are still of use, and the caller sees the status.
                try:
                    prompts = prompts or make_prompts(subject, count, batch)
                    _measure(row, subject, prompts, settings)
                except IncorrectResultError as error:
                    row.status, row.reason = "incorrect", str(error)
                except Exception as error:
                    text = " ".join(str(error).split())[:400]
                    row.status, row.reason = "failed", f"{type(error).__name__}: {text}"
                if row.status in ("incorrect", "failed"):
                    row.forget_numbers()
                    _free_memory()
                if name == BASELINE:
                    baseline = row.first_token_ms
                if baseline and row.first_token_ms:
                    row.speedup = baseline.median / row.first_token_ms.median
                yield row


def _empty_row(
    subject: Subject,
    method: str,
    options: Mapping[str, Any],
    frames: int,
    batch: int,
    settings: LatencySettings,
) -> LatencyRow:
    model = subject.video_model.model
    return LatencyRow(
        model=subject.video_model.name,
        method=method,
        options=dict(options),
        features="model's own" if subject.has_own_features else "generated",
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        attention=subject.decoder.config._attn_implementation,
        frames=frames,
        batch=batch,
        output_tokens=settings.output_tokens,
        weights_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
    )


def _read_times(subject: Subject, frames: int, settings: LatencySettings) -> Quantiles | None:
    if not settings.is_timed:
        return None

    def read() -> None:
        encode_clip(subject, frames)

    cpu = torch.device("cpu")  # the host's work, whatever the model's device
    return Quantiles.of(time_runs([read], cpu, warmups=1, runs=settings.read_runs))


@dataclass(frozen=True)
class _Answer:
    """One ``generate``: its times, what the method did with the prompts, and the caches in the
    end."""

    times: StageTimes
    call: PruneCall
    cache: Any


@contextmanager
def _answering(
    row: LatencyRow, subject: Subject, prompts: Prompts
) -> Iterator[Callable[[int], _Answer]]:
    """The row's model with its method applied, as a function of the number of tokens."""
    model = subject.video_model.model
    clock = StageClock(model, model.device)
    with ExitStack() as stack:
        # The clock's hooks go between those that put features in place and the method's.
        stack.enter_context(features_in_place(subject, prompts))
        stack.enter_context(clock.hooked())
        report = PruneReport([prompts.unpruned])
        if row.method != BASELINE:
            report = stack.enter_context(apply_method(model, row.method, row.options)).report

        def answer(tokens: int) -> _Answer:
            with subject.video_model.telling(prompts.inputs):
                clock.start()
                output = generate(model, prompts, tokens)
                call = report.last
                times = clock.stop(None if row.method == BASELINE else call)
            del report.calls[:-1]  # they hold tensors
            return _Answer(times, call, cache_of(output))

        yield answer


def _measure(
    row: LatencyRow, subject: Subject, prompts: Prompts, settings: LatencySettings
) -> None:
    with _answering(row, subject, prompts) as answer:
        start_s = time.perf_counter()
        first = answer(1)
        cold_s = time.perf_counter() - start_s
        _describe(row, subject, first)
        del first
    check_method(subject, prompts, row.method, row.options)
    if not settings.is_timed:
        return
    row.cold_ms = 1000 * cold_s
    device = subject.video_model.model.device
    with _answering(row, subject, prompts) as answer:
        once_s = answer(1).times.first_token_ms / 1000
        row.runs = settings.affordable(settings.runs, once_s, least=5)
        for _ in range(min(settings.warmups, row.runs)):
            answer(1)
        short = [answer(1).times for _ in range(row.runs)]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        long = [answer(settings.output_tokens).times]
        if device.type == "cuda":
            row.peak_memory_bytes = torch.cuda.max_memory_allocated(device)
        once_s = (long[0].first_token_ms + long[0].decode_ms) / 1000
        runs = settings.affordable(settings.decode_runs, once_s, least=2)
        long = [answer(settings.output_tokens).times for _ in range(runs)]
    row.status = "ok"
    row.first_token_ms = Quantiles.of([times.first_token_ms for times in short])
    row.stages = {name: Quantiles.of([times.stages[name] for times in short]) for name in STAGES}
    later = settings.output_tokens - 1
    row.ms_per_token = Quantiles.of([times.decode_ms / later for times in long])
    total_ms = statistics.median(times.first_token_ms + times.decode_ms for times in long)
    row.tokens_per_s = 1000 * row.batch * settings.output_tokens / total_ms


def _describe(row: LatencyRow, subject: Subject, answer: _Answer) -> None:
    """What follows from the numbers of tokens alone."""
    call = answer.call
    row.text_tokens = call.other_tokens[0]
    row.visual_tokens = call.videos[0].tokens_before
    row.tokens_per_frame = call.videos[0].layout.tokens_per_frame
    row.merged_tokens = [video.tokens_merged for video in call.videos]
    row.kept_tokens = [video.tokens_kept for video in call.videos]
    row.flops = asdict(sample_flops(call, subject.video_model.shape).method)
    row.kv_bytes = sum(
        tensor.numel() * tensor.element_size()
        for layer in answer.cache.layers
        if not isinstance(layer, LinearAttentionLayer)  # its states are of fixed size
        for tensor in (layer.keys, layer.values)
    )


def _free_memory() -> None:
    """What a failed row held must not make the next ones fail."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
