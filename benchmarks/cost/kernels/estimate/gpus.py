"""What the model knows of a GPU: public constants, each with its source.

Latencies are of an idle machine; rates are what one multiprocessor (SM) or one of its four
sub-cores takes in a cycle. None was measured by this project. They come from

- [W]  NVIDIA's architecture whitepapers and data sheets (A100, H100, H200, B200, RTX Blackwell);
- [P]  the CUDA C++ Programming Guide: arithmetic throughput and technical specifications by compute
       capability;
- [L]  Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via
       Microbenchmarking" (arXiv 2402.13499): latencies of A100, RTX 4090 and H100;
- [C]  Chips and Cheese, "Nvidia's H100: Funny L2, and Tons of Bandwidth" (2023): L2 bandwidth;
- [J]  Jia et al., "Dissecting the NVIDIA Volta GPU Architecture via Microbenchmarking"
       (arXiv 1804.06826): what the control bits of an instruction mean, latencies of shuffles and
       special functions, which later generations hardly changed.

What is guessed says so. AMD's targets are left out: the model reads NVIDIA's machine code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU. Sizes in bytes, rates in bytes or FLOP a second, latencies in cycles.

    Attributes:
        target: the architecture that is compiled for, as ``compile_check`` names it.
        clock_hz: of the SMs under load.
        hbm_bytes_per_s: data sheet; ``hbm_share`` of it is what a long copy reaches.
        l2_bytes_per_s: all SMs together, hits.
        l2_bytes: capacity.
        tensor_flops_per_s: bf16 with float32 sums, dense.
        warps, registers, shared_bytes, programs: what an SM holds.
        fp32_cycles, int_cycles, fp64_cycles, conversion_cycles: that one warp instruction takes of
            a sub-core.
        mma_macs: products of bf16 that a sub-core's tensor core takes in a cycle.
        mma_sync_share: of that rate, what ``mma.sync`` reaches.
        shared_latency, l2_latency, hbm_latency: of a dependent load.
    """

    name: str
    target: str
    sms: int
    clock_hz: float
    hbm_bytes_per_s: float
    l2_bytes_per_s: float
    l2_bytes: int
    tensor_flops_per_s: float
    warps: int
    shared_bytes: int
    programs: int
    fp32_cycles: float
    fp64_cycles: float
    conversion_cycles: float
    mma_macs: float
    mma_sync_share: float
    shared_latency: float
    l2_latency: float
    hbm_latency: float
    registers: int = 65536  # [P] all of them
    int_cycles: float = 2.0  # [P] 64 results a cycle and SM, sub-core 16
    hbm_share: float = 0.9  # guess, as usual for copies of hundreds of megabytes

    @property
    def copy_bytes_per_s(self) -> float:
        """What a long copy reaches."""
        return self.hbm_bytes_per_s * self.hbm_share


# [P] sizes; [W] SMs, bandwidth, products, L2; [L] latencies; [C] L2 bandwidth of an H100 PCIe
# (5.5 to 6 TB/s at 114 SMs), scaled by SMs for the SXM card; A100's by the same measurements.
# mma.sync on Hopper reaches 62 % of the rate that wgmma does [L]. Clock of H100: what is held under
# load, below the boost of 1.98 GHz.
_HOPPER: dict[str, Any] = {
    "target": "sm_90",
    "sms": 132,
    "clock_hz": 1.755e9,
    "l2_bytes_per_s": 6.5e12,
    "l2_bytes": 50 * 2**20,
    "tensor_flops_per_s": 989e12,
    "warps": 64,
    "shared_bytes": 228 * 1024,
    "programs": 32,
    "fp32_cycles": 1.0,
    "fp64_cycles": 2.0,
    "conversion_cycles": 2.0,
    "mma_macs": 512.0,
    "mma_sync_share": 0.62,
    "shared_latency": 29.0,
    "l2_latency": 263.0,
    "hbm_latency": 479.0,
}

GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="h100", hbm_bytes_per_s=3.35e12, **_HOPPER),
        Gpu(name="h200", hbm_bytes_per_s=4.8e12, **_HOPPER),
        Gpu(
            name="a100",
            target="sm_80",
            sms=108,
            clock_hz=1.41e9,
            hbm_bytes_per_s=2.04e12,
            l2_bytes_per_s=4.5e12,
            l2_bytes=40 * 2**20,
            tensor_flops_per_s=312e12,
            warps=64,
            shared_bytes=164 * 1024,
            programs=32,
            fp32_cycles=2.0,
            fp64_cycles=4.0,
            conversion_cycles=8.0,
            mma_macs=256.0,
            mma_sync_share=1.0,
            shared_latency=29.0,
            l2_latency=262.0,
            hbm_latency=466.0,
        ),
        # Latencies guessed as Hopper's; the rates of one of its two dies' SMs are Hopper's but for
        # the tensor cores'.
        Gpu(
            name="b200",
            target="sm_100",
            sms=148,
            clock_hz=1.85e9,
            hbm_bytes_per_s=8.0e12,
            l2_bytes_per_s=9.0e12,
            l2_bytes=126 * 2**20,
            tensor_flops_per_s=2250e12,
            warps=64,
            shared_bytes=228 * 1024,
            programs=32,
            fp32_cycles=1.0,
            fp64_cycles=2.0,
            conversion_cycles=2.0,
            mma_macs=1024.0,
            mma_sync_share=0.31,
            shared_latency=29.0,
            l2_latency=300.0,
            hbm_latency=600.0,
        ),
        # A GeForce RTX 5090; latencies are those of an RTX 4090 [L].
        Gpu(
            name="rtx5090",
            target="sm_120",
            sms=170,
            clock_hz=2.4e9,
            hbm_bytes_per_s=1.79e12,
            l2_bytes_per_s=5.0e12,
            l2_bytes=96 * 2**20,
            tensor_flops_per_s=209e12,
            warps=48,
            shared_bytes=100 * 1024,
            programs=24,
            fp32_cycles=1.0,
            fp64_cycles=64.0,
            conversion_cycles=2.0,
            mma_macs=128.0,
            mma_sync_share=1.0,
            shared_latency=30.0,
            l2_latency=273.0,
            hbm_latency=541.0,
        ),
    )
}

# Latencies in cycles that hardly differ between these generations. [J], [L].
SHUFFLE_LATENCY = 24.0
SPECIAL_LATENCY = 22.0  # reciprocal, exponential, logarithm, conversions
CONSTANT_LATENCY = 30.0
SPECIAL_REGISTER_LATENCY = 20.0
BARRIER_LATENCY = 30.0  # after the last warp has come
MMA_LATENCY = 33.0  # m16n8k16
REDUX_LATENCY = 60.0  # guess

# A sub-core's cycles for one warp instruction of the special function unit. [P] 16 results a cycle
# and SM.
SPECIAL_CYCLES = 8.0

# What an SM can draw from L2 in a cycle. [W] of A100, kept by later ones.
L2_BYTES_PER_SM_CYCLE = 64.0

# Between two kernels of a replayed graph, and from a kernel's start to its first instruction and
# from its last one to its end. Guesses from published graph measurements (NVIDIA, "Getting Started
# with CUDA Graphs": about 1 us more a kernel than its own time; later generations somewhat less).
GRAPH_GAP_S = 0.8e-6
RAMP_S = 0.7e-6

# Part of the L2 that a tensor is found in again: the cache is two halves, neither of which knows
# the other's lines [W], and its replacement is not known. A guess.
L2_SHARE = 0.8

# [P] registers are handed out 256 a warp; an SM keeps 1 KiB of shared memory for each program.
REGISTER_UNIT = 256
SHARED_RESERVED = 1024
SUB_CORES = 4
WARP = 32
