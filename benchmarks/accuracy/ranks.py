"""Several processes that share one evaluation, started by ``accelerate launch`` or ``torchrun``.

Each process answers every n-th question and writes a file of its own, so all they need of each
other is two meetings: nobody starts before the run folder is there, and the table waits for all. A
key-value store does that over the launcher's own address, across hosts as well. There is no
process group: models must not find one and take it for theirs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from torch.distributed.rendezvous import rendezvous

Item = TypeVar("Item")
# A launcher ends all processes when one dies, so waiting needs no limit of its own.
_FOREVER = timedelta(days=365)


@dataclass(frozen=True)
class Ranks:
    """This process among those that were started together.

    Attributes:
        rank, world_size: its number, and how many there are.
        local_rank: its number on this host: the GPU it takes.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    _store: Any = None

    @classmethod
    def from_environment(cls) -> Ranks:
        """Read what the launcher left in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.

        Raises:
            ValueError: more than one process, but one of the variables is missing or no number.
        """
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return cls()
        store, rank, world_size = next(rendezvous("env://", timeout=_FOREVER))
        return cls(rank, world_size, int(os.environ.get("LOCAL_RANK", rank)), store)

    @property
    def label(self) -> str:
        """For lines that several processes write: which one this is; empty for one alone."""
        return f" [rank {self.rank} of {self.world_size}]" if self.world_size > 1 else ""

    def share(self, items: Sequence[Item]) -> list[Item]:
        """The items of this process: every ``world_size``-th, so that tasks spread evenly."""
        return list(items[self.rank :: self.world_size])

    def first(self, name: str, work: Callable[[], None]) -> None:
        """Do ``work`` in rank 0, while the others wait until it is done."""
        if self.rank == 0:
            work()
            if self._store is not None:
                self._store.set(name, "done")
        else:
            self._store.wait([name], _FOREVER)

    def is_last(self) -> bool:
        """Called by all at their end: True in rank 0, once the others are there as well."""
        if self.rank > 0:
            self._store.set(f"finished/{self.rank}", "done")
            return False
        if self._store is not None:
            others = range(1, self.world_size)
            self._store.wait([f"finished/{rank}" for rank in others], _FOREVER)
        return True
