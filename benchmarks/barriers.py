"""Finds, in a compiled kernel, global memory that is read and written with no barrier between.

Of a tile of 16 x 16 on 512 threads, two threads hold each element. If a kernel loads such a tile
and stores its successor at the same place, one of the two stores, and the other may load what that
one has stored: the result depends on which warp is first. Nothing shows in Triton's interpreter,
and on a GPU only where warps drift apart. So it is read off Triton's GPU code (TTGIR), where
layouts are written down and barriers are still those of the source. Of what is reached from the
same pointer argument, between two barriers,

* a load after a store is a fault: it may read what another thread has stored, or has yet to;
* a store after a load is a fault, unless both go through the same pointers in the same layout, of
  which every thread holds elements of its own.

That is more than races: of two places behind one pointer argument nothing is known, so such places
need arguments of their own. Back edges of loops are followed, both ways of a branch are too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_BARRIERS = {"gpu.barrier", "ttg.barrier"}
_LOADS = {"tt.load", "ttg.async_copy_global_to_local", "amdg.buffer_load"}
_LOADS |= {"amdg.buffer_load_to_local", "amdgpu.buffer_load", "amdgpu.buffer_load_to_local"}
_STORES = {"tt.store", "amdg.buffer_store", "amdgpu.buffer_store"}
_ATOMICS = {"tt.atomic_rmw", "tt.atomic_cas", "amdg.buffer_atomic_rmw", "amdgpu.buffer_atomic_rmw"}
# What else touches memory, or runs code that stands elsewhere.
_NOT_UNDERSTOOD = re.compile(r"descriptor|tma|tt\.call|extern|buffer_|atomic|warp_specialize")

_OPERATION = re.compile(r'\s*(?:(%[^=]*?) = )?"?([a-z_]+\.[\w.]+)"?(.*)')
_VALUE = re.compile(r"%[\w.$-]+(?:#\d+)?")
_TENSOR = re.compile(r"tensor<((?:\d+x)+)[^,]*?, (#ttg\.\w+<\{.*?\}>+|#\w+)>")


@dataclass(frozen=True)
class Access:
    """One load or store: what it reaches, through which pointers, held how by the threads."""

    is_store: bool
    is_atomic: bool
    roots: frozenset[str]
    pointers: str
    layout: str
    is_replicated: bool
    place: str


@dataclass
class _Region:
    """A line of code and the regions that it opens."""

    text: str
    regions: list[list[_Region]] = field(default_factory=list)


def hazards(ttgir: str) -> list[str]:
    """What is read and written without a barrier between, one line each.

    Raises:
        ValueError: code that is not understood, so that nothing can be said of it.
    """
    return _Checker(ttgir).found()


def is_replicated(layout: str, shape: list[int], aliases: dict[str, str]) -> bool:
    """Whether threads share elements of a tensor; True where the layout is not understood."""
    layout = aliases.get(layout, layout)
    if "ttg.linear" in layout:
        bases = re.search(r"lane = \[(.*?)\], warp = \[(.*?)\], block", layout)
        vectors = re.findall(r"\[([\d, ]+)\]", bases[1] + bases[2]) if bases else ["0"]
        return any(set(vector) <= set("0, ") for vector in vectors)
    # A slice may be of a slice.
    while sliced := re.fullmatch(r"#ttg\.slice<\{dim = (\d+), parent = (.*)\}>", layout):
        layout, dim = aliases.get(sliced[2], sliced[2]), int(sliced[1])
        shape = [*shape[:dim], 1, *shape[dim:]]
    names = ("sizePerThread", "threadsPerWarp", "warpsPerCTA")
    parts = [re.search(rf"{name} = \[([\d, ]+)\]", layout) for name in names]
    if "ttg.blocked" not in layout or not all(parts):
        return True
    counts = [[int(value) for value in part[1].split(",")] for part in parts if part]
    held = zip(shape, *counts, strict=True)
    return any(size * lanes * warps > max(extent, size) for extent, size, lanes, warps in held)


class _Checker:
    def __init__(self, ttgir: str) -> None:
        self._lines = ttgir.splitlines()
        self._aliases = dict(re.findall(r"^(#\w+) = (#ttg\.\w+<.*>)$", ttgir, re.M))
        self._locations = dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", ttgir, re.M))
        # Of each value: the pointers it is made of, and how, layouts aside.
        self._roots: dict[str, frozenset[str]] = {}
        self._made: dict[str, str] = {}
        self._at_label: dict[str, frozenset[Access]] = {}
        self._faults: dict[str, None] = {}

    def found(self) -> list[str]:
        position = next(i for i, line in enumerate(self._lines) if "tt.func" in line)
        for name in re.findall(r"(%\w+): !tt\.ptr", self._lines[position]):
            self._roots[name] = frozenset((name,))
        function, _ = self._read(position)
        self._block(function.regions[0], frozenset())
        return list(self._faults)

    # The text's structure ------------------------------------------------------------------------

    def _read(self, position: int) -> tuple[_Region, int]:
        """The operation at a line with all its regions, and the line after it."""
        node = _Region(self._lines[position])
        opens = self._opens(node.text)
        position += 1
        while opens:
            body: list[_Region] = []
            while not self._lines[position].lstrip().startswith("}"):
                child, position = self._read(position)
                body.append(child)
            node.regions.append(body)
            closing = self._lines[position]
            node.text += closing
            opens = self._opens(closing)  # "} else {", "} do {"
            position += 1
        return node, position

    @staticmethod
    def _opens(line: str) -> bool:
        return re.sub(r" loc\(.*\)$", "", line).rstrip().endswith(("{", "({"))

    # The order of accesses -----------------------------------------------------------------------

    def _block(self, nodes: list[_Region], pending: frozenset[Access]) -> frozenset[Access]:
        """Follow a list of operations; ``pending`` are the accesses since the last barrier."""
        for node in nodes:
            label = re.match(r"\s*(\^\w+)(?:\(.*\))?:", node.text)
            if label:
                if "!tt.ptr" in node.text:
                    raise ValueError(f"a pointer is handed to a block: {node.text.strip()}")
                pending = self._at_label.get(label[1], pending)
                continue
            found = _OPERATION.match(node.text)
            if found:
                pending = self._operation(node, found, pending)
        return pending

    def _operation(
        self, node: _Region, found: re.Match[str], pending: frozenset[Access]
    ) -> frozenset[Access]:
        name = found[2]
        if name in _BARRIERS:
            return frozenset()
        if name in _LOADS | _STORES | _ATOMICS:
            self._define(found)
            access = self._access(name, found[3])
            self._compare(access, pending)
            return pending | {access}
        if _NOT_UNDERSTOOD.search(name):
            raise ValueError(f"{name} is not understood")
        if name in ("scf.for", "scf.while"):
            return self._loop(node, found, pending)
        if name == "scf.if":
            ways = [self._block(region, pending) for region in node.regions]
            if len(ways) == 1:
                ways.append(pending)
            self._yielded(node, found)
            return frozenset().union(*ways)
        if name.startswith("cf."):
            for label in re.findall(r"\^\w+", found[3]):
                self._at_label[label] = self._at_label.get(label, frozenset()) | pending
            return frozenset()
        self._define(found)  # regions of reductions and scans reach no memory
        return pending

    def _loop(
        self, node: _Region, found: re.Match[str], pending: frozenset[Access]
    ) -> frozenset[Access]:
        for argument, first in re.findall(r"(%[\w.$-]+) = (%[\w.$#-]+)", found[3]):
            self._roots[argument] = self._roots.get(first, frozenset())
            self._made[argument] = argument
        for _ in range(2):  # the second time after the first: what the back edge brings
            for region in node.regions:
                pending |= self._block(region, pending)
        self._yielded(node, found)
        return pending

    def _yielded(self, node: _Region, found: re.Match[str]) -> None:
        """The results of a loop or branch can be any of what its regions yield."""
        if not found[1]:
            return
        result = found[1].split(":")[0].strip()
        roots: list[frozenset[str]] = []
        for region in node.regions:
            for last in region[-1:]:
                for operand in _VALUE.findall(last.text.split(" : ")[0]):
                    roots.append(self._roots.get(operand, frozenset()))
        for name in [result, *(f"{result}#{i}" for i in range(len(roots)))]:
            self._roots[name] = frozenset().union(*roots)

    # Values and accesses -------------------------------------------------------------------------

    def _define(self, found: re.Match[str]) -> None:
        if not found[1]:
            return
        results, name = found[1].split(":")[0].strip(), found[2]
        body = re.sub(r" loc\([^()]*(?:\([^()]*\))*[^()]*\)$", "", found[3])
        head, _, types = body.rpartition(" : ")
        operands = _VALUE.findall(head)
        roots = frozenset().union(*(self._roots.get(operand, frozenset()) for operand in operands))
        if name == "tt.int_to_ptr":
            roots = frozenset((results,))
        elif "!tt.ptr" in types.rpartition("->")[2] and not roots and name != "tt.load":
            raise ValueError(f"where {results} points to is not understood: {found[0].strip()}")
        self._roots[results] = roots if name not in _LOADS else frozenset()
        if name == "ttg.convert_layout":
            self._made[results] = self._made.get(operands[0], operands[0])
            return
        text = _VALUE.sub(lambda value: self._made.get(value[0], value[0]), head)
        shape = _TENSOR.search(types)
        text = f"{name}{re.sub(r'tensor<.*?>|#[a-z]+[0-9]*', '', text)}:{shape[1] if shape else ''}"
        # Long texts become numbers: the same text, the same number.
        self._made[results] = f"%<{hash(text):x}>"

    def _access(self, name: str, rest: str) -> Access:
        operands = _VALUE.findall(rest.split(" : ")[0])
        pointers = operands[:1] if name.startswith("tt") else operands
        if name == "ttg.async_copy_global_to_local":
            pointers = operands[:1]
        elif "buffer" in name:
            # Values and masks stand beside the pointer and its offsets in brackets.
            base = re.search(r"(%[\w.$#-]+)\[(%[\w.$#-]+)\]", rest)
            if base is None:
                raise ValueError(f"{name} without offsets: {rest}")
            pointers = [base[1], base[2]]
        roots = frozenset().union(*(self._roots.get(one, frozenset()) for one in pointers[:1]))
        if not roots:
            raise ValueError(f"what {name}{rest} reaches is not understood")
        typed = rest.rpartition(" : ")[2]
        tensor = _TENSOR.search(typed)
        layout = str(tensor[2]) if tensor else ""
        shape = [int(extent) for extent in tensor[1].split("x")[:-1]] if tensor else []
        return Access(
            is_store=name in _STORES | _ATOMICS,
            is_atomic=name in _ATOMICS,
            roots=roots,
            pointers="+".join(self._made.get(one, one) for one in pointers),
            layout=self._aliases.get(layout, layout),
            # A scalar is every thread's.
            is_replicated=not shape or is_replicated(layout, shape, self._aliases),
            place=self._place(rest),
        )

    def _compare(self, access: Access, pending: frozenset[Access]) -> None:
        for earlier in pending:
            if not access.roots & earlier.roots or access.is_atomic and earlier.is_atomic:
                continue
            what = ", ".join(sorted(access.roots & earlier.roots))
            if earlier.is_store and not access.is_store:
                text = f"{what} is stored at {earlier.place} and loaded at {access.place}"
            elif access.is_store and not earlier.is_store:
                is_same = (access.pointers, access.layout) == (earlier.pointers, earlier.layout)
                if is_same and not access.is_replicated:
                    continue
                how = "held by several threads" if is_same else "held by other threads"
                text = f"{what} is loaded at {earlier.place}, {how}, and stored at {access.place}"
            else:
                continue
            self._faults[f"{text} with no barrier between"] = None

    def _place(self, rest: str) -> str:
        found = re.search(r"loc\((#loc\d*)\)\s*$", rest)
        for name in self._chain(found[1] if found else ""):
            line = re.search(r'"[^"]*?([^"/]+\.py)":(\d+)', self._locations.get(name, ""))
            if line:
                return f"{line[1]}:{line[2]}"
        return "an unknown place"

    def _chain(self, name: str) -> Iterator[str]:
        """A location and what it stands for: named, or called from elsewhere."""
        for _ in range(math.isqrt(len(self._locations)) + 8):
            yield name
            inner = re.search(r"#loc\d*", self._locations.get(name, ""))
            if inner is None:
                return
            name = inner[0]
