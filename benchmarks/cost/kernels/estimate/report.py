"""Estimates as text: a table a piece of work, and what the model leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from . import LEFT_OUT, WorkEstimate
from .gpus import Gpu
from .model import LaunchEstimate

_HEAD = (
    f"{'kernel':22} {'us':>7} {'floor':>6} {'ratio':>6}  {'bound by':14} {'programs':>8} "
    f"{'working':>7} {'warps':>5} {'regs':>5} {'occup.':>6} {'waves':>6} {'Minstr':>7} "
    f"{'MB L2':>7} {'MB HBM':>7}"
)


def as_text(estimates: Sequence[WorkEstimate], gpu: Gpu) -> str:
    """Tables for reading."""
    parts = [
        f"Modelled, not measured: {gpu.name}, {gpu.sms} SMs at {gpu.clock_hz / 1e9:.3f} GHz,"
        f" {gpu.copy_bytes_per_s / 1e12:.2f} TB/s copies; compiled for {gpu.target}; each launch"
        " with its gap in a replayed graph"
    ]
    for estimate in estimates:
        parts.append(f"\n{estimate.work}: {estimate.case}\n{_HEAD}")
        parts += [_line(launch) for launch in estimate.launches]
        ratio = estimate.time_s / estimate.floor_s
        parts.append(
            f"{f'{len(estimate.launches)} launches':22} {1e6 * estimate.time_s:7.1f}"
            f" {1e6 * estimate.floor_s:6.1f} {ratio:6.1f}"
        )
        parts += [f"  {name}: {note}" for name, note in _notes(estimate.launches)]
    parts.append("\nfloor: bytes of the tensors touched, once, or products, in us. Left out:")
    parts += [f"- {text}" for text in LEFT_OUT]
    return "\n".join(parts)


def details(estimates: Sequence[WorkEstimate]) -> str:
    """Cycles and counts of the working programs' mean, a line a launch."""
    lines = []
    for estimate in estimates:
        for launch in estimate.launches:
            values = ", ".join(f"{name} {value:.0f}" for name, value in launch.details.items())
            lines.append(f"{estimate.work}: {launch.kernel}, one program: {values}")
    return "\n".join(lines)


def as_json(estimates: Sequence[WorkEstimate], gpu: Gpu) -> dict[str, Any]:
    """Everything, and that it is a model."""
    return {
        "kind": "estimate",
        "is_measured": False,
        "gpu": asdict(gpu),
        "left_out": list(LEFT_OUT),
        "works": [asdict(estimate) | {"time_s": estimate.time_s} for estimate in estimates],
    }


def _line(launch: LaunchEstimate) -> str:
    ratio = min(launch.over_floor, 9999.9)
    moved = (launch.read_bytes + launch.written_bytes) / 1e6
    return (
        f"{launch.kernel:22} {1e6 * launch.time_s:7.1f} {1e6 * launch.floor_s:6.1f} {ratio:6.1f}"
        f"  {launch.bound:14} {launch.programs:8} {launch.working:7.0f} {launch.warps:5}"
        f" {launch.registers:5} {launch.occupancy:6.2f} {launch.waves:6.1f}"
        f" {launch.instructions:7.2f} {moved:7.1f} {launch.device_bytes / 1e6:7.1f}"
    )


def _notes(launches: Sequence[LaunchEstimate]) -> list[tuple[str, str]]:
    """Each note once a kernel."""
    return list(
        dict.fromkeys((launch.kernel, note) for launch in launches for note in launch.notes)
    )
