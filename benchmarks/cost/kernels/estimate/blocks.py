"""Basic blocks of machine code, their dominators and loops."""

from __future__ import annotations

from dataclasses import dataclass, field

from .sass import Code, Instruction


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
