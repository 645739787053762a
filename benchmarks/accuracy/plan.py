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

from prunevid_kernels.adapters.methods.registry import find_method, method_names

from ..support.options import parse_value

# The paper's letters for the options that it sweeps over.
LETTERS = {"alpha": "keep_ratio", "beta": "cluster_ratio", "gamma": "segment_ratio"}


ALL = "all"


class PlanError(ValueError):
    """Methods or options that make no plan; the message is one line."""


@dataclass(frozen=True)
class Plan:
    """One run: a method and the options that differ from its defaults.

    Attributes:
        retain: the share of the visual tokens that the options are to keep; None: no share was
            asked for, or the method cannot be told one.
        frames: of each video; None: as many as the other runs take.
    """

    method: str
    options: dict[str, Any]
    retain: float | None = None
    frames: int | None = None

    @property
    def name(self) -> str:
        """For a folder: the method and every option, without characters that shells mind."""
        parts = [self.method, *([] if self.retain is None else [f"retain={self.retain:g}"])]
        parts += [] if self.frames is None else [f"frames={self.frames}"]
        parts += (f"{key}={value}" for key, value in self.options.items())
        return re.sub(r"[^\w.=-]+", "_", "-".join(parts))

    @property
    def label(self) -> str:
        """For a line of a terminal: the method, and the share that it keeps."""
        return self.method if self.retain is None else f"{self.method} at {self.retain:g}"


def plan_runs(
    methods: Sequence[str], options: Mapping[str, Any], sweeps: Sequence[str]
) -> list[Plan]:
    """Every combination of methods and swept options, in the order given, each one once.

    Args:
        methods: names, see :func:`~prunevid_kernels.adapters.methods.registry.find_method`; "all"
            for every method that has one.
        options: for every run; a sweep over the same option wins.
        sweeps: see :func:`parse_sweep`; each is a grid of its own.

    Raises:
        PlanError: an unknown method, no method, an option that none of the methods knows.
    """
    names = [found for name in methods for found in (method_names() if name == ALL else [name])]
    if not names:
        raise PlanError(f"--method: name at least one of {', '.join(method_names())}")
    known: dict[str, Mapping[str, Any]] = {}
    for name in names:
        if ":" not in name and name not in method_names():
            raise PlanError(
                f"--method: unknown method {name!r}; known: {', '.join(method_names())}"
            )
        try:
            known[name] = find_method(name).defaults
        except (TypeError, ValueError) as error:
            raise PlanError(f"--method: {error}") from error
    combinations = [values for sweep in sweeps for values in _parse(sweep)] or [{}]
    for key in {**options, **{key: None for values in combinations for key in values}}:
        if not any(_option(key, of_method) for of_method in known.values()):
            available = ", ".join(sorted({name for names in known.values() for name in names}))
            raise PlanError(
                f"option {LETTERS.get(key, key)!r} belongs to none of {', '.join(names)}; theirs:"
                f" {available}"
            )
    plans = []
    for name, values in itertools.product(names, combinations):
        chosen = {}
        for key, value in {**options, **values}.items():
            option = _option(key, known[name])
            if option is not None:
                chosen[option] = value
        plan = Plan(name, chosen)
        if plan not in plans:
            plans.append(plan)
    return plans


def _option(key: str, known: Mapping[str, Any]) -> str | None:
    """The option of a method that the user means: its own of that name, else the paper's letter."""
    if key in known:
        return key
    return LETTERS[key] if LETTERS.get(key) in known else None


def parse_sweep(text: str) -> list[dict[str, Any]]:
    """``"alpha=0.2,0.4;tau=0.7,0.8"``: every combination of the values, the last option fastest, by
    PruneVid's names for the letters.

    Raises:
        PlanError: not of that form.
    """
    return [{LETTERS.get(key, key): value for key, value in row.items()} for row in _parse(text)]


def _parse(text: str) -> list[dict[str, Any]]:
    grid: dict[str, list[Any]] = {}
    for part in text.split(";"):
        key, equals, values = part.partition("=")
        items = [item.strip() for item in values.split(",")]
        if not equals or not key.strip() or not all(items):
            raise PlanError(f"--sweep must be like 'alpha=0.2,0.4;tau=0.8', got {text!r}")
        name = key.strip()
        if LETTERS.get(name, name) in {LETTERS.get(key, key) for key in grid}:
            raise PlanError(f"--sweep: {LETTERS.get(name, name)} comes twice in {text!r}")
        grid[name] = [parse_value(item) for item in items]
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
