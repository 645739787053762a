"""Time and memory of a merged prefill beside the plain one, at a published size's shapes, on a CPU.

    python -m prunevid_kernels.benchmarks.cost.latency.prefill --model qwen2.5-vl-7b

The language model has the published width and few of its layers, with random weights; the features
of a generated video take the place of a tiny tower's. What is measured is the decoder's call for
one prompt, merge included. The tower, which runs before either way, and the head are not in it.
Plain and merged prompts take turns in one process on one thread, in pairs whose order alternates:
of a busy machine only the ratio within a pair says something. Time is the process's own processor
time. Memory is the most that the process held during the call beyond what it held before, weights
among that, as Linux tells it. Nothing is measured before the merged logits agree with the same done
by hand (:mod:`.checks`).

With few layers the merge weighs more, and what each layer's cache holds less, than in the whole
model; so the merge's own time and the caches' size stand beside.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from prunevid_kernels import PruneVidConfig, merge_video
from prunevid_kernels.adapters import ModelError, PruneCall, apply_method
from prunevid_kernels.adapters.engine.cache import cache_of
from prunevid_kernels.adapters.families import SIZES
from prunevid_kernels.adapters.families.shape import DecoderShape

from ...support.environment import describe, stamp
from ..flops.decoder import prefill_macs
from ..timing import Quantiles
from .checks import check_method, generate
from .random_models import shallow_model
from .subjects import Prompts, Subject, features_in_place, make_prompts

SCHEMA_VERSION = 1
METHOD = "merge_only"
PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Prefill:
    """One call of the decoder.

    Attributes:
        cpu_ms: processor time, user and system.
        peak_bytes: held at most beyond what was held before.
        kv_bytes: keys and values that it leaves.
    """

    cpu_ms: float
    peak_bytes: int
    kv_bytes: int


@dataclass(frozen=True)
class Side:
    """A prefill, plain or merged, over all rounds; fields as of :class:`Prefill`."""

    tokens: int
    macs: float
    cpu_ms: Quantiles
    peak_bytes: float
    kv_bytes: int

    @classmethod
    def of(cls, runs: Sequence[Prefill], tokens: int, decoder: DecoderShape) -> Side:
        """Of at least two runs."""
        return cls(
            tokens=tokens,
            macs=prefill_macs([tokens] * decoder.num_layers, decoder, "exact"),
            cpu_ms=Quantiles.of([run.cpu_ms for run in runs]),
            peak_bytes=statistics.median(run.peak_bytes for run in runs),
            kv_bytes=runs[0].kv_bytes,
        )


def require_memory_counters() -> None:
    """The kernel tells how much memory the process holds, and lets it forget the peak.

    Raises:
        ModelError: it does not; the message says what is missing.
    """
    if not (PROCESS / "clear_refs").exists():
        raise ModelError(f"peak memory is read from Linux's {PROCESS}/clear_refs, which is missing")


def compare(
    subject: Subject,
    frames: int,
    rounds: int,
    progress: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Plain and merged prefills of one prompt, in turns.

    Args:
        subject: on the CPU.
        frames: of the video.
        rounds: pairs, 2 at least.
        progress: gets a line for each pair.

    Returns:
        A row of the results, see ``results/README.md``.

    Raises:
        IncorrectResultError: the merged logits are not what they are by hand.
        ModelError: the system does not tell peak memory.
        ValueError: fewer than 2 rounds.
    """
    if rounds < 2:
        raise ValueError(f"rounds must be at least 2, got {rounds}")
    require_memory_counters()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        prompts = make_prompts(subject, frames, 1)
        check_method(subject, prompts, METHOD, {})
        _, call = prefill(subject, prompts, is_merged=True)
        assert call is not None
        plain, merged, merge_ms = [], [], []
        for index in range(rounds):
            pair: dict[bool, Prefill] = {}
            for is_merged in (False, True) if index % 2 == 0 else (True, False):
                pair[is_merged], _ = prefill(subject, prompts, is_merged=is_merged)
            merge_ms.append(_merge_alone_ms(subject, prompts))
            plain.append(pair[False])
            merged.append(pair[True])
            progress(
                f"pair {index + 1}: {pair[False].cpu_ms:.0f} ms plain, {pair[True].cpu_ms:.0f} ms"
                f" merged, of it {merge_ms[-1]:.0f} ms the merge"
            )
    finally:
        torch.set_num_threads(threads)
    decoder = DecoderShape.from_text_config(subject.decoder.config)
    (video,), text = call.videos, call.other_tokens[0]
    sides = {
        "plain": Side.of(plain, video.tokens_before + text, decoder),
        "merged": Side.of(merged, video.tokens_merged + text, decoder),
    }
    model = subject.video_model.model
    ratios = [ours.cpu_ms / other.cpu_ms for ours, other in zip(merged, plain, strict=True)]
    return {
        "model": subject.video_model.name,
        "layers": decoder.num_layers,
        "hidden_size": decoder.hidden_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": subject.decoder.config._attn_implementation,
        "method": METHOD,
        "frames": frames,
        "visual_tokens": video.tokens_before,
        "tokens_per_frame": video.layout.tokens_per_frame,
        "text_tokens": text,
        "rounds": rounds,
        "weights_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        **{name: asdict(side) for name, side in sides.items()},
        "merge_cpu_ms": asdict(Quantiles.of(merge_ms)),
        "cpu_ratio": asdict(Quantiles.of(ratios)),
        "peak_ratio": sides["merged"].peak_bytes / sides["plain"].peak_bytes,
        "macs_ratio": sides["merged"].macs / sides["plain"].macs,
    }


@torch.inference_mode()
def prefill(
    subject: Subject, prompts: Prompts, *, is_merged: bool
) -> tuple[Prefill, PruneCall | None]:
    """One answer of one token, of which the decoder's call is measured.

    Args:
        subject: the model.
        prompts: its prompt.
        is_merged: merge the video; without it no hook of pruning is there.

    Returns:
        What was measured, and the record of the merge.
    """
    model, marks = subject.video_model.model, {}

    def begin(*_: Any) -> None:
        _forget_peak()
        marks["start"] = time.process_time()

    def end(*_: Any) -> None:
        marks["stop"] = time.process_time()
        marks["peak"] = _status("VmHWM")

    report = None
    with ExitStack() as stack:
        # After what puts features in place, before what merges them.
        stack.enter_context(features_in_place(subject, prompts))
        stack.callback(subject.decoder.register_forward_pre_hook(begin).remove)
        stack.callback(model.get_output_embeddings().register_forward_pre_hook(end).remove)
        if is_merged:
            report = stack.enter_context(apply_method(model, METHOD, {})).report
        _give_back_memory()
        before = _status("VmRSS")
        output = generate(model, prompts, 1)
    kv_bytes = sum(
        tensor.numel() * tensor.element_size()
        for layer in cache_of(output).layers
        for tensor in (layer.keys, layer.values)
    )
    measured = Prefill(
        1000 * (marks["stop"] - marks["start"]), int(marks["peak"] - before), kv_bytes
    )
    return measured, None if report is None else report.last


def _merge_alone_ms(subject: Subject, prompts: Prompts) -> float:
    """Processor time of the merge that the method does, on the same features."""
    video = prompts.unpruned.videos[0].layout
    assert prompts.features is not None
    features = prompts.features[0].unflatten(0, (video.num_frames, video.tokens_per_frame))
    start = time.process_time()
    merge_video(features, PruneVidConfig(select=False))
    return 1000 * (time.process_time() - start)


def _give_back_memory() -> None:
    """What was freed goes back to the system, so that it is not counted as held."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # another C library gives back by itself
        trim(0)


def _forget_peak() -> None:
    (PROCESS / "clear_refs").write_text("5")


def _status(name: str) -> int:
    """Bytes, of a line in kB."""
    lines = (PROCESS / "status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def run(
    models: Sequence[str],
    out: Path,
    *,
    layers: int = 2,
    frames: int | None = None,
    rounds: int = 3,
    progress: Callable[[str], object] = print,
) -> Path:
    """Compare for each model, and write the results file, whose path is returned.

    Args:
        models: names of published sizes.
        out: folder for the results.
        layers: of each language model.
        frames: of the video; None: each family's own number.
        rounds: pairs of prefills.
        progress: gets a line now and then.

    Raises:
        ValueError: an unknown size, or a number out of range.
        ModelError, IncorrectResultError: see :func:`compare`.
    """
    for name in models:
        if name not in SIZES:
            raise ValueError(f"model must be one of {', '.join(SIZES)}, got {name!r}")
    device = torch.device("cpu")
    environment = {**describe(device), "cpu_threads": 1}
    rows = []
    for name in models:
        model = shallow_model(name, layers, device, torch.float32)
        subject = Subject(model, layer=0, has_own_features=False)
        row = compare(subject, frames or model.default_frames, rounds, progress)
        del model, subject
        rows.append(row)
        progress(
            f"{row['model']}: {row['plain']['tokens']} -> {row['merged']['tokens']} tokens, time"
            f" x {row['cpu_ratio']['median']:.3f}, peak memory x {row['peak_ratio']:.3f}"
        )
    results = {
        "schema_version": SCHEMA_VERSION,
        "kind": "prefill",
        "environment": environment,
        "rows": rows,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"prefill-{stamp(environment)}.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help="published size; default: qwen2.5-vl-7b")
    parser.add_argument("--layers", type=int, default=2, help="of the language model")
    parser.add_argument("--frames", type=int, help="of the video; default: the family's own")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of prefills, 2 at least")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the results file")
    given = parser.parse_args(arguments)
    path = run(
        given.model or ["qwen2.5-vl-7b"],
        given.out,
        layers=given.layers,
        frames=given.frames,
        rounds=given.rounds,
    )
    print(json.dumps({"results": str(path)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
