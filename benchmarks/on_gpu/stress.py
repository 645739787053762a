"""Checks that only many warps at work can fail: races, graphs, waits.

A race shows where warps run in another order. Here that is done by luck, and by force: launches are
repeated by the hundred at the sizes where a tile of few rows is held by several warps, and while
products on another stream take part of the chip, so that programs start late, apart and together
with others. All runs have to give the bits of the first.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from prunevid_kernels import (
    PruneVidConfig,
    compact,
    dpc_knn,
    merge_video,
    merge_videos,
    score_visual_tokens,
    segment_frames,
)

from ..cost.kernels.cases import DTYPES, video_features
from ..cost.kernels.near_ties import Verdict, examine
from .checks import Check, Outcome

# Frames, tokens a frame, channels: up to 16 of something, where a tile is smaller than its threads.
FEW = ((8, 24, 64), (16, 24, 64), (16, 144, 4096), (16, 32, 4096), (5, 16, 256), (2, 9, 48))
TINY = ((4, 9, 48),)  # for the interpreter

MASSIVE_CHANNELS = 4
MASSIVE_SIZE = 60.0  # of a massive channel beside the others' 1, as in vision towers' outputs


def stress_checks(device: torch.device, *, is_tiny: bool) -> Iterator[Check]:
    """Most valuable first."""
    shapes = TINY if is_tiny else FEW
    runs, occupied_runs = (1, 1) if is_tiny else (300, 100)
    names = ["x".join(map(str, shape)) for shape in shapes]
    for name, shape in zip(names, shapes, strict=True):
        repeat = partial(_repeat, shape, device, runs)
        yield Check("repeat", f"{name}, {runs} runs", "bf16", repeat)
    for name, shape in zip(names, shapes, strict=True):
        occupied = partial(_repeat, shape, device, occupied_runs, is_occupied=True)
        yield Check("order", f"{name}, {occupied_runs} runs beside others' work", "bf16", occupied)
    others = 1 if is_tiny else 100
    graph = partial(_graph, device, others, is_tiny)
    yield Check("graph", f"replayed after {others} other shapes", "bf16", graph)
    yield Check(
        "wait", "none in budget mode, new shapes", "bf16", partial(_no_wait, device, is_tiny)
    )
    for dtype in ("bf16",) if is_tiny else tuple(DTYPES):
        for name, shape in zip(names[:3], shapes, strict=False):
            massive = partial(_massive, shape, device, DTYPES[dtype])
            yield Check("massive", f"{name}, {MASSIVE_CHANNELS} massive channels", dtype, massive)


def massive_features(
    frames: int, tokens: int, channels: int, *, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """A generated video [T, N, C] with a few channels that are large in every token."""
    x = video_features(frames, tokens, channels, seed=150, device=device, dtype=torch.float32)
    places = random.Random(150).sample(range(channels), min(MASSIVE_CHANNELS, channels))
    x[..., places] += MASSIVE_SIZE
    return x.to(dtype)


@contextmanager
def _others_at_work(device: torch.device) -> Iterator[Callable[[], None]]:
    """Yields a function that puts products of changing size on another stream."""
    if device.type != "cuda":
        yield lambda: None
        return
    stream = torch.cuda.Stream(device)
    sizes = random.Random(0)
    a = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)

    def occupy() -> None:
        size = sizes.choice((256, 640, 1536, 4096))
        with torch.cuda.stream(stream):
            torch.mm(a[:size], a)

    yield occupy
    torch.cuda.synchronize(device)


def _repeat(
    shape: tuple[int, int, int], device: torch.device, runs: int, *, is_occupied: bool = False
) -> Outcome:
    """Segments, clusters and a budgeted merge of few frames, many times."""
    frames, n, channels = shape
    x = video_features(frames, n, channels, seed=151, device=device, dtype=torch.bfloat16)
    config = PruneVidConfig(budget=max(1, frames * n // 3))
    description = x.float().mean(dim=1)
    points = x[:, : min(n, 16)]

    def once() -> list[torch.Tensor]:
        merged = merge_video(x, config, impl="triton")
        clusters = dpc_knn(points, max(1, points.shape[1] // 2), impl="triton")
        return [
            segment_frames(description, config, impl="triton"),
            merged.tokens,
            merged.layout.source_to_merged,
            clusters.labels,
            clusters.density,
        ]

    first = [tensor.clone() for tensor in once()]
    # Compared on the device: a wait after each run would keep launches from meeting.
    differs = torch.zeros(len(first), dtype=torch.int64, device=device)
    with _others_at_work(device) as occupy:
        for _ in range(runs):
            if is_occupied:
                occupy()
            for place, (a, b) in enumerate(zip(first, once(), strict=True)):
                differs[place] += (a != b).any()
    names = ("segments", "tokens", "map", "labels", "densities")
    bad = [
        f"{name} in {count}" for name, count in zip(names, differs.tolist(), strict=True) if count
    ]
    if bad:
        return Outcome.failed(f"of {runs} runs, other than in the first: {', '.join(bad)}")
    return Outcome(decisions=runs)


def _no_wait(device: torch.device, is_tiny: bool) -> Outcome:
    """Budget mode on ragged batches of shapes that were never seen: torch itself refuses waits."""
    choice = random.Random(7)
    max_frames, max_tokens, count = (4, 8, 1) if is_tiny else (24, 40, 40)
    shapes = [
        (
            [choice.randint(1, max_frames) for _ in range(choice.randint(1, 4))],
            choice.randint(3, max_tokens),
        )
        for _ in range(count)
    ]
    videos = [
        video_features(sum(frames), n, 64, seed=152, device=device, dtype=torch.bfloat16)
        for frames, n in shapes
    ]
    config = PruneVidConfig(budget=0.3)
    for (frames, _), x in zip(shapes, videos, strict=True):
        merge_videos(x, frames, config, impl="triton")  # compiles; another shape below
    fresh = [([*frames, 1], n) for frames, n in shapes]
    more = [
        video_features(sum(frames), n, 64, seed=153, device=device, dtype=torch.bfloat16)
        for frames, n in fresh
    ]
    with _waits_refused(device):
        for (frames, _), x in zip(fresh, more, strict=True):
            merge_videos(x, frames, config, impl="triton")
    return Outcome(decisions=len(fresh))


@contextmanager
def _waits_refused(device: torch.device) -> Iterator[None]:
    """Whatever makes the host wait for the device raises."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _graph(device: torch.device, others: int, is_tiny: bool) -> Outcome:
    """A captured budget merge, scoring and compaction, replayed on new values after other shapes
    came and went."""
    shape = (3, 9, 64) if is_tiny else (16, 36, 128)
    max_frames, max_tokens = (4, 8) if is_tiny else (20, 40)
    x = video_features(*shape, seed=154, device=device, dtype=torch.bfloat16)
    again = video_features(*shape, seed=155, device=device, dtype=torch.bfloat16)
    config = PruneVidConfig(budget=0.4)
    key = torch.randn(1, 2, 260, 64, device=device, dtype=torch.bfloat16)
    query = torch.randn(1, 4, 9, 64, device=device, dtype=torch.bfloat16)
    index = torch.arange(0, 260, 2, device=device)

    def work() -> list[torch.Tensor]:
        merged = merge_video(x, config, impl="triton")
        scores = score_visual_tokens(query, key, slice(5, 250), impl="triton")
        (cut,) = compact([key], index, dim=2, impl="triton")
        return [merged.tokens, merged.layout.source_to_merged, scores, cut]

    outputs, replay = _captured(work, device)
    choice = random.Random(8)
    for _ in range(others):
        frames, n = choice.randint(1, max_frames), choice.randint(2, max_tokens)
        other = torch.randn(frames, n, 64, device=device, dtype=torch.bfloat16)
        merge_video(other, PruneVidConfig(budget=0.5), impl="triton")
        compact([key[:, :, : 100 + frames]], index[:frames], dim=2, impl="triton")
    for values in (x.clone(), again):
        x.copy_(values)
        if device.type == "cuda":
            replay()
        else:
            outputs = work()
        for position, (ours, eager) in enumerate(zip(outputs, work(), strict=True)):
            if not torch.equal(ours, eager):
                return Outcome.failed(f"output {position} of the replay differs from an eager call")
    return Outcome(decisions=2 * len(outputs))


def _captured(
    work: Callable[[], list[torch.Tensor]], device: torch.device
) -> tuple[list[torch.Tensor], Callable[[], Any]]:
    """The outputs of a captured call and what replays it; on a CPU an eager call."""
    if device.type != "cuda":
        return work(), lambda: None
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = work()
    return outputs, graph.replay


def _massive(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> Outcome:
    """Every decision against float64, where a few channels are far from the rest."""
    config, verdict = PruneVidConfig(), Verdict()
    x = massive_features(*shape, device=device, dtype=dtype)
    verdict += examine(x, config, merge_video(x, config, impl="triton"))
    return Outcome.of_verdict(verdict)
