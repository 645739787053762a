"""Every kernel under compute-sanitizer: accesses out of bounds, and races in shared memory.

The sanitizer makes a program many times slower, so it runs small shapes in a process of its own,
with torch's caching allocator off: each tensor is then an allocation whose end the sanitizer knows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import Any

import torch

from prunevid_kernels import (
    PruneVidConfig,
    compact,
    dpc_knn,
    merge_videos,
    score_visual_tokens,
    segment_frames,
)

from ..cost.kernels.cases import video_features

TOOLS = ("memcheck", "racecheck")


def run_sanitizer(tool: str, seconds: float) -> dict[str, Any]:
    """Run :func:`exercise_kernels` under one of the tools, for at most ``seconds``."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"tool": tool, "status": "skipped", "reason": "compute-sanitizer is not on PATH"}
    entry = [sys.executable, "-m", "prunevid_kernels.benchmarks.on_gpu", "--sanitize-target"]
    command = [program, "--tool", tool, "--error-exitcode", "86", *entry]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=max(1.0, seconds), env=environment
        )
    except subprocess.TimeoutExpired:
        return {"tool": tool, "status": "cut", "reason": f"not done in {seconds:.0f} s"}
    text = result.stdout + result.stderr
    summary = re.search(r"(ERROR|RACECHECK) SUMMARY: .*", text)
    is_clean = result.returncode == 0 and summary is not None and DONE in result.stdout
    return {
        "tool": tool,
        "status": "passed" if is_clean else "failed",
        "reason": None if is_clean else text[-3000:],
        "summary": summary.group(0) if summary else None,
    }


DONE = "every kernel ran"


def exercise_kernels(device: torch.device) -> None:
    """Launch every kernel on shapes that end inside a block, and say so at the end."""
    config = PruneVidConfig()
    for dtype in (torch.bfloat16, torch.float32):
        frames = [3, 1, 4]
        x = video_features(sum(frames), 37, 72, seed=0, device=device, dtype=dtype)
        merge_videos(x, frames, config, impl="triton")
        segment_frames(x.float().mean(dim=1), config, impl="triton")
        dpc_knn(x[:3], 5, lengths=[37, 19, 5], impl="triton")
        for heads, head_dim in ((2, 80), (4, 64)):
            query = torch.randn(2, 4, 7, head_dim, device=device, dtype=dtype)
            key = torch.randn(2, heads, 133, head_dim, device=device, dtype=dtype)
            mask = torch.ones(2, 133, dtype=torch.bool, device=device)
            mask[0, :5] = False
            modes: list[dict[str, Any]] = [{}, {"causal_offset": 126}, {"key_mask": mask}]
            for options in modes:
                score_visual_tokens(query, key, slice(9, 121), impl="triton", **options)
        tensors = [torch.randn(2, 3, 41, 24, device=device).to(dtype) for _ in range(5)]
        index = torch.arange(0, 41, 3, device=device)
        compact(tensors, index, dim=2, impl="triton")
        compact(tensors, torch.stack((index, index + 1)), dim=2, impl="triton")
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    print(DONE)
