"""What a GPU can do at best, and what the work needs at least: a kernel is judged by the quotient.

A *ceiling* is measured: the rate of a large device-to-device copy, reads and writes counted, and of
a large bfloat16 matrix product on random values. A *cost* is counted: the fewest bytes that a stage
can move and the fewest operations it can do, each input read once and each output written once. The
*floor* of a stage is the larger of bytes over copy rate and operations over product rate; nothing
runs much faster.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from .timing import time_runs


@dataclass(frozen=True)
class Ceilings:
    """Rates of one device. ``source`` says where they come from: measured, or a data sheet."""

    copy_bytes_per_s: float
    matmul_flops_per_s: float
    source: str


# A lead where no GPU is at hand, never a result: NVIDIA H200 SXM, 4.8 TB/s and 989 TFLOP/s dense.
H200_DATASHEET = Ceilings(4.8e12, 989e12, "NVIDIA H200 data sheet, not measured")


def measure_ceilings(device: torch.device, *, runs: int = 20) -> Ceilings:
    """Measure both rates on ``device``, on a CPU with small sizes and a float32 product."""
    on_gpu = device.type == "cuda"
    elements, side = (2**30, 8192) if on_gpu else (2**24, 512)
    original = torch.randint(0, 127, (elements,), dtype=torch.int8, device=device)
    copy = torch.empty_like(original)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    copy_s, matmul_s = (
        statistics.median(time_runs([work], device, warmups=3, runs=runs)) / 1000
        for work in (lambda: copy.copy_(original), lambda: a @ b)
    )
    name = str(dtype).removeprefix("torch.")
    return Ceilings(2 * elements / copy_s, 2 * side**3 / matmul_s, f"measured, {name} product")


@dataclass(frozen=True)
class Cost:
    """Bytes moved to and from device memory, and floating-point operations (a product with its
    addition counts as two)."""

    name: str
    num_bytes: float
    flops: float

    def floor_ms(self, ceilings: Ceilings) -> float:
        """The time that no implementation gets much below."""
        bytes_s = self.num_bytes / ceilings.copy_bytes_per_s
        return 1000 * max(bytes_s, self.flops / ceilings.matmul_flops_per_s)
