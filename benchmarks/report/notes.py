"""What a reader of a report has to know before believing a number.

Nothing here stops a report: an unfinished run is still worth looking at. But what is not finished,
not the same throughout, or means nothing has to be said beside the numbers, and not be found out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..accuracy.run_log import Run

MOST_NAMED = 4


def run_notes(runs: Sequence[Run]) -> list[str]:
    """Of runs: unfinished, skipped questions, random weights, other questions, other versions."""
    notes = _unfinished(runs)
    for run in runs:
        if run.skipped:
            notes.append(
                f"{run.folder.name}: {len(run.skipped)} questions were not asked, the first"
                f" because {run.skipped[0].skipped}."
            )
    for model in dict.fromkeys(run.settings["model"] for run in runs if _is_random(run)):
        notes.append(f"{model} has random weights: its answers mean nothing.")
    notes += _differing_questions(runs)
    return notes + _mixed([run.environment for run in runs])


def _unfinished(runs: Sequence[Run]) -> list[str]:
    """Runs that lack questions, each by name where they are few."""
    lacking = []
    for run in runs:
        asked = run.settings["questions"]
        if len(run.records) < asked:
            missing = asked - len(run.records)
            lacking.append((f"{missing} of {asked} questions have no line.", run))
    if len(lacking) <= MOST_NAMED:
        return [f"{run.folder.name} is not finished: {text}" for text, run in lacking]
    run = min((run for _, run in lacking), key=lambda run: len(run.records))
    return [
        f"{len(lacking)} of {len(runs)} runs are not finished: the one that is least so has"
        f" {len(run.records)} of {run.settings['questions']} questions."
    ]


def _is_random(run: Run) -> bool:
    return bool(run.settings.get("random_weights"))


def _differing_questions(runs: Sequence[Run]) -> list[str]:
    """Runs of one benchmark that did not ask the same."""
    notes = []
    for benchmark in dict.fromkeys(run.settings["benchmark"] for run in runs):
        group = [run for run in runs if run.settings["benchmark"] == benchmark]
        asked = Counter(str(run.settings.get("questions_sha256")) for run in group)
        if len(asked) > 1:
            counts = ", ".join(f"{r.folder.name}: {r.settings['questions']}" for r in group)
            notes.append(
                f"Not the same questions were asked in all runs of {benchmark} ({counts}): scores"
                " are not comparable; paired comparisons are, they use the questions of both."
            )
    return notes


def _mixed(environments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Versions, commits and devices that are not the same throughout."""
    facts: dict[str, Counter[str]] = {}
    for environment in environments:
        found = {**environment.get("packages", {}), "commit": environment.get("commit")}
        found["device"] = device_name(environment)
        for name, value in found.items():
            facts.setdefault(name, Counter())[str(value)[:40]] += 1
    return [
        f"The runs were not all made with the same {name}: "
        + ", ".join(f"{value} ({count})" for value, count in counts.items())
        + "."
        for name, counts in facts.items()
        if len(counts) > 1
    ]


def device_name(environment: Mapping[str, Any]) -> str:
    """The GPU, or the kind of device."""
    gpu = environment.get("gpu")
    return str(gpu["name"] if gpu else environment.get("device", "unknown device"))


def latency_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of latency rows: a CPU, rows without times, generated features."""
    notes = []
    if any(row.get("device") == "cpu" for row in rows):
        notes.append("Times on a CPU are of tiny models with few runs: they say nothing of a GPU.")
    for row in rows:
        if row["status"] in ("incorrect", "failed"):
            notes.append(
                f"{row['model']}, {row['method']}, {row['frames']} frames, batch {row['batch']} was"
                f" not timed ({row['status']}): {row['reason']}."
            )
    if any(row.get("features") == "generated" for row in rows):
        notes.append(
            "Models with random weights were timed on the features of a generated video: times"
            " hold, shares of tokens are those of that video."
        )
    return notes


def distinct(environments: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each environment once, whatever its date."""
    found: dict[str, dict[str, Any]] = {}
    for item in environments:
        kept = {key: value for key, value in item.items() if key != "date"}
        found.setdefault(json.dumps(kept, sort_keys=True), item)
    return list(found.values())
