"""Where a launch's bytes come from: L2 or device memory.

No cache is simulated. A tensor that was moved before is found in L2 as far as there is room for it
beside what moved since: of a tensor of ``s`` bytes, ``max(0, room - since)`` bytes at most. What is
written goes to device memory once, in its own time.
"""

from __future__ import annotations

from dataclasses import dataclass

from .gpus import L2_SHARE, Gpu
from .trace import Launch


@dataclass(frozen=True)
class Traffic:
    """Bytes of one launch.

    Attributes:
        read_bytes, written_bytes: by all programs, in whole sectors.
        device_bytes: from and to device memory.
        floor_bytes: each tensor's bytes that are touched, once.
        hit_share: of what is read, what L2 has.
    """

    read_bytes: float
    written_bytes: float
    device_bytes: float
    floor_bytes: float
    hit_share: float

    @property
    def l2_bytes(self) -> float:
        return self.read_bytes + self.written_bytes


class Cache:
    """What L2 holds between the launches of one piece of work."""

    def __init__(self, gpu: Gpu) -> None:
        self._room = gpu.l2_bytes * L2_SHARE
        self._moved = 0.0
        self._last: dict[str, float] = {}  # tensor -> bytes that had moved when it was used last

    def launch(self, launch: Launch) -> Traffic:
        """The traffic of a launch; from then on the cache holds what it moved."""
        read = _by_tensor(launch, "read")
        written = _by_tensor(launch, "written")
        touched_read = {key: min(n, _size(launch, key, n)) for key, n in read.items()}
        touched_written = {key: min(n, _size(launch, key, n)) for key, n in written.items()}
        missed = 0.0
        for key, num_bytes in touched_read.items():
            held = 0.0
            if key in self._last:
                since = self._moved - self._last[key]
                held = max(0.0, min(num_bytes, self._room - since))
            missed += num_bytes - held
        device = missed + sum(touched_written.values())
        self._moved += sum(touched_read.values()) + sum(
            n for key, n in touched_written.items() if key not in touched_read
        )
        for key in (*read, *written):
            self._last[key] = self._moved
        all_read = sum(read.values())
        return Traffic(
            read_bytes=all_read,
            written_bytes=sum(written.values()),
            device_bytes=device,
            floor_bytes=sum(touched_read.values()) + sum(touched_written.values()),
            hit_share=1.0 - missed / all_read if all_read else 1.0,
        )


def _by_tensor(launch: Launch, kind: str) -> dict[str, float]:
    totals: dict[str, float] = {}
    for program in launch.programs:
        for key, num_bytes in getattr(program, kind).items():
            totals[key] = totals.get(key, 0.0) + num_bytes * program.share
    return totals


def _size(launch: Launch, key: str, default: float) -> float:
    return float(launch.tensor_bytes.get(key, default))
