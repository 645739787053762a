"""Compile every kernel with every shipped config for every supported GPU, without one.

    python -m prunevid_kernels.benchmarks.compile_check

The launchers of the library run as they are, at the shapes of the three backbones, on tensors
without memory; what they launch is compiled ahead of time for a target instead. So what is checked
is what would run: the specialisation of each argument included. The check fails where a kernel
keeps registers in local memory (a spill: several times slower, and the sign of a block too large)
or asks for more shared memory than the target has (the compiler does not refuse that; the launch
would), or reads and writes the same memory with no barrier between (:mod:`.barriers`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from prunevid_kernels.kernels import _device
from prunevid_kernels.kernels.dpc_knn import dpc_knn
from prunevid_kernels.kernels.group_clusters import group_clusters
from prunevid_kernels.kernels.group_gram import group_gram
from prunevid_kernels.kernels.groups import group_table
from prunevid_kernels.kernels.means.frame_mean import frame_mean
from prunevid_kernels.kernels.means.group_mean import group_mean
from prunevid_kernels.kernels.means.layout_mean import layout_mean
from prunevid_kernels.kernels.segments import segments
from prunevid_kernels.kernels.selection.compact import compact
from prunevid_kernels.kernels.selection.token_score import score_visual_tokens
from prunevid_kernels.kernels.static_split import static_split

from .barriers import hazards


@dataclass(frozen=True)
class Target:
    """A GPU to compile for. ``shared_limit_bytes``: dynamic shared memory that one program may
    have."""

    name: str
    gpu: GPUTarget
    shared_limit_bytes: int


# Shared memory a block, opted in: CUDA C++ Programming Guide, table "Technical specifications per
# compute capability"; LDS of a workgroup: AMD CDNA 3 ISA reference.
TARGETS = (
    Target("sm_80", GPUTarget("cuda", 80, 32), 163 * 1024),
    Target("sm_90", GPUTarget("cuda", 90, 32), 227 * 1024),
    Target("sm_100", GPUTarget("cuda", 100, 32), 227 * 1024),
    Target("sm_120", GPUTarget("cuda", 120, 32), 99 * 1024),
    Target("gfx942", GPUTarget("hip", "gfx942", 64), 64 * 1024),
)


@dataclass(frozen=True)
class Row:
    """What one kernel needs on one target. ``spill_bytes`` is local memory for one thread,
    ``hazards`` counts what it reads and writes with no barrier between."""

    kernel: str
    target: str
    case: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    hazards: int
    fault: str | None


class _CompileOnlyDriver:
    """Stands in for the GPU driver, so that the launchers' own calls say what there is to
    compile."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target.gpu

    def get_current_device(self) -> str:
        return self._target.name  # the key of triton's cache: a specialisation for each target

    def get_current_stream(self, device: str) -> int:
        return 0


@contextlib.contextmanager
def compiling_for(target: Target) -> Iterator[list[tuple[JITFunction, Any]]]:
    """Within: kernel launches compile for ``target`` and launch nothing; yields what they
    compiled."""
    compiled: list[tuple[JITFunction, Any]] = []
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        compiled.append((self, kernel))
        return kernel

    driver = triton.runtime.driver
    # Triton made the attribute private when it became lazy.
    active = "_active" if hasattr(driver, "_active") else "active"
    with (
        mock.patch.object(driver, active, _CompileOnlyDriver(target)),
        mock.patch.object(JITFunction, "run", compile_only),
        mock.patch.object(_device, "architecture", lambda device: target.name),
    ):
        yield compiled


def launch_merge(
    frames: int, tokens: int, channels: int, dtype: torch.dtype, *, budget_mode: bool
) -> None:
    """Every launcher of the merge at the shape of one video; no memory is touched."""
    with torch.device("meta"):
        x = torch.empty((frames, tokens, channels), dtype=dtype)
        first_frame = torch.empty(2, dtype=torch.int32)
        first_row, num_merged = torch.empty((2, 1), dtype=torch.int32)
    mean, is_offset, is_bad, _ = frame_mean(x, [0, frames])
    start, length, static_count = segments(mean, first_frame, frames, 0.25, 7)
    is_static, static_mean = static_split(x, mean, is_offset, start, length, static_count, 0.8)
    budget, min_cluster_tokens = (num_merged, None) if budget_mode else (None, 14)
    table = group_table(
        first_frame, frames, start, length, static_count, is_static, is_bad, budget, 0.5, 14
    )
    matrices, norms = group_gram(
        x, mean, is_offset, static_mean, start, length, static_count, table, min_cluster_tokens
    )
    clusters = group_clusters(
        matrices,
        norms,
        first_frame,
        first_row,
        frames * tokens,
        start,
        length,
        static_count,
        table,
        channels,
        7,
    )
    total = frames * tokens // 2
    group_mean(x, first_row, num_merged, length, clusters, total, may_share=budget_mode)
    with torch.device("meta"):
        source, count = torch.empty((frames, tokens), dtype=torch.int64), first_row.long()
    layout_mean(x, source, count)
    dpc_knn(x, tokens // 2, 7, None)


def launch_selection(
    heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, *, masked: bool
) -> None:
    """The scoring, of all keys or under a causal and a padding mask, and the compaction."""
    with torch.device("meta"):
        query = torch.empty((1, heads, 20, head_dim), dtype=dtype)
        key = torch.empty((1, kv_heads, 2560, head_dim), dtype=dtype)
        key_mask = torch.empty((1, 2560), dtype=torch.bool)
        index = torch.empty(1024, dtype=torch.int64)
    masks = (2540, key_mask) if masked else (None, None)
    score_visual_tokens(query, key, 16, 2520, head_dim**-0.5, *masks)
    compact([key] * 22, index, 2)


# Frames, tokens a frame and channels of the three backbones, with the dtypes that take different
# code.
MERGE_CASES: dict[str, Callable[[], None]] = {
    "32x196x3584 bf16": partial(launch_merge, 32, 196, 3584, torch.bfloat16, budget_mode=False),
    "512x196x3584 bf16, budget": partial(
        launch_merge, 512, 196, 3584, torch.bfloat16, budget_mode=True
    ),
    "64x32x4096 fp16": partial(launch_merge, 64, 32, 4096, torch.float16, budget_mode=False),
    "16x144x4096 fp32": partial(launch_merge, 16, 144, 4096, torch.float32, budget_mode=False),
}
SELECTION_CASES: dict[str, Callable[[], None]] = {
    "28 heads, 4 KV, dim 128, bf16": partial(
        launch_selection, 28, 4, 128, torch.bfloat16, masked=False
    ),
    "32 heads, 32 KV, dim 80, fp16, masked": partial(
        launch_selection, 32, 32, 80, torch.float16, masked=True
    ),
    "14 heads, 2 KV, dim 64, fp32, masked": partial(
        launch_selection, 14, 2, 64, torch.float32, masked=True
    ),
    "16 heads, 1 KV, dim 256, bf16, masked": partial(
        launch_selection, 16, 1, 256, torch.bfloat16, masked=True
    ),
}


def resources(kernel: Any, target: Target) -> tuple[int, int]:
    """Registers and spilled bytes of a thread, read from the compiled binary."""
    if target.gpu.backend == "hip":
        assembly = kernel.asm["amdgcn"]

        def metadata(name: str) -> int:
            found = re.search(rf"\.{name}:\s+(\d+)", assembly)
            if found is None:
                raise RuntimeError(f"the compiled code of {kernel.name} does not say its {name}")
            return int(found[1])

        # Scalar registers spill into lanes of vector registers first; only what reaches memory
        # counts.
        return metadata("vgpr_count"), metadata("private_segment_fixed_size")
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump does not say what {kernel.name} uses: {usage!r}")
    return int(found[1]), int(found[2])


def check(target: Target) -> list[Row]:
    """Compile everything for one target, with the configs that it would use."""
    rows = []
    seen: set[int] = set()
    for case, launch in {**MERGE_CASES, **SELECTION_CASES}.items():
        with compiling_for(target) as compiled:
            launch()
        for function, kernel in compiled:
            if id(kernel) not in seen:
                seen.add(id(kernel))
                rows.append(row_of(function, kernel, target, case))
    return rows


def row_of(function: JITFunction, kernel: Any, target: Target, case: str) -> Row:
    registers, spill_bytes = resources(kernel, target)
    shared_bytes = kernel.metadata.shared
    found = hazards(kernel.asm["ttgir"])
    fault = None
    if found:
        fault = "; ".join(found)
    elif spill_bytes:
        fault = f"spills {spill_bytes} bytes a thread"
    elif shared_bytes > target.shared_limit_bytes:
        fault = f"needs {shared_bytes} bytes of shared memory, {target.shared_limit_bytes} exist"
    name = function.fn.__name__.strip("_").removesuffix("_kernel")
    return Row(name, target.name, case, registers, spill_bytes, shared_bytes, len(found), fault)


def print_table(rows: list[Row]) -> None:
    """The worst of each kernel and target over all cases and configs, and every fault."""
    columns = f"{'variants':>8} {'registers':>9} {'spill':>6} {'shared':>7} {'hazards':>7}"
    print(f"{'kernel':18} {'target':8} {columns}")
    for kernel in dict.fromkeys(row.kernel for row in rows):
        for target in dict.fromkeys(row.target for row in rows):
            of_both = [row for row in rows if (row.kernel, row.target) == (kernel, target)]
            if of_both:
                registers = max(row.registers for row in of_both)
                spill = max(row.spill_bytes for row in of_both)
                shared = max(row.shared_bytes for row in of_both)
                found = sum(row.hazards for row in of_both)
                values = f"{len(of_both):8} {registers:9} {spill:6} {shared:7} {found:7}"
                print(f"{kernel:18} {target:8} {values}")
    for row in rows:
        if row.fault:
            print(f"FAULT: {row.kernel} on {row.target} ({row.case}): {row.fault}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [target.name for target in TARGETS]
    parser.add_argument("--target", choices=names, action="append", help="default: all")
    chosen = parser.parse_args(arguments).target or names
    if _device.is_interpreted():
        parser.error("the kernels are interpreted (TRITON_INTERPRET is set): nothing to compile")
    rows: list[Row] = []
    for target in TARGETS:
        if target.name in chosen:
            rows += check(target)
            print(f"{target.name}: {len(rows)} kernels so far", file=sys.stderr)
    print_table(rows)
    faults = [asdict(row) for row in rows if row.fault]
    print(json.dumps({"kernels": len(rows), "targets": chosen, "faults": faults}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
