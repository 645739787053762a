"""On what a number was measured: the stamp that every results file carries."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
"""The checkout that this folder lies in; in an installed wheel, the package's own folder."""

PACKAGES = ("torch", "triton", "transformers", "numpy")


def describe(device: torch.device, *, commit: str | None = None) -> dict[str, Any]:
    """Processors, driver, versions, commit and date, as JSON-able values; what is unknown is None.

    Args:
        device: that the numbers are from.
        commit: of this project, where the code runs outside its git checkout.
    """
    found = _git_commit()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit or found[0],
        "has_uncommitted_changes": found[1],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": device.type,
        "gpu": _gpu(device) if device.type == "cuda" else None,
        "cpu": _cpu(),
        "cpu_threads": torch.get_num_threads(),
        "triton_interpreter": os.environ.get("TRITON_INTERPRET") == "1",
    }


def stamp(environment: dict[str, Any]) -> str:
    """A file name without suffix that sorts by date: date, device, commit."""
    date = environment["date"].replace(":", "").replace("-", "").removesuffix("+0000")
    gpu = environment["gpu"]
    device = gpu["name"].replace(" ", "-").lower() if gpu else environment["device"]
    return f"{date}-{device}-{(environment['commit'] or 'unknown')[:10]}"


def _cpu() -> str | None:
    """The processor's name, and the vector instructions that torch uses on it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}" if name else None


def _gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    hip, cuda = torch.version.hip, torch.version.cuda
    return {
        "name": properties.name,
        "architecture": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_cache_bytes": properties.L2_cache_size,
        "runtime": f"hip {hip}" if hip else f"cuda {cuda}",
        "driver": _driver(),
    }


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return result.stdout.splitlines()[0].strip() if result.returncode == 0 else None


def _git_commit() -> tuple[str | None, bool | None]:
    """The checkout's commit, and whether tracked files differ from it."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return None, None
    head = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no")
    return head, None if status is None else bool(status)


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(ROOT), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return result.stdout.strip() if result.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
