"""Host time of eager calls, without a GPU: everything that Python and Triton's launcher do, and no
launch.

    python -m prunevid_kernels.benchmarks.cost.host_time [--against CHECKOUT]

The kernels' launchers run as on a GPU, Triton binds and looks up each launch's variant, and what
would be handed to the driver is dropped. So the time that the host needs before the device has its
work is what is left. What a GPU adds, the driver's own call and its allocator, is not in it;
torch's allocator for the CPU plays the latter. With ``--against``, another checkout of this project
is timed in processes that alternate with those of this one, and the median of the pairs' ratios is
printed: single times of a shared machine say little.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 32

OF_LAUNCHER = 6
"""What Triton's launcher takes between the grid and a kernel's arguments: the stream, the function,
its metadata, and three things for hooks."""


class Variant:
    """A launch's variant as Triton compiles it, which does nothing when it is run."""

    function = packed_metadata = None
    is_triton_launching = False

    def __init__(self, kernel: Any, key: str, report: Report | None) -> None:
        self.kernel, self.key, self.report = kernel, key, report

    def launch_metadata(self, *args: Any) -> None:
        self.is_triton_launching = True  # it asks, and then runs

    def run(self, x: int, y: int, z: int, *args: Any) -> None:
        if self.report is not None:
            if not self.is_triton_launching:  # past its binder
                self._examine(args[OF_LAUNCHER:], self.report)
            self.is_triton_launching = False

    def _examine(self, args: tuple[Any, ...], report: Report) -> None:
        """Whether Triton too would have taken this variant for the arguments."""
        *_, binder = next(reversed(self.kernel.device_caches.values()))
        _, specialization, _ = binder(*args)
        report.examined += 1
        if not self.key.startswith(str(list(specialization))):
            report.wrong.append(f"{self.kernel.fn.__name__}: {specialization} is not {self.key}")


@dataclass
class Report:
    """What was met: the variants that Triton would have compiled, launches past its binder that
    were held against it, and those that took another variant than it would have."""

    variants: set[tuple[str, str]] = field(default_factory=set)
    examined: int = 0
    wrong: list[str] = field(default_factory=list)


_DEVICES = itertools.count()


@contextlib.contextmanager
def launches_dropped(*, examine: bool = False) -> Iterator[Report]:
    """Inside, launches run up to the driver, as on an H100."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

    from prunevid_kernels.kernels import _device, merge

    class Driver:
        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return number

        def get_current_stream(self, device: int) -> int:
            return 0

    report = Report()
    number = next(_DEVICES)  # without what was compiled before

    def compiled(self: JITFunction, key: str, signature: Any, device: int, *args: Any) -> Variant:
        report.variants.add((self.fn.__name__, key))
        variant = Variant(self, key, report if examine else None)
        self.device_caches[device][0][key] = variant
        return variant

    def table(self: Any) -> Any:
        """What no kernel has written: no merged token, and no bad frame in the only video."""
        values = self._values.zero_()
        values[-1] = FRAMES
        return values.long()

    # An older checkout has no way past the binder.
    past_binder = sys.modules.get("prunevid_kernels.kernels._launch")
    driver = triton.runtime.driver
    active = "_active" if hasattr(driver, "_active") else "active"
    with contextlib.ExitStack() as stack:
        replace = mock.patch.object
        for patch in (
            replace(driver, active, Driver()),
            replace(JITFunction, "_do_compile", compiled),
            replace(_device, "architecture", lambda device: "sm_90"),
            replace(merge._HostCopy, "wait", table),
            # A tensor on the CPU is taken for one on a GPU.
            mock.patch("prunevid_kernels.kernels.is_interpreted", lambda: True),
        ):
            stack.enter_context(patch)
        if past_binder is not None:
            stack.enter_context(replace(past_binder, "_COMPILED", {}))
        yield report


def calls() -> dict[str, Callable[[], Any]]:
    """The calls that are timed, of small tensors: sizes cost nothing on a GPU's host, but torch's
    allocator for the CPU maps large ones anew."""
    import torch

    from prunevid_kernels import PruneVidConfig, compact, merge_video, score_visual_tokens

    x = torch.zeros((FRAMES, 20, 16), dtype=torch.bfloat16)
    query = torch.zeros((1, 28, 20, 16), dtype=torch.bfloat16)
    key = torch.zeros((1, 4, 260, 16), dtype=torch.bfloat16)
    cache = [torch.zeros((1, 4, 260, 16), dtype=torch.bfloat16) for _ in range(22)]
    index = torch.arange(0, 260, 3)
    threshold, budget = PruneVidConfig(), PruneVidConfig(budget=0.25)
    return {
        "merge": lambda: merge_video(x, threshold, impl="triton"),
        "merge, budget": lambda: merge_video(x, budget, impl="triton"),
        "score": lambda: score_visual_tokens(query, key, slice(14, 250), impl="triton"),
        "compact": lambda: compact(cache, index, dim=2, impl="triton"),
    }


def timed(repeats: int) -> dict[str, float]:
    """The least microseconds of each call of ``calls``, of batches of ten."""
    times = {}
    with launches_dropped():
        for name, call in calls().items():
            of_batches = []
            for batch in range(repeats + 3):
                start = time.process_time_ns()
                for _ in range(10):
                    call()
                if batch >= 3:
                    of_batches.append((time.process_time_ns() - start) / 10_000)
            times[name] = min(of_batches)
    return times


def examined(requests: int) -> Report:
    """Mixed requests, in every way that makes variants; each launch is held against Triton's own
    choice."""
    import random

    import torch

    from prunevid_kernels import (
        PruneVidConfig,
        compact,
        dpc_knn,
        merge_videos,
        score_visual_tokens,
        segment_frames,
    )

    chance = random.Random(0)

    def tensor(*shape: int) -> torch.Tensor:
        """Aligned to 16 bytes or not."""
        dtype = chance.choice((torch.float16, torch.bfloat16, torch.float32))
        first = chance.choice((0, 0, 1))
        return torch.zeros(first + math.prod(shape), dtype=dtype)[first:].view(shape)

    with launches_dropped(examine=True) as report:
        for _ in range(requests):
            frames = [chance.randint(2, 40) for _ in range(chance.choice((1, 1, 2, 7)))]
            tokens, channels = chance.choice((1, 16, 20, 33)), chance.choice((1, 16, 40, 130))
            x = tensor(sum(frames), tokens, channels)
            ratio = chance.choice((0.25, 0.3, 1.0))
            budget = chance.choice((1, 7, 0.25, 0.9))
            config = PruneVidConfig(budget=budget, segment_ratio=ratio, cluster_ratio=ratio)
            if all(budget < count * tokens for count in frames):
                merge_videos(x, frames, config, impl="triton")
            segment_frames(x[:, 0].contiguous(), config, impl="triton")
            dpc_knn(x, 1, impl="triton")
            rows, keys, dim = (
                chance.randint(1, 40),
                chance.randint(50, 600),
                chance.choice((16, 80)),
            )
            query = tensor(1, 4, rows, dim)
            key = tensor(1, keys, 2, dim).to(query.dtype)
            key = key.transpose(1, 2) if chance.random() < 0.5 else key.view(1, 2, keys, dim)
            mask = torch.ones((1, keys), dtype=torch.bool) if chance.random() < 0.5 else None
            offset = chance.choice((None, keys - 1))
            score_visual_tokens(
                query, key, slice(1, 40), causal_offset=offset, key_mask=mask, impl="triton"
            )
            cache = [tensor(2, keys, dim) for _ in range(chance.choice((1, 7, 22)))]
            index = torch.arange(0, keys + 1, 3)[chance.choice((0, 1)) :] - 1
            compact(cache, index, dim=1, impl="triton")
    return report


def variants_of_one_model(requests: int) -> dict[str, int]:
    """Kernel -> variants that Triton compiles for mixed requests to one model: videos of 4 to 64
    frames merged to a budget, questions of 1 to 60 tokens, whose scores are taken, and a cache of
    28 layers compacted."""
    import random

    import torch

    from prunevid_kernels import PruneVidConfig, compact, merge_video, score_visual_tokens

    chance = random.Random(0)
    with launches_dropped() as report:
        for _ in range(requests):
            x = torch.zeros((chance.randint(4, 64), 20, 64), dtype=torch.bfloat16)
            config = PruneVidConfig(budget=chance.choice((0.1, 0.2, 0.25, 0.3)))
            tokens = len(merge_video(x, config, impl="triton").tokens)
            rows = chance.randint(1, 60)
            query = torch.zeros((1, 28, rows, 16), dtype=torch.bfloat16)
            key = torch.zeros((1, 4, 14 + tokens + rows, 16), dtype=torch.bfloat16)
            score_visual_tokens(query, key, slice(14, 14 + tokens), impl="triton")
            compact([key] * 56, torch.arange(0, tokens, 3), dim=2, impl="triton")
    kernels = [kernel for kernel, _ in report.variants]
    return {kernel: kernels.count(kernel) for kernel in sorted(set(kernels))}


class _Checkout:
    """Finds the packages of a checkout of this project before an installed one's."""

    def __init__(self, root: Path) -> None:
        self._folders = {
            "prunevid_kernels": root / "prunevid_kernels",
            "prunevid_kernels.adapters": root / "adapters",
            "prunevid_kernels.benchmarks": root / "benchmarks",
        }

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        folder = self._folders.get(name)
        if folder is None:
            return None
        return spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


def in_a_process_of(root: Path, repeats: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--checkout", str(root), "--repeats", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"timing {root} failed:\n{done.stderr}")
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return times


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--pairs", type=int, default=5, help="processes of each checkout")
    parser.add_argument("--repeats", type=int, default=15, help="batches of ten calls a process")
    parser.add_argument(
        "--examine",
        type=int,
        metavar="REQUESTS",
        help="time nothing; say of mixed requests whether Triton would take the same variants",
    )
    parser.add_argument(
        "--variants",
        type=int,
        metavar="REQUESTS",
        help="time nothing; count what Triton compiles for mixed requests to one model",
    )
    parser.add_argument("--checkout", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.checkout is not None:
        sys.meta_path.insert(0, _Checkout(options.checkout))
        print(json.dumps(timed(options.repeats)))
        return 0
    if options.variants is not None:
        found = variants_of_one_model(options.variants)
        print(json.dumps(found | {"all": sum(found.values())}))
        return 0
    if options.examine is not None:
        report = examined(options.examine)
        for line in report.wrong[:5]:
            print(line)
        counts = {"variants": len(report.variants), "examined": report.examined}
        print(json.dumps(counts | {"wrong": len(report.wrong)}))
        return 1 if report.wrong else 0
    roots = [ROOT] if options.against is None else [ROOT, options.against.resolve()]
    runs: list[list[dict[str, float]]] = [[] for _ in roots]
    for _ in range(options.pairs):
        for root, of_root in zip(roots, runs, strict=True):
            of_root.append(in_a_process_of(root, options.repeats))
    for name in runs[0][0]:
        median_us = [statistics.median(run[name] for run in of_root) for of_root in runs]
        line = f"{name:14} {median_us[0]:8.1f} us"
        if len(roots) > 1:
            ratios = [own[name] / other[name] for own, other in zip(*runs, strict=True)]
            line += f"   {median_us[1]:8.1f} us there, ratio {statistics.median(ratios):.2f}"
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
