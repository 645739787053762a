"""The model of kernel times, on kernels whose time can be told without it.

Tracing runs here, where kernels are interpreted; compiling in a process of its own, one for all
tests: its start takes longer than most of them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import small_kernels
import torch
from paths import ROOT
from triton.runtime.interpreter import InterpretedFunction

from prunevid_kernels.benchmarks.cost.kernels.cases import MODELS, REDUCED, Case
from prunevid_kernels.benchmarks.cost.kernels.estimate import GPUS
from prunevid_kernels.benchmarks.cost.kernels.estimate import __main__ as tracing
from prunevid_kernels.benchmarks.cost.kernels.estimate.lanes import wavefronts
from prunevid_kernels.benchmarks.cost.kernels.estimate.sass import Location, parse
from prunevid_kernels.benchmarks.cost.kernels.estimate.trace import (
    Launch,
    Work,
    keep_structure,
    trace,
)

# A line is a request, and the line that answers it a result.
COMPILE = """
import json, sys
from dataclasses import asdict
from prunevid_kernels.benchmarks.cost.kernels.estimate import GPUS, launch_estimates
for line in sys.stdin:
    request = json.loads(line)
    gpu = GPUS[request["gpu"]]
    launches = [launch_estimates([launch], gpu)[0] for launch in request["launches"]]
    print(json.dumps([asdict(launch) for launch in launches]), flush=True)
"""


class Compiler:
    """A process in which kernels are compiled."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def estimates(self, launches: list[Launch], gpu: str = "h100") -> list[dict[str, Any]]:
        """Each launch's estimate on its own."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {"gpu": gpu, "launches": [asdict(launch) for launch in launches]}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the compiling process ended; it has written why to stderr"
        found: list[dict[str, Any]] = json.loads(line)
        return found


@pytest.fixture(scope="module")
def compiler() -> Iterator[Compiler]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    search = (str(ROOT / "tests/helpers"), os.environ.get("PYTHONPATH"))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, search))
    with subprocess.Popen(
        [sys.executable, "-c", COMPILE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        yield Compiler(process)  # its input ends with the block, and so does the process


def traced(launch: Callable[[], object], sample: int = 8) -> Launch:
    """The one launch of ``launch``."""
    (found,) = trace(Work(None, launch), [], "sm_90", sample)
    return found


def copy(elements: int, warps: int = 4) -> Launch:
    x, out = torch.zeros(elements), torch.zeros(elements)
    block = 256 * warps
    kernel = small_kernels.copy[(-(-elements // block),)]
    return traced(lambda: kernel(x, out, elements, BLOCK=block, num_warps=warps))


def chain(steps: int) -> Launch:
    order, out = torch.zeros(64, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    return traced(lambda: small_kernels.chain[(1,)](order, out, steps, num_warps=1))


def mean(kernel: Any, frames: int = 1, channels: int = 512) -> Launch:
    """The sizes that the counts of an emulator are known for."""
    x = torch.zeros((frames, 196, channels), dtype=torch.bfloat16)
    blocks = channels // 256
    mean, norm = torch.zeros((frames, channels)), torch.zeros((frames, 196, blocks))
    bad = torch.zeros((frames, blocks), dtype=torch.int32)
    arguments = (x, mean, norm, bad, 196, channels, blocks)
    return traced(
        lambda: kernel[(frames, blocks)](*arguments, BLOCK_N=16, BLOCK_C=256, num_warps=4)
    )


def product(depth: int) -> Launch:
    a, b = torch.zeros((2, 64, depth), dtype=torch.bfloat16)
    out = torch.zeros((64, 64))
    kernel = small_kernels.product[(1,)]
    return traced(lambda: kernel(a, b, out, depth, BLOCK=64, BLOCK_K=64, num_warps=4))


def test_a_copy_takes_its_bytes_over_the_bandwidth(compiler: Compiler) -> None:
    elements = 2**26
    short, long = compiler.estimates([copy(elements), copy(2 * elements)])
    floor_s = 8 * elements / GPUS["h100"].copy_bytes_per_s
    assert short["bound"] == "device memory"
    assert short["floor_s"] == pytest.approx(floor_s, rel=0.001)
    assert floor_s < short["time_s"] < 1.05 * floor_s
    assert long["time_s"] == pytest.approx(2 * short["time_s"], rel=0.02)


def test_stores_of_the_machine_code_are_the_bytes_that_are_written(compiler: Compiler) -> None:
    launch = copy(2**16)
    (found,) = compiler.estimates([launch])
    of_a_warp = found["details"]["memory instructions"]  # loads and stores of 16 bytes a lane
    assert found["written_bytes"] == 4 * 2**16
    assert of_a_warp * 32 * 16 * 4 == 2 * 4 * 1024


def test_a_chain_of_loads_waits_for_each(compiler: Compiler) -> None:
    hundred, thousand = compiler.estimates([chain(100), chain(1000)])
    assert hundred["bound"] == thousand["bound"] == "latency"
    gpu = GPUS["h100"]
    step = (thousand["details"]["alone"] - hundred["details"]["alone"]) / 900
    # The load, and a few instructions that make an address of its value.
    assert gpu.l2_latency < step < 1.25 * gpu.hbm_latency
    # Unrolling must not be taken for more steps.
    assert thousand["details"]["memory instructions"] == pytest.approx(1002, abs=8)


def test_products_of_the_machine_code_are_those_of_the_source(compiler: Compiler) -> None:
    """m64n64k16: 2 x 64 x 64 x 16 operations by the four warps of a program together."""
    for depth in (512, 1024):
        (found,) = compiler.estimates([product(depth)])
        assert found["flops"] == 2 * 64 * 64 * depth
        assert found["details"]["tensor instructions"] * 2 * 64 * 64 * 16 == found["flops"]


def test_reductions_in_a_loop_cost_what_an_emulator_counted(compiler: Compiler) -> None:
    """110,424 wavefronts for 4,844, by executing the PTX; loads and stores of global memory and
    shuffles pass the same pipe and are counted along here."""
    bad, good = (
        launch
        for launch in compiler.estimates(
            [mean(small_kernels.mean_reduced_in_the_loop), mean(small_kernels.mean_reduced_once)]
        )
    )
    assert bad["notes"] == good["notes"] == []
    assert 110_424 <= 2 * bad["details"]["shared"] < 1.1 * 110_424
    assert 4_844 <= 2 * good["details"]["shared"] < 20_000


@pytest.mark.sample(2)
@pytest.mark.parametrize("gpu", GPUS)
def test_the_better_reduction_is_faster_on_every_gpu(compiler: Compiler, gpu: str) -> None:
    launches = [
        mean(small_kernels.mean_reduced_in_the_loop, 32, 3584),
        mean(small_kernels.mean_reduced_once, 32, 3584),
    ]
    bad, good = compiler.estimates(launches, gpu)
    assert bad["bound"] == "shared"
    assert good["time_s"] < 0.5 * bad["time_s"]


def test_twice_the_frames_take_twice_the_time(compiler: Compiler) -> None:
    kernel = small_kernels.mean_reduced_in_the_loop
    short, long = compiler.estimates([mean(kernel, 132, 3584), mean(kernel, 264, 3584)])
    assert long["time_s"] == pytest.approx(2 * short["time_s"], rel=0.05)


@pytest.mark.parametrize(
    ("addresses", "width", "passes"),
    [
        pytest.param(range(0, 128, 4), 4, 1, id="one word a bank"),
        pytest.param([0] * 32, 4, 1, id="all lanes read one word"),
        pytest.param(range(0, 32 * 128, 128), 4, 32, id="all lanes on one bank"),
        pytest.param(range(0, 32 * 8, 8), 4, 2, id="every second bank"),
        pytest.param(range(0, 32 * 8, 8), 8, 2, id="8 bytes a lane"),
        pytest.param(range(0, 32 * 16, 16), 16, 4, id="16 bytes a lane"),
        pytest.param(range(0, 32 * 132, 132), 4, 1, id="rows of 33 words"),
        pytest.param(range(0, 64, 2), 2, 1, id="halves of words"),
    ],
)
def test_passes_of_an_access(addresses: Any, width: int, passes: int) -> None:
    lanes = np.array(list(addresses), dtype=np.int64)
    assert wavefronts(lanes, np.ones(32, bool), width) == passes


def test_lanes_that_are_switched_off_cause_no_conflict() -> None:
    lanes = np.arange(0, 32 * 128, 128, dtype=np.int64)
    assert wavefronts(lanes, np.arange(32) < 3, 4) == 3
    assert wavefronts(lanes, np.zeros(32, bool), 4) == 0


def test_encodings_say_what_waits_for_what() -> None:
    """Lines as nvdisasm prints them: a load that signals board 0, and its user that waits."""
    text = """
.text._k:
	//## File ".nv_debug_ptx_txt", line 7
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;  /* 0x0000000402048981 */
                                                                    /* 0x001ea2000c1e1d00 */
.L_x_1:
        /*0020*/                   FADD R4, R4, R5 ;                 /* 0x0000000504047221 */
                                                                    /* 0x004fca0000000000 */
        /*0030*/               @P0 BRA `(.L_x_1) ;                   /* 0xfffffffc00f80947 */
                                                                    /* 0x000fea000383ffff */
"""
    code = parse(text, {7: Location("k.py", 3)})
    load, add, branch = code.instructions
    assert (load.opcode, load.predicate, load.write_board) == ("LDG.E.128", "!P0", 2)
    assert load.wait_mask == 0b000001
    assert (add.wait_mask, add.write_board, add.stall) == (0b000100, 7, 5)
    assert branch.is_branch and branch.target == ".L_x_1"
    assert code.labels[".L_x_1"] == 1
    assert load.source == add.source == Location("k.py", 3)


def test_every_launch_of_the_merge_is_modelled(compiler: Compiler) -> None:
    """To a budget; without one it launches the same. Scoring and compaction, and the process that
    traces them, are in the dry run of ``on_gpu``."""
    work = tracing.work_of(Case(REDUCED, REDUCED.frames, "bf16"), "merge, budget")
    launches = trace(work, keep_structure(work), "sm_80", 4)
    assert len(launches) >= 8
    for launch in compiler.estimates(launches, "a100"):
        assert launch["instructions"] > 0, launch["kernel"]
        assert launch["floor_s"] < launch["time_s"] < 1e-3, launch["kernel"]
        assert launch["spill_bytes"] == 0 and launch["at_once"] >= 1
        assert not any("not matched" in note for note in launch["notes"]), launch["kernel"]


def test_programs_of_one_warp_share_the_sub_cores_of_an_sm(compiler: Compiler) -> None:
    """As many warps do the same work, four to a program or one."""
    four, one = compiler.estimates([copy(2**20), copy(2**20, warps=1)])
    assert one["instructions"] == pytest.approx(four["instructions"], rel=0.1)
    assert one["details"]["alone"] == pytest.approx(four["details"]["alone"], rel=0.1)


def test_averages_decide_nothing_and_are_not_made_for_the_structure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They took half of the time that 512 frames took."""
    made = []
    run = InterpretedFunction.run

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        made.append(self.fn.__name__)
        run(self, *args, **kwargs)

    monkeypatch.setattr(InterpretedFunction, "run", noted)
    work = tracing.work_of(Case(REDUCED, 8, "bf16"), "merge")
    kept = [name.split(":")[1] for name, _ in keep_structure(work)]
    assert kept[-1] == "_group_mean_kernel"
    assert made == kept[:-1]


@pytest.mark.parametrize(("frames", "channels"), [(32, 512), (64, 512), (512, 128)])
def test_a_long_generated_video_has_fewer_channels(
    frames: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Made(Exception):
        """The features would be made."""

    def asked(frames: int, tokens: int, channels: int, **options: object) -> None:
        raise Made(frames, channels)

    monkeypatch.setattr(tracing, "video_features", asked)
    work = tracing.work_of(Case(MODELS["llava-onevision-7b"], frames, "bf16"), "merge")
    assert work.structure is not None
    with pytest.raises(Made) as made:
        work.structure()
    assert made.value.args == (frames, channels)
