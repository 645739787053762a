"""Machine code: what the compiler made of a kernel, one record an instruction, and its loops.

``nvdisasm``, which comes with Triton, prints the instructions with their encoding and the line of
the PTX text that each one came from; PTX in turn names the source lines. Bits 105 to 121 of an
encoding are the compiler's instructions to the scheduler: how many cycles to wait after the
instruction, which of six scoreboards it will signal, and which it waits for (Jia et al., arXiv
1804.06826, section 2.1; unchanged since Volta). So dependences and their waits are read off and
not guessed.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import triton

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"

_INSTRUCTION = re.compile(
    r"/\*(?P<place>[0-9a-f]{4,})\*/\s+(?:@(?P<predicate>!?U?P(?:\d|T))\s+)?"
    r"(?P<opcode>[A-Z][\w.]*)\s*(?P<operands>.*?)\s*;\s+/\* 0x(?P<low>[0-9a-f]{16}) \*/"
)
_HIGH_HALF = re.compile(r"^\s*/\* 0x([0-9a-f]{16}) \*/\s*$")
_LABEL = re.compile(r"^(\.L_x_\d+|\$[\w$]+|[A-Za-z_][\w$]*):")
_PTX_LINE = re.compile(r'//## File "\.nv_debug_ptx_txt", line (\d+)')
_TARGET = re.compile(r"`\((\.L_x_\d+|\$?[\w$]+)\)")
_FILE = re.compile(r'^\s*\.file\s+(\d+)\s+(?:"([^"]*)"\s+)?"([^"]*)"')
_LOCATION = re.compile(r"^\s*\.loc\s+(\d+)\s+(\d+)\s")


@dataclass(frozen=True)
class Location:
    """A line of a source file."""

    file: str
    line: int


@dataclass(frozen=True)
class Instruction:
    """One instruction of a warp.

    Attributes:
        opcode: with its modifiers, ``LDG.E.128``.
        operands: as printed.
        predicate: ``P0``, ``!P3``, ``UP1`` or empty.
        stall: cycles before the warp's next instruction.
        write_board, read_board: the scoreboard that is signalled when the result is there, when
            the operands have been read; 7: none.
        wait_mask: the scoreboards that have to be clear before it issues.
        ptx_line: the line of PTX it came from, counted from 1; 0: none is named.
        source: the source line it came from, where one is known.
        target: the label that a branch leads to, where it names one.
    """

    opcode: str
    operands: str
    predicate: str
    stall: int
    write_board: int
    read_board: int
    wait_mask: int
    ptx_line: int
    source: Location | None
    target: str | None

    @property
    def name(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.split(".")[0]

    @property
    def is_branch(self) -> bool:
        return self.name in ("BRA", "EXIT", "RET", "BRX", "JMP", "BREAK", "KILL")


@dataclass(frozen=True)
class Code:
    """A kernel's instructions in order, and which of them the labels stand before."""

    instructions: list[Instruction]
    labels: dict[str, int]


def source_locations(ptx: str) -> dict[int, Location]:
    """Line of the PTX text, counted from 1, -> the source line that its instruction came from."""
    files: dict[str, str] = {}
    for line in ptx.splitlines():
        found = _FILE.match(line)
        if found:
            folder = f"{found[2]}/" if found[2] and not found[3].startswith("/") else ""
            files[found[1]] = folder + found[3]
    locations: dict[int, Location] = {}
    current: Location | None = None
    for number, line in enumerate(ptx.splitlines(), start=1):
        found = _LOCATION.match(line)
        if found:
            # Line 0: the compiler made it, for no line in particular.
            current = Location(files[found[1]], int(found[2])) if int(found[2]) else current
        elif current is not None:
            locations[number] = current
    return locations


@functools.lru_cache(
    maxsize=64
)  # several works launch the same kernels, and it takes half a second
def disassemble(cubin: bytes, ptx: str) -> Code:
    """Take a compiled kernel apart.

    Raises:
        RuntimeError: the disassembler printed something that is not understood.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [TOOLS / "nvdisasm", "-gp", "-hex", "-c", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return parse(text, source_locations(ptx))


def parse(text: str, locations: dict[int, Location]) -> Code:
    """What ``nvdisasm -gp -hex -c`` printed."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    ptx_line = 0
    pending: re.Match[str] | None = None
    for line in text.splitlines():
        if pending is not None:
            high = _HIGH_HALF.match(line)
            if high is None:
                raise RuntimeError(f"no second half of an encoding in {line!r}")
            instructions.append(_instruction(pending, int(high[1], 16), ptx_line, locations))
            pending = None
            continue
        pending = _INSTRUCTION.search(line)
        if pending is not None:
            continue
        label, at = _LABEL.match(line), _PTX_LINE.search(line)
        if label:
            labels[label[1]] = len(instructions)
        elif at:
            ptx_line = int(at[1])
    if not instructions:
        raise RuntimeError("the disassembler printed no instructions")
    return Code(instructions, labels)


def _instruction(
    found: re.Match[str], high: int, ptx_line: int, locations: dict[int, Location]
) -> Instruction:
    control = high >> 41  # bit 105 of the whole
    target = _TARGET.search(found["operands"])
    return Instruction(
        opcode=found["opcode"],
        operands=found["operands"],
        predicate=found["predicate"] or "",
        stall=control & 0xF,
        write_board=control >> 5 & 0x7,
        read_board=control >> 8 & 0x7,
        wait_mask=control >> 11 & 0x3F,
        ptx_line=ptx_line,
        source=locations.get(ptx_line),
        target=target[1] if target else None,
    )


# ------------------------------------------------------------------------------------------------
# Basic blocks, their dominators and loops
# ------------------------------------------------------------------------------------------------


@dataclass
class Block:
    """Instructions that run one after the other, and the blocks that may follow."""

    index: int
    instructions: list[Instruction]
    successors: list[int] = field(default_factory=list)
    is_exit: bool = False  # the program may end here


@dataclass
class Region:
    """A loop of the machine code, or the whole kernel (``header`` 0, ``parent`` None).

    Attributes:
        blocks: all of them, those of inner loops included.
        own: those that are in no inner loop.
    """

    header: int
    blocks: set[int]
    parent: Region | None = None
    children: list[Region] = field(default_factory=list)
    own: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Graph:
    """The kernel's entry is block 0; blocks that only a call reaches are left out."""

    blocks: dict[int, Block]
    dominators: dict[int, set[int]]
    whole: Region

    def regions(self) -> list[Region]:
        """Every region, outer before inner."""
        found = [self.whole]
        for region in found:
            found += region.children
        return found


def graph_of(code: Code) -> Graph:
    """Cut machine code into blocks and find its loops."""
    blocks = _blocks(code)
    reached = _reachable(blocks)
    blocks = {index: block for index, block in blocks.items() if index in reached}
    dominators = _dominators(blocks)
    return Graph(blocks, dominators, _regions(blocks, dominators))


def never_taken(instruction: Instruction) -> bool:
    """A branch that only rare lanes take, or none: the divergent form of a warp-wide step."""
    return instruction.predicate == "!PT" or instruction.opcode.startswith("BRA.DIV")


def _blocks(code: Code) -> dict[int, Block]:
    instructions = code.instructions
    starts = {0, *code.labels.values()}
    starts |= {place + 1 for place, item in enumerate(instructions) if item.is_branch}
    edges = sorted(start for start in starts if start < len(instructions))
    numbers = {start: number for number, start in enumerate(edges)}
    blocks = {}
    for number, (start, end) in enumerate(zip(edges, [*edges[1:], len(instructions)], strict=True)):
        block = Block(number, instructions[start:end])
        last = block.instructions[-1]
        follows = number + 1 if end < len(instructions) else None
        if not last.is_branch or never_taken(last):
            targets = [follows]
        elif last.name == "BRA":
            is_certain = last.predicate in ("", "PT") and ".U" not in last.opcode
            target = None if last.target is None else numbers.get(code.labels[last.target])
            targets = [target] if is_certain and "P" not in last.operands else [target, follows]
        else:
            block.is_exit = True
            targets = [] if last.predicate in ("", "PT") else [follows]
        block.successors = list(dict.fromkeys(t for t in targets if t is not None))
        blocks[number] = block
    return blocks


def _reachable(blocks: dict[int, Block]) -> set[int]:
    found, waiting = {0}, [0]
    while waiting:
        for successor in blocks[waiting.pop()].successors:
            if successor not in found:
                found.add(successor)
                waiting.append(successor)
    return found


def _dominators(blocks: dict[int, Block]) -> dict[int, set[int]]:
    predecessors: dict[int, list[int]] = {index: [] for index in blocks}
    for block in blocks.values():
        for successor in block.successors:
            predecessors[successor].append(block.index)
    dominators = {index: set(blocks) for index in blocks}
    dominators[0] = {0}
    is_stable = False
    while not is_stable:
        is_stable = True
        for index in blocks:
            if index:
                before = (dominators[p] for p in predecessors[index])
                new = set.intersection(*before) | {index}
                is_stable &= new == dominators[index]
                dominators[index] = new
    return dominators


def _regions(blocks: dict[int, Block], dominators: dict[int, set[int]]) -> Region:
    """The natural loops, nested."""
    predecessors: dict[int, list[int]] = {index: [] for index in blocks}
    for block in blocks.values():
        for successor in block.successors:
            predecessors[successor].append(block.index)
    bodies: dict[int, set[int]] = {}
    for block in blocks.values():
        for header in block.successors:
            if header not in dominators[block.index]:
                continue
            body, waiting = bodies.setdefault(header, {header}), [block.index]
            while waiting:
                index = waiting.pop()
                if index not in body:
                    body.add(index)
                    waiting += predecessors[index]
    whole = Region(0, set(blocks))
    regions = [whole]
    for header, body in sorted(bodies.items(), key=lambda item: -len(item[1])):
        if blocks[header].instructions[0].name == "BRA" and body == {header}:
            continue  # the trap after the end
        parent = min((r for r in regions if body <= r.blocks), key=lambda r: len(r.blocks))
        region = Region(header, body, parent)
        parent.children.append(region)
        regions.append(region)
    for region in regions:
        inner = set().union(*(child.blocks for child in region.children))
        region.own = sorted(region.blocks - inner)
    return whole
