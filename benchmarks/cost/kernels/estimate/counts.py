"""How often each block of machine code runs, from how often the source's statements ran.

A loop of the machine code is one of the source, known by the lines of its instructions; its trips
are counted, divided by the copies that the compiler unrolled. Where unrolled and single copies of
a loop stand side by side, the trips go to the largest copy first, as they do on the machine. In a
loop, a block that can be gone around runs as often as the statements that only stand there. The
compiler moves code, so a statement's count is no block's: a block inside a loop is never given the
count of a line that was moved there from outside.
"""

from __future__ import annotations

import ast
import functools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .sass import Graph, Instruction, Location, Region
from .trace import Program

# Instructions of which the compiler makes one for each of the source's steps, so that copies show.
_MEMORY = ("LDG", "STG", "LDS", "STS", "LDGSTS", "ATOMG", "RED", "SHFL", "REDUX", "HMMA", "LDSM")

# This share of a part's instructions has to say that it runs, for it to run.
_SUPPORT = 0.15


@dataclass(frozen=True)
class SourceLoop:
    """A loop of a source file."""

    file: str
    header: int


@dataclass
class LoopCode:
    """A loop of the machine code.

    Attributes:
        loop: the source's; None: not known.
        copies: steps of the source in one trip.
    """

    region: Region
    loop: SourceLoop | None
    copies: int = 1


@dataclass(frozen=True)
class Structure:
    """What is the same for all programs of a kernel."""

    graph: Graph
    loops: dict[int, LoopCode]  # by header
    unknown_loops: int


@dataclass
class BlockCounts:
    """Times that each block runs in one program."""

    of: dict[int, float] = field(default_factory=dict)


def structure_of(graph: Graph) -> Structure:
    """Match the loops of the machine code with those of the source."""
    loops: dict[int, LoopCode] = {}
    for region in graph.regions()[1:]:
        loop = _source_loop(graph, region)
        loops[region.header] = LoopCode(region, loop)
    kin: dict[SourceLoop, list[LoopCode]] = {}
    for item in loops.values():
        if item.loop is not None:
            kin.setdefault(item.loop, []).append(item)
    for loop, items in kin.items():
        sizes = [_steps(graph, item.region, loop) for item in items]
        least = min((size for size in sizes if size), default=0)
        for item, size in zip(items, sizes, strict=True):
            by_size = round(size / least) if least else 1
            item.copies = max(1, by_size, _unrolled(graph, item.region))
    unknown = sum(item.loop is None for item in loops.values())
    return Structure(graph, loops, unknown)


def count_blocks(structure: Structure, program: Program) -> BlockCounts:
    """Times that each block runs in ``program``."""
    trips = _trips(structure, program)
    counts = BlockCounts()
    _spread(structure, program, structure.graph.whole, 1.0, 1.0, trips, counts)
    return counts


# ------------------------------------------------------------------------------------------------
# Source files: counts are kept by statement, because a statement over several lines is one step
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """A ``for`` or ``while``.

    Attributes:
        header: line of the statement; 0 stands for the whole function.
        first: line of the first statement in its body.
    """

    header: int
    first: int


@dataclass(frozen=True)
class SourceFile:
    """What the lines of a file belong to.

    Attributes:
        statement: line -> first line of its statement; the head of a compound statement is one.
        loop: first line of a statement -> the innermost loop around it, within its function.
        loops: header -> loop.
    """

    statement: dict[int, int]
    loop: dict[int, int]
    loops: dict[int, Head]


@functools.cache
def read_source(path: str) -> SourceFile:
    """The statements of a Python file."""
    found = SourceFile({}, {}, {})
    _visit(ast.parse(Path(path).read_text()).body, 0, found)
    return found


def _visit(body: list[ast.stmt], loop: int, found: SourceFile) -> None:
    for node in body:
        blocks = [block for name in ("body", "orelse") if (block := getattr(node, name, None))]
        if not blocks:
            last = node.end_lineno or node.lineno
        else:  # the head alone
            last = max(node.lineno, blocks[0][0].lineno - 1)
        for line in range(node.lineno, last + 1):
            found.statement[line] = node.lineno
        found.loop[node.lineno] = loop
        inner = loop
        if isinstance(node, ast.For | ast.While):
            found.loops[node.lineno] = Head(node.lineno, node.body[0].lineno)
            inner = node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            inner = 0
        for block in blocks:
            _visit(block, inner, found)


# ------------------------------------------------------------------------------------------------
# Loops
# ------------------------------------------------------------------------------------------------


def _statement(instruction: Instruction) -> tuple[str, int] | None:
    """File and first line of the statement that an instruction came from."""
    return _statement_at(instruction.source)


@functools.cache
def _statement_at(place: Location | None) -> tuple[str, int] | None:
    if place is None or _is_tritons(place.file):  # whose functions are called from many places
        return None
    line = read_source(place.file).statement.get(place.line)
    return None if line is None else (place.file, line)


def _is_tritons(file: str) -> bool:
    return "/triton/" in file or not file.endswith(".py")


def _own_instructions(graph: Graph, region: Region) -> list[Instruction]:
    return [item for index in region.own for item in graph.blocks[index].instructions]


def _source_loop(graph: Graph, region: Region) -> SourceLoop | None:
    """The branch back says it where it kept its line; else most of the loop's own instructions."""
    for index in region.own:
        block = graph.blocks[index]
        if region.header in block.successors:
            place = _statement(block.instructions[-1])
            if place and place[1] in read_source(place[0]).loops:
                return SourceLoop(*place)
    votes: Counter[SourceLoop] = Counter()
    for item in _own_instructions(graph, region):
        place = _statement(item)
        header = place and read_source(place[0]).loop.get(place[1])
        if place and header:
            votes[SourceLoop(place[0], header)] += 1
    return votes.most_common(1)[0][0] if votes else None


def _is_in(place: tuple[str, int], loop: SourceLoop) -> bool:
    """Whether a statement stands directly in a source loop."""
    return place[0] == loop.file and read_source(place[0]).loop.get(place[1]) == loop.header


def _steps(graph: Graph, region: Region, loop: SourceLoop) -> int:
    """Memory instructions of the loop's own statements, or all of its instructions."""
    found = [item for item in _own_instructions(graph, region) if item.name in _MEMORY]
    places = [_statement(item) for item in found]
    return sum(place is not None and _is_in(place, loop) for place in places)


def _unrolled(graph: Graph, region: Region) -> int:
    """Copies of one PTX instruction in the loop: the assembler's unrolling."""
    copies = Counter(
        (item.ptx_line, item.name)
        for item in _own_instructions(graph, region)
        if item.name in ("LDG", "STG", "LDGSTS", "ATOMG", "RED")
    )
    return min(copies.values(), default=1)


def _trips(structure: Structure, program: Program) -> dict[int, float]:
    """Header of each loop of the machine code -> its trips in all."""
    trips: dict[int, float] = {}
    kin: dict[SourceLoop, list[LoopCode]] = {}
    for header, item in structure.loops.items():
        if item.loop is None:
            trips[header] = -1.0  # as often as it is entered
        else:
            kin.setdefault(item.loop, []).append(item)
    for loop, items in kin.items():
        first = read_source(loop.file).loops[loop.header].first
        steps = program.statements.get(f"{loop.file}:{first}", 0)
        entries = program.statements.get(f"{loop.file}:{loop.header}", 0)
        left = steps / entries if entries else 0.0
        groups: dict[int, list[LoopCode]] = {}
        for item in items:
            groups.setdefault(item.copies, []).append(item)
        smallest = min(groups)
        for copies in sorted(groups, reverse=True):
            times = left / copies if copies == smallest else left // copies
            left -= times * copies
            for item in groups[copies]:
                trips[item.region.header] = times * entries / len(groups[copies])
    return trips


# ------------------------------------------------------------------------------------------------
# Branches
# ------------------------------------------------------------------------------------------------


def _spread(
    structure: Structure,
    program: Program,
    region: Region,
    trips_here: float,
    steps_here: float,
    trips: dict[int, float],
    counts: BlockCounts,
) -> None:
    """Give every block of a region its count: ``trips_here`` times what one trip makes of it."""
    graph = structure.graph
    child_of = {index: child for child in region.children for index in child.blocks}
    nodes = [*region.own, *(child.header for child in region.children)]
    weight = dict.fromkeys(nodes, 0.0)
    weight[region.header] = 1.0
    for node in _in_order(structure, region, nodes, child_of):
        flow = weight[node]
        child = child_of.get(node)
        members = child.blocks if child else {node}
        exits = {
            successor
            for index in members
            for successor in graph.blocks[index].successors
            if successor not in members
        }
        inside = [s for s in exits if s in region.blocks and s != region.header]
        shares = _shares(structure, program, node, members, inside, steps_here, trips)
        for successor, share in shares.items():
            target = child_of[successor].header if successor in child_of else successor
            weight[target] += flow * share
        if child is None:
            counts.of[node] = flow * trips_here
    for child in region.children:
        known = trips[child.header]
        entered = weight[child.header] * trips_here
        number = entered if known < 0 else known
        steps = number * structure.loops[child.header].copies
        _spread(structure, program, child, number, max(steps, 1e-9), trips, counts)


def _in_order(
    structure: Structure, region: Region, nodes: list[int], child_of: dict[int, Region]
) -> list[int]:
    """Nodes of a region, each after all that lead to it."""
    graph, done, order = structure.graph, set(), []

    def visit(node: int) -> None:
        done.add(node)
        child = child_of.get(node)
        for index in sorted(child.blocks if child else {node}):
            for successor in graph.blocks[index].successors:
                if successor in region.blocks and successor != region.header:
                    target = child_of[successor].header if successor in child_of else successor
                    if target not in done and target in nodes:
                        visit(target)
        order.append(node)

    visit(region.header)
    return order[::-1]


def _shares(
    structure: Structure,
    program: Program,
    node: int,
    members: set[int],
    targets: list[int],
    steps_here: float,
    trips: dict[int, float],
) -> dict[int, float]:
    """How a node's flow divides over what follows it inside its region."""
    graph = structure.graph
    ends = any(graph.blocks[index].is_exit for index in members)
    if len(targets) == 1 and not ends:
        return {targets[0]: 1.0}
    evidence = {
        target: _evidence(structure, program, node, target, steps_here, trips) for target in targets
    }
    known = {target: e for target, e in evidence.items() if e is not None}
    unknown = [target for target in targets if target not in known]
    total = sum(known.values())
    if unknown:
        rest = max(0.0, 1.0 - total)
        return known | {target: rest / len(unknown) for target in unknown}
    if total <= 1.0 or not known:
        return known
    if len(targets) == 1:
        return {targets[0]: min(1.0, total)}
    return {target: value / total for target, value in known.items()}


def _evidence(
    structure: Structure,
    program: Program,
    node: int,
    target: int,
    steps_here: float,
    trips: dict[int, float],
) -> float | None:
    """The share of trips that go to ``target``, by the statements of the blocks that can be reached
    through it alone; None: there are none."""
    graph = structure.graph
    if target not in graph.blocks or node not in graph.dominators[target]:
        return None
    leads_there = [b.index for b in graph.blocks.values() if target in b.successors]
    if any(i != node and target not in graph.dominators[i] for i in leads_there):
        return None
    beyond = [index for index in graph.blocks if target in graph.dominators[index]]
    headers = [header for header in structure.loops if header in beyond]
    instructions = [item for index in beyond for item in graph.blocks[index].instructions]
    if len(beyond) < 5 and any(item.name == "CALL" for item in instructions):
        return 0.0  # the way around a fast form that nearly always holds
    if any(trips[header] > 0 for header in headers):
        return 1.0 if steps_here <= 1.0 else _ratio(program, instructions, steps_here)
    return _ratio(program, instructions, steps_here)


def _ratio(program: Program, instructions: list[Instruction], steps_here: float) -> float:
    ratios = []
    for item in instructions:
        place = _statement(item)
        if place is not None:
            ran = program.statements.get(f"{place[0]}:{place[1]}", 0)
            ratios.append(min(1.0, ran / steps_here))
    if not ratios:
        return 0.5
    ratios.sort(reverse=True)
    return ratios[min(len(ratios) - 1, int(_SUPPORT * len(ratios)))]
