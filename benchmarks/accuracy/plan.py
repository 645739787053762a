"""Which runs an evaluation consists of: methods, their options, and sweeps over those.

Options are given once for all methods; each method takes those that it knows, and an option that
none of them knows is an error. A sweep multiplies the methods that know its options, the others
run once.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunevid_kernels.adapters.methods.registry import METHODS

from ..support.options import parse_value

# The paper's letters for the options that it sweeps over.
LETTERS = {"alpha": "keep_ratio", "beta": "cluster_ratio", "gamma": "segment_ratio"}


class PlanError(ValueError):
    """Methods or options that make no plan; the message is one line."""


@dataclass(frozen=True)
class Plan:
    """One run: a method and the options that differ from its defaults."""

    method: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """For a folder: the method and every option, without characters that shells mind."""
        parts = [self.method, *(f"{key}={value}" for key, value in self.options.items())]
        return re.sub(r"[^\w.=-]+", "_", "-".join(parts))


def plan_runs(
    methods: Sequence[str], options: Mapping[str, Any], sweeps: Sequence[str]
) -> list[Plan]:
    """Every combination of methods and swept options, in the order given, each one once.

    Args:
        methods: names from :data:`~prunevid_kernels.adapters.methods.registry.METHODS`.
        options: for every run; a sweep over the same option wins.
        sweeps: see :func:`parse_sweep`; each is a grid of its own.

    Raises:
        PlanError: an unknown method, no method, an option that none of the methods knows.
    """
    for method in methods:
        if method not in METHODS:
            raise PlanError(f"--method: unknown method {method!r}; known: {', '.join(METHODS)}")
    if not methods:
        raise PlanError(f"--method: name at least one of {', '.join(METHODS)}")
    combinations = [values for sweep in sweeps for values in parse_sweep(sweep)] or [{}]
    named = {LETTERS.get(key, key): value for key, value in options.items()}
    known = {method: METHODS[method].defaults for method in methods}
    for key in {**named, **{key: None for values in combinations for key in values}}:
        if not any(key in names for names in known.values()):
            available = ", ".join(sorted({name for names in known.values() for name in names}))
            raise PlanError(
                f"option {key!r} belongs to none of {', '.join(methods)}; theirs: {available}"
            )
    plans = []
    for method, values in itertools.product(methods, combinations):
        chosen = {key: value for key, value in {**named, **values}.items() if key in known[method]}
        plan = Plan(method, chosen)
        if plan not in plans:
            plans.append(plan)
    return plans


def parse_sweep(text: str) -> list[dict[str, Any]]:
    """``"alpha=0.2,0.4;tau=0.7,0.8"``: every combination of the values, the last option fastest.

    Raises:
        PlanError: not of that form.
    """
    grid: dict[str, list[Any]] = {}
    for part in text.split(";"):
        key, equals, values = part.partition("=")
        items = [item.strip() for item in values.split(",")]
        if not equals or not key.strip() or not all(items):
            raise PlanError(f"--sweep must be like 'alpha=0.2,0.4;tau=0.8', got {text!r}")
        name = LETTERS.get(key.strip(), key.strip())
        if name in grid:
            raise PlanError(f"--sweep: {name} comes twice in {text!r}")
        grid[name] = [parse_value(item) for item in items]
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
