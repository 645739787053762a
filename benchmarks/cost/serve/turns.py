"""Servers that take turns, and what becomes of one that dies.

A server's engine can end under load, and does in engines of others. That is a result as well: the
server leaves, its death is told, and the figures of the others are kept. A request that fails on a
server that lives on remains an error of the measurement.
"""

from __future__ import annotations

import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .client import Client, Reply, RequestError
from .server import cause_of_death
from .subjects import PRUNED

DEATH_LIMIT_S = 15.0  # an engine that ends takes its server with it, after a while
Wave = tuple[list[Reply], float]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Death:
    """A server that ended.

    Attributes:
        concurrency: requests that were under way; 0 for one that never answered.
        error: the line of its log that says why, or what the client saw of it.
    """

    concurrency: int
    error: str


class Turns:
    """The servers that live.

    Args:
        clients: by subject.
        logs: of the servers' output, where they are our own.
        wave_requests: of a wave, or as many as the level if that is more.
        deaths: of servers that are not among the clients, because they never came up.
    """

    def __init__(
        self,
        clients: Mapping[str, Client],
        logs: Mapping[str, Path],
        wave_requests: int = 1,
        *,
        deaths: Mapping[str, Death] | None = None,
    ) -> None:
        self._wave_requests = wave_requests
        self.living = dict(clients)
        self.deaths = dict(deaths or {})
        self._logs = logs

    def ask(self, subject: str, question: Callable[[Client], Answer], level: int) -> Answer | None:
        """What a server answers; None if it dies, and then it has left.

        Args:
            subject: one of the living.
            question: asks its client.
            level: requests that this sends at once.

        Raises:
            RequestError: it failed and lives on.
        """
        client = self.living[subject]
        try:
            return question(client)
        except RequestError as error:
            if _lives_on(client):
                raise
            seen = str(error).splitlines()[0]
            log = self._logs.get(subject)
            cause = None if log is None else cause_of_death(log)
            self.deaths[subject] = Death(level, cause or seen)
            del self.living[subject]
            return None

    def warm(self, level: int, waves: int) -> None:
        """Waves with ``level`` requests at once that nobody looks at."""
        for subject in [*self.living] * waves:
            self._wave(subject, level)

    def level(self, level: int, waves: int) -> dict[str, list[Wave]]:
        """Waves of each server with ``level`` requests at once, each time beginning with another
        one; those of servers that live to the end."""
        done: dict[str, list[Wave]] = {subject: [] for subject in self.living}
        order = list(self.living)
        for _ in range(waves):
            for subject in order:
                wave = self._wave(subject, level)
                if wave is not None:
                    done[subject].append(wave)
            order = [*order[1:], *order[:1]]
        return {subject: own for subject, own in done.items() if subject in self.living}

    def _wave(self, subject: str, level: int) -> Wave | None:
        if subject not in self.living:
            return None
        requests = max(level, self._wave_requests)
        return self.ask(subject, lambda client: client.wave(level, requests), level)


def _lives_on(client: Client) -> bool:
    """Whether a server is healthy and stays so for as long as a dying one may look alive."""
    deadline = time.monotonic() + DEATH_LIMIT_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(client.health_url, timeout=DEATH_LIMIT_S):
                time.sleep(0.5)
        except TimeoutError:
            continue  # busy
        except (urllib.error.URLError, ConnectionError):
            return False
    return True


def ratios(level: int, waves: dict[str, list[Wave]]) -> dict[str, Any]:
    """How many times as many requests a second the pruned server answers: median, lowest and
    highest of the waves."""
    each_ratio: dict[str, Any] = {"concurrency": level}
    if PRUNED not in waves:
        return each_ratio
    pruned = [wall for _, wall in waves[PRUNED]]
    for subject, done in waves.items():
        if subject != PRUNED:
            each = [wall / own for (_, wall), own in zip(done, pruned, strict=True)]
            each_ratio[subject] = {
                "median": statistics.median(each),
                "lowest": min(each),
                "highest": max(each),
            }
    return each_ratio
