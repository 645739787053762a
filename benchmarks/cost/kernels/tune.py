"""Search each kernel's block sizes on the GPU at hand and write the fastest into the shipped table.

Every kernel is run alone, on the tensors that the merge of a video hands it, with
each candidate of a small grid. Candidates that do not launch are left out; the fastest one that
compile_check has nothing against becomes the architecture's entry in ``kernels/configs.json``,
written after each kernel, so that a run that is cut keeps what it found. The library reads that
table and tunes nothing itself: what users run is what was tested.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources

from prunevid_kernels import compact, score_visual_tokens
from prunevid_kernels.adapters.families import DEFAULT_SIZE
from prunevid_kernels.kernels import _device
from prunevid_kernels.kernels.gram import gram, padded_pitch
from prunevid_kernels.kernels.group_clusters import group_clusters
from prunevid_kernels.kernels.group_gram import group_gram
from prunevid_kernels.kernels.groups import group_table
from prunevid_kernels.kernels.means.frame_mean import frame_mean
from prunevid_kernels.kernels.means.group_mean import group_mean
from prunevid_kernels.kernels.segments import segments
from prunevid_kernels.kernels.static_split import static_split

from ...compile_check import TARGETS, Target, check
from ..timing import time_runs
from .cases import MODELS, CaseModel, video_features

Config = dict[str, int]
Table = dict[str, dict[str, Config]]

CONFIGS = Path(_device.__file__).with_name("configs.json")

# Frames of a video whose segments are not found in one launch.
LONG = 128

# The grid of each kernel: every combination is tried.
GRIDS: dict[str, dict[str, tuple[int, ...]]] = {
    "frame_mean": {
        "BLOCK_N": (1, 2, 4),
        "BLOCK_R": (4, 8, 16),
        "ROW_BYTES": (512, 1024),
        "num_warps": (1, 2, 4),
    },
    "gram": {
        "BLOCK": (32, 64),
        "BLOCK_C": (16, 32, 64),
        "SPLIT_C": (128, 256, 512),
        "num_warps": (4, 8),
        "num_stages": (2, 3),
    },
    "static_split": {
        "BLOCK_N": (1,),
        "BLOCK_F": (1, 2, 4, 8),
        "TILE": (16384, 32768),
        "num_warps": (4, 8, 16),
    },
    "group_gram": {
        "BLOCK": (32, 64, 128),
        "BLOCK_C": (32, 64),
        "FLOAT32_BLOCK_C": (16, 32),
        "SPLIT_C": (128, 256),
        "PART_C": (512, 1024, 2048),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4),
    },
    # Fewer, smaller tiles would be faster for short videos alone, and one more variant to compile.
    "cluster_rows": {
        "MIN_BLOCK_N": (256,),
        "WARP_COLUMNS": (128, 256, 1024),
        "WARP_TILE": (512, 1024, 2048),
    },
    "short_segments": {"BLOCK_M": (8, 16, 32), "WARP_ROWS": (2, 4, 8)},
    "segments": {
        "MIN_BLOCK_N": (128,),
        "WARP_COLUMNS": (16, 32, 64),
        "WARP_TILE": (256, 512, 1024),
    },
    "group_clusters": {
        "MIN_BLOCK_N": (256,),
        "WARP_COLUMNS": (16, 32, 64),
        "WARP_TILE": (512, 1024, 2048),
    },
    "group_mean": {
        "BLOCK_L": (1,),
        "BLOCK_M": (2, 4, 8),
        "BLOCK_C": (1024, 2048, 4096),
        "num_warps": (4, 8),
    },
    "token_score": {
        "BLOCK_M": (16, 32, 64),
        "BLOCK_S": (32, 64, 128),
        "KEYS_PER_SPLIT": (256, 512, 1024),
        "num_warps": (4, 8),
        "num_stages": (2, 3),
    },
    "compact": {
        "BLOCK_K": (4, 16, 64),
        "BLOCK_I": (32, 64, 128),
        "num_warps": (2, 4, 8),
        "num_stages": (2,),
    },
}


@dataclass(frozen=True)
class Candidate:
    """A config and the median of its runs."""

    config: Config
    latency_ms: float


def candidates(kernel: str) -> Iterator[Config]:
    grid = GRIDS[kernel]
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def workloads(shape: CaseModel, device: torch.device) -> dict[str, Callable[[], Any]]:
    """A closure for each kernel that launches it, and as little else as its launcher allows."""
    frames, n, channels = shape.frames, shape.tokens_per_frame, shape.channels
    x = video_features(frames, n, channels, seed=0, device=device, dtype=torch.bfloat16)
    first_frame = torch.tensor([0, frames], dtype=torch.int32, device=device)
    first_row = first_frame[:1] * n
    many = torch.randn((LONG, channels), device=device)
    whole = torch.tensor([0, LONG], dtype=torch.int32, device=device)
    mean, is_offset, is_bad, _ = frame_mean(x, [0, frames])
    start, length, static_count = segments(mean, first_frame, frames, 0.25, 7)
    # Each run of static_split counts on in it.
    scratch_count = torch.zeros(frames, dtype=torch.int32, device=device)
    is_static, static_mean = static_split(x, mean, is_offset, start, length, static_count, 0.8)
    table = group_table(
        first_frame, frames, start, length, static_count, is_static, is_bad, None, 0.5, 14
    )
    gram_arguments = (x, mean, is_offset, static_mean, start, length, static_count, table, 14)
    matrices, norms = group_gram(*gram_arguments)
    cluster_arguments = (
        first_frame,
        first_row,
        frames * n,
        start,
        length,
        static_count,
        table,
        channels,
        7,
    )
    clusters = group_clusters(matrices, norms, *cluster_arguments)
    num_merged = table.host[3 * frames : 3 * frames + 1]
    total = int(num_merged)

    decoder = shape.decoder
    layers = shape.layer + 1
    length_s = shape.text_before + total + shape.text_after
    query_shape = (1, decoder.num_heads, shape.text_after, shape.head_dim)
    query = torch.randn(query_shape, device=device, dtype=torch.bfloat16)
    key_shape = (2 * layers, decoder.num_kv_heads, length_s, shape.head_dim)
    keys = list(torch.randn(key_shape, device=device, dtype=torch.bfloat16).split(1))
    kept = torch.randperm(length_s, device=device)[: int(0.4 * length_s)].sort().values
    visual = slice(shape.text_before, shape.text_before + total)
    return {
        "frame_mean": lambda: frame_mean(x, [0, frames]),
        "gram": lambda: gram(mean, first_frame[:-1], first_frame[1:], padded_pitch(frames)),
        "cluster_rows": lambda: group_clusters(matrices, norms, *cluster_arguments),
        "static_split": lambda: static_split(x, mean, is_offset, start, length, scratch_count, 0.8),
        "group_gram": lambda: group_gram(*gram_arguments),
        # With the two launches before it, whose part is the same for every candidate.
        "short_segments": lambda: segments(mean, first_frame, frames, 0.25, 7),
        "segments": lambda: segments(many, whole, LONG, 0.25, 7),
        "group_clusters": lambda: group_clusters(matrices, norms, *cluster_arguments),
        "group_mean": lambda: group_mean(x, first_row, num_merged, length, clusters, total),
        "token_score": lambda: score_visual_tokens(query, keys[0], visual, impl="triton"),
        "compact": lambda: compact(keys, kept, dim=2, impl="triton"),
    }


def fastest_first(
    kernel: str, entry: dict[str, Config], architecture: str, measure: Callable[[], float]
) -> list[Candidate]:
    """Every candidate that launches, by time. ``entry``: the kernel's part of the live table."""
    found = []
    before = entry.get(architecture)
    try:
        for config in candidates(kernel):
            entry[architecture] = config
            try:
                found.append(Candidate(config, measure()))
            except (OutOfResources, CompilationError) as error:
                print(f"{kernel} {config}: {type(error).__name__}", file=sys.stderr)
    finally:
        _restore(entry, architecture, before)
    return sorted(found, key=lambda candidate: candidate.latency_ms)


def first_without_fault(
    ranked: list[Candidate],
    entry: dict[str, Config],
    architecture: str,
    has_fault: Callable[[], bool],
) -> Candidate | None:
    """The fastest candidate that keeps to the target's registers and shared memory."""
    before = entry.get(architecture)
    try:
        for candidate in ranked:
            entry[architecture] = candidate.config
            if not has_fault():
                return candidate
    finally:
        _restore(entry, architecture, before)
    return None


def _restore(entry: dict[str, Config], architecture: str, before: Config | None) -> None:
    if before is None:
        entry.pop(architecture, None)
    else:
        entry[architecture] = before


def write_table(table: Table, path: Path) -> None:
    """One config a line, so that a change of one reads as one in a diff."""
    kernels = []
    for kernel, entry in table.items():
        lines = [f"    {json.dumps(name)}: {json.dumps(config)}" for name, config in entry.items()]
        kernels.append(f"  {json.dumps(kernel)}: {{\n" + ",\n".join(lines) + "\n  }")
    part = path.with_suffix(".part")
    part.write_text("{\n" + ",\n".join(kernels) + "\n}\n")
    part.replace(path)


def this_target(device: torch.device) -> Target:
    """The GPU at hand as compile_check knows it, or as it describes itself."""
    architecture = _device.architecture(device)
    for target in TARGETS:
        if target.name == architecture:
            return target
    properties = triton.runtime.driver.active.utils.get_device_properties(device.index)
    major, minor = torch.cuda.get_device_capability(device)
    gpu = GPUTarget("cuda", 10 * major + minor, 32)
    return Target(architecture, gpu, properties["max_shared_mem"])


def tune(kernels: tuple[str, ...] = tuple(GRIDS), path: Path = CONFIGS) -> Table:
    """Tune ``kernels`` on the current GPU; ``path`` is rewritten after each.

    Raises:
        ValueError: an unknown kernel, no GPU, or kernels under the interpreter.
    """
    unknown = sorted(set(kernels) - set(GRIDS))
    if unknown:
        raise ValueError(f"unknown kernel {unknown[0]!r}; known: {', '.join(GRIDS)}")
    if not torch.cuda.is_available():
        raise ValueError("tuning needs a GPU: it times what it writes, and none was found")
    if _device.is_interpreted():
        raise ValueError("tuning needs compiled kernels, but TRITON_INTERPRET is set")
    device = torch.device("cuda", torch.cuda.current_device())
    architecture = _device.architecture(device)
    target = this_target(device)
    table = _device.config_table()
    works = workloads(MODELS[DEFAULT_SIZE], device)
    for kernel in kernels:
        entry, work = table[kernel], works[kernel]

        def measure(work: Callable[[], Any] = work) -> float:
            return statistics.median(time_runs([work], device, warmups=5, runs=30))

        before_ms = measure()
        ranked = fastest_first(kernel, entry, architecture, measure)
        best = first_without_fault(
            ranked, entry, architecture, lambda: any(row.fault for row in check(target))
        )
        if best is None or best.latency_ms >= before_ms:
            print(f"{kernel}: {before_ms:.4f} ms, no candidate is faster", file=sys.stderr)
            continue
        entry[architecture] = best.config
        write_table(table, path)
        print(
            f"{kernel}: {before_ms:.4f} ms -> {best.latency_ms:.4f} ms {best.config}",
            file=sys.stderr,
        )
    return table
