"""How often each statement of a kernel runs, at real sizes, without a GPU.

Triton's interpreter runs a kernel's source program by program; a count is put before each
statement, and the addresses of its loads and stores say what moves. Nothing is written down by hand
about a kernel: a rewritten one is counted as it is. Two runs make this fast enough:

1. *structure*: the work is done once as the interpreter does it best (few large blocks), with few
   channels, on a generated video. After each launch the integer tensors are kept: segments, group
   sizes, members.
2. *counts*: the launches are made again with the block sizes of the GPU and all channels, on zeros.
   Of a launch only a sample of programs runs, evenly spread; the integer tensors then get the
   values of the first run. So every decision about what is computed is that of a real video, and
   no float has to be right.

A launch whose trip counts depend on floats, or on an integer tensor whose shape depends on the
block sizes, would be counted wrongly; none is known. The process has to run under
``TRITON_INTERPRET=1``.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from torch import Tensor

from prunevid_kernels.kernels import _device

from .instrument import PATCHED, RAN, instrumented, memory_counted

# Cheap programs are sampled up to so many times more densely, until so many statements have run:
# the sizes of clusters have a long tail.
PASSES = 4
ENOUGH = 20_000


@dataclass
class Program:
    """What one program of a launch did.

    Attributes:
        index: its place in the grid, x fastest.
        share: programs of the grid that it stands for.
        statements: "file:line" of a statement -> times it ran.
        read, written: number of a tensor of the work -> bytes in whole sectors; a load that reads
            a sector again in another step counts again.
        flops: of its matrix products.
    """

    index: int
    share: float
    statements: dict[str, int] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    flops: float = 0.0


@dataclass
class Launch:
    """A launch as it was made.

    Attributes:
        kernel: "module:name".
        arguments: parameter -> ["tensor", dtype, is 16-byte aligned], ["int" or "float", value] or
            ["const", value]; "warps" and "stages" of the launch stand in ``options``.
        grid: programs along x, y and z.
        tensor_bytes: number of a tensor of the work -> its bytes.
    """

    kernel: str
    arguments: dict[str, list[Any]]
    options: dict[str, int]
    grid: tuple[int, int, int]
    programs: list[Program]
    tensor_bytes: dict[str, int]


@dataclass(frozen=True)
class Work:
    """A function to be traced.

    Attributes:
        structure: does the work on real values of few channels; None: nothing depends on values.
        counts: does it at full size, on values that do not matter.
        tensors: what kernels reach through tables of addresses, where any do.
    """

    structure: Callable[[], object] | None
    counts: Callable[[], object]
    tensors: tuple[Tensor, ...] = ()


def launch_from_json(record: Mapping[str, Any]) -> Launch:
    """A launch from its ``asdict``, after JSON made lists of tuples."""
    programs = [Program(**program) for program in record["programs"]]
    x, y, z = record["grid"]
    return Launch(**(dict(record) | {"programs": programs, "grid": (x, y, z)}))


Structure = list[tuple[str, dict[str, Tensor]]]
"""Of each launch its kernel, and what it left of the tensors that decide how later ones run."""

_DECIDE = ("gram_ptr", "norm_ptr")
"""Floats that decide it, besides all integers: equal distances take a longer way."""

_RESULTS = ("_group_mean_kernel", "_shared_mean_kernel")
"""Kernels that write results and nothing that a later launch reads: left out of the run that keeps
what launches leave, of which they took half."""


def keep_structure(work: Work) -> Structure:
    """Do ``work`` on real values once, and keep what later launches are counted by.

    Raises:
        RuntimeError: the kernels are not interpreted here.
    """
    if not _device.is_interpreted():
        raise RuntimeError("tracing needs the kernels under TRITON_INTERPRET=1")
    kept: Structure = []
    if work.structure is not None:
        with _launches_run_by(lambda *launch: _keep_values(kept, *launch)):
            work.structure()
    return kept


def trace(
    work: Work,
    structure: Structure,
    architecture: str,
    sample: int,
    kernels: Sequence[str] | None = None,
    seed: int = 0,
) -> list[Launch]:
    """Count ``work`` with the block sizes of ``architecture``.

    Args:
        work: what is done.
        structure: of the same work, from :func:`keep_structure`.
        architecture: as the config table names it.
        sample: programs of a launch that are run, or all of them; of cheap ones more.
        kernels: launches of kernels without one of these words in their name run one program only.
        seed: of the choice of programs.

    Raises:
        RuntimeError: the two runs launched differently.
    """
    counter = _Counter(work.tensors, sample, kernels, random.Random(seed))
    with (
        mock.patch.object(_device, "architecture", lambda device: architecture),
        instrumented(),
        _launches_run_by(lambda *launch: counter.run(structure, *launch)),
    ):
        work.counts()
    if len(structure) not in (0, len(counter.launches)):
        made = f"{len(structure)} launches at few channels, {len(counter.launches)} at all"
        raise RuntimeError(f"the two runs launched differently: {made}")
    return counter.launches


@contextmanager
def _launches_run_by(launch: Callable[..., None]) -> Iterator[None]:
    from triton.runtime.interpreter import InterpretedFunction

    run = InterpretedFunction.run

    def replaced(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        launch(self, run, args, grid, kwargs)

    with mock.patch.object(InterpretedFunction, "run", replaced):
        yield


def _bound(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Parameter -> value of a launch; options of the launch that are no parameters are left out."""
    known = {name: value for name, value in kwargs.items() if name in function.arg_names}
    bound = inspect.signature(function.fn).bind(*args, **known)
    bound.apply_defaults()
    return dict(bound.arguments)


def _name(function: Any) -> str:
    return f"{function.fn.__module__}:{function.fn.__name__}"


def _keep_values(
    kept: list[tuple[str, dict[str, Tensor]]],
    function: Any,
    run: Any,
    args: tuple[Any, ...],
    grid: Any,
    kwargs: dict[str, Any],
) -> None:
    if function.fn.__name__ not in _RESULTS:
        run(function, *args, grid=grid, warmup=False, **kwargs)
    left = {
        name: value.clone()
        for name, value in _bound(function, args, kwargs).items()
        if isinstance(value, Tensor) and (not value.is_floating_point() or name in _DECIDE)
    }
    kept.append((_name(function), left))


class _Counter:
    """Runs samples of the programs of each launch and counts them."""

    def __init__(
        self,
        tensors: tuple[Tensor, ...],
        sample: int,
        kernels: Sequence[str] | None,
        choice: random.Random,
    ) -> None:
        self.launches: list[Launch] = []
        self._sample = sample
        self._kernels = kernels
        self._choice = choice
        # Every memory that was seen, by address; held, so that none is used twice.
        self._memory: dict[int, tuple[int, str, Any]] = {}
        for tensor in tensors:
            self._number(tensor)

    def _number(self, tensor: Tensor) -> str:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in self._memory:
            end = address + storage.nbytes()
            self._memory[address] = (end, str(len(self._memory)), storage)
        return self._memory[address][1]

    def run(
        self,
        kept: list[tuple[str, dict[str, Tensor]]],
        function: Any,
        run: Any,
        args: tuple[Any, ...],
        grid: Any,
        kwargs: dict[str, Any],
    ) -> None:
        bound = _bound(function, args, kwargs)
        place = len(self.launches)
        if kept and (place >= len(kept) or kept[place][0] != _name(function)):
            raise RuntimeError(f"launch {place} is {_name(function)} at all channels only")
        if callable(grid):
            grid = grid(bound)
        x, y, z = (*(int(size) for size in grid), 1, 1)[:3]
        full_grid = (x, y, z)
        annotations = function.fn.__annotations__
        arguments = {
            name: _described(value, "constexpr" in str(annotations.get(name, "")))
            for name, value in bound.items()
        }
        options = {k: v for k, v in kwargs.items() if k in ("num_warps", "num_stages")}
        numbers = [self._number(value) for value in bound.values() if isinstance(value, Tensor)]
        programs = self._run_sample(function, bound, full_grid)
        sizes = {number: end - start for start, (end, number, _) in self._memory.items()}
        moved = {key for program in programs for key in (*program.read, *program.written)}
        tensor_bytes = {key: sizes[key] for key in sorted(moved | set(numbers)) if key in sizes}
        self.launches.append(
            Launch(_name(function), arguments, options, full_grid, programs, tensor_bytes)
        )
        if kept:
            for name, values in kept[place][1].items():
                tensor = bound[name]
                if tensor.shape == values.shape:
                    tensor.copy_(values)
                elif name in _DECIDE and tensor.shape[1:] == values.shape[1:]:
                    tensor.zero_()[0] = values.sum(dim=0)  # other parts of the same sum
                else:  # depends on the block sizes: no value is known
                    tensor.zero_()

    def _run_sample(
        self, function: Any, bound: dict[str, Any], grid: tuple[int, ...]
    ) -> list[Program]:
        from triton.runtime import interpreter

        total = grid[0] * grid[1] * grid[2]
        is_wanted = self._kernels is None or any(k in _name(function) for k in self._kernels)
        strata = min(total, PASSES * self._sample if is_wanted else 1)
        edges = [total * k // strata for k in range(strata + 1)]
        passes = min(PASSES, -(-strata // self._sample))
        fn = function.rewrite()
        constants = {
            name
            for name, annotation in function.fn.__annotations__.items()
            if "constexpr" in str(annotation)
        }
        PATCHED.clear()
        scope = interpreter._patch_lang(fn)
        programs = []
        try:
            values = {
                name: value if name in constants else interpreter._implicit_cvt(value)
                for name, value in bound.items()
            }
            builder = interpreter.interpreter_builder
            builder.set_grid_dim(*grid)
            done = 0
            for number in (k for start in range(passes) for k in range(start, strata, passes)):
                index = self._choice.randrange(edges[number], edges[number + 1])
                x, rest = index % grid[0], index // grid[0]
                builder.set_grid_idx(x, rest % grid[1], rest // grid[1])
                program = Program(index, 0.0)
                RAN.clear()
                with memory_counted(builder, program, self._memory):
                    fn(**values)
                program.statements = dict(RAN)
                programs.append(program)
                done += sum(program.statements.values())
                if done > ENOUGH and len(programs) >= min(total, self._sample):
                    break
        finally:
            scope.restore()
        for program in programs:
            program.share = total / len(programs)
        return sorted(programs, key=lambda program: program.index)


def _described(value: Any, is_constant: bool) -> list[Any]:
    if isinstance(value, Tensor):
        return ["tensor", str(value.dtype).removeprefix("torch."), value.data_ptr() % 16 == 0]
    if is_constant or isinstance(value, bool):
        if isinstance(value, bool | int | float | str | None):
            return ["const", value]
        return ["const", "tl." + str(value)]  # a type of triton's
    return [type(value).__name__, value]
