"""``prunevid bench latency`` without its command line: rows measured, and written as they come.

Without a GPU the embedded model, or a tiny model in place of a published size, runs on the CPU with
fewer runs: that shows that everything works and where time goes, and says nothing about a GPU. The
results go to ``latency.json`` and ``latency.md``, written anew after each row, so that a run that
is cut off leaves what it has; ``prunevid report`` draws them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from prunevid_kernels.adapters.families import DEFAULT_SIZE
from prunevid_kernels.adapters.families.shape import DecoderShape
from prunevid_kernels.adapters.methods.registry import METHODS, find_method, method_names

from ...support.environment import describe
from ..harness import Settings, VariantResult, measure
from ..kernels.cases import DTYPES, Case, CaseModel
from ..kernels.stages import stage_benchmarks
from .rows import ON_CPU, LatencyRow, LatencySettings, latency_rows
from .subjects import load_subject
from .tables import latency_markdown, merge_markdown

SCHEMA_VERSION = 1
NO_GPU = (
    "No GPU here: tiny models on the CPU with few runs. No time below says anything about a GPU."
)


@dataclass(frozen=True)
class LatencyRequest:
    """What to measure; empty tuples and None stand for defaults.

    Attributes:
        model: a published size, a checkpoint folder or None, see :func:`.subjects.load_subject`.
        methods: names of pruning methods.
        frames: frames of the video.
        batches: prompts at once.
        dtype: ``bf16``, ``fp16`` or ``fp32``.
        output_tokens: length of every answer.
        with_compile: measure the merge under ``torch.compile`` too.
        lora_alpha: for a checkpoint whose LoRA is not merged.
    """

    model: str | None = None
    methods: tuple[str, ...] = ()
    frames: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()
    dtype: str | None = None
    output_tokens: int = 128
    with_compile: bool = True
    lora_alpha: float | None = None


def bench_latency(
    request: LatencyRequest,
    out: Path,
    *,
    settings: LatencySettings | None = None,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure; returns what ``latency.json`` holds.

    Args:
        request: what to measure.
        out: folder for the files, which are written anew after each row.
        settings: default 10 warm-ups and 50 runs; on a CPU fewer.
        progress: gets a line for each row.

    Raises:
        ModelError: a model that is not known or cannot be loaded.
        ValueError: an unknown method or dtype, or a number below its least.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    dtype_name = request.dtype or ("bf16" if on_gpu else "fp32")
    named = [name for name in request.methods if ":" not in name]  # the others point to a file
    _require_known("method", named, dict.fromkeys(method_names()))
    for name in request.methods:
        find_method(name)
    _require_known("dtype", (dtype_name,), DTYPES)
    _require_least("frames", request.frames, 1)
    _require_least("batch", request.batches, 1)
    _require_least("output-tokens", (request.output_tokens,), 2)
    model = request.model or (DEFAULT_SIZE if on_gpu else None)
    subject = load_subject(
        model,
        device,
        DTYPES[dtype_name],
        is_reduced=not on_gpu,
        lora_alpha=request.lora_alpha,
    )
    settings = replace(
        settings or (LatencySettings() if on_gpu else ON_CPU), output_tokens=request.output_tokens
    )
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "latency",
        "is_gpu": on_gpu,
        "environment": describe(device),
        "settings": {key: value for key, value in asdict(settings).items() if key != "seconds"},
        "rows": [],
        "merge_rows": [],
    }
    write_results(results, out)
    for row in latency_rows(
        subject,
        methods={name: subject.options(name) for name in request.methods or METHODS},
        frames=request.frames or (subject.video_model.default_frames,),
        batches=request.batches or ((1, 4, 8) if on_gpu else (1,)),
        settings=settings,
    ):
        results["rows"].append(row.to_json())
        write_results(results, out)
        progress(_line(row))
    for merge_row in _merge_rows(results["rows"], subject.decoder.config, dtype_name, request):
        results["merge_rows"].append(merge_row.to_json())
        write_results(results, out)
        progress(f"merge alone: {merge_row.variant}: {merge_row.status}")
    return results


def write_results(results: Mapping[str, Any], folder: Path) -> None:
    """Write ``latency.json`` and ``latency.md``."""
    environment = results["environment"]
    device = environment["gpu"]["name"] if results["is_gpu"] else "CPU"
    head = f"# Latency: {device}\n\n" + ("" if results["is_gpu"] else f"{NO_GPU}\n\n")
    stamp = f"`{json.dumps(environment)}`\n\n"
    text = head + stamp + latency_markdown(results["rows"]) + merge_markdown(results["merge_rows"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latency.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "latency.md").write_text(text, encoding="utf-8")


def _merge_rows(
    rows: Sequence[Mapping[str, Any]],
    decoder_config: Any,
    dtype_name: str,
    request: LatencyRequest,
) -> Iterator[VariantResult]:
    """The merge alone, in every way to do it, at the shapes of the rows."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    settings = Settings() if on_gpu else Settings(1, 5, 2.0)
    decoder = DecoderShape.from_text_config(decoder_config)
    shapes = {
        (row["visual_tokens"] // row["tokens_per_frame"], row["tokens_per_frame"]): row["model"]
        for row in rows
        if row["tokens_per_frame"]
    }
    for (frames, tokens_per_frame), name in shapes.items():
        case = Case(CaseModel(name, frames, tokens_per_frame, decoder, 0, 1), frames, dtype_name)
        for benchmark in stage_benchmarks(
            case,
            device,
            stages=("merge",),
            ours="triton" if on_gpu else "reference",
            with_compile=request.with_compile,
        ):
            yield from measure(benchmark, device, settings, None)


def _require_known(what: str, names: Sequence[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{what} must be one of {', '.join(known)}, got {name!r}")


def _require_least(what: str, values: Sequence[int], least: int) -> None:
    for value in values:
        if value < least:
            raise ValueError(f"{what} must be at least {least}, got {value}")


def _line(row: LatencyRow) -> str:
    what = f"{row.model}, {row.frames} frames, batch {row.batch}, {row.method}: {row.status}"
    if row.first_token_ms is None:
        return f"{what}, {row.reason}" if row.reason else what
    return f"{what}, first token after {row.first_token_ms.median:.2f} ms"
