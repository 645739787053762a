"""Write what the code and the results files say into the README and the pages, and nothing else.

    python -m prunevid_kernels.benchmarks.report.readme_tables

Each block stands between two markers: the newest measured run of each GPU under
``benchmarks/results/``, and all runs of servers; what the methods make of the embedded model, from
the report of ``prunevid report`` in ``synthetic/`` below it; the families; the fields of the
config, from their docstrings. A test holds that the pages are what this command would write.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters.families import FAMILIES
from prunevid_kernels.adapters.methods.registry import METHODS

from ..accuracy.terms import TOLERANCE
from ..cost.serve.table import table as serve_table
from ..support.environment import ROOT

BEGIN = "<!-- {name}: written by prunevid_kernels.benchmarks.report.readme_tables -->"
END = "<!-- end of {name} -->"
REPORT = Path("synthetic") / "report.json"
# Which blocks a page has.
PAGES = {
    "README.md": ("answers",),
    "docs/config.md": ("config",),
    "docs/families.md": ("families",),
    "docs/results.md": ("accuracy", "measurements"),
    "docs/vllm.md": ("serving",),
}
SHORT_SHARE = 0.2  # of the visual tokens, where one share has to stand for all
NOTHING = "No GPU run has been committed yet, so there is no timing to show.\n"

Result = dict[str, Any]


def measured_results(folder: Path) -> list[Result]:
    """The newest measured ``on_gpu`` run of each GPU, by the GPU's name."""
    newest: dict[str, Result] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        if result["kind"] != "on_gpu" or not result["is_measured"]:
            continue
        name = result["environment"]["gpu"]["name"]
        date = result["environment"]["date"]
        if name not in newest or newest[name]["environment"]["date"] < date:
            newest[name] = result
    return [newest[name] for name in sorted(newest)]


def tables(results: Iterable[Result]) -> str:
    """Markdown: for each run its environment, correctness, kernel timings, and end to end."""
    return "\n".join(_run(result) for result in results) or NOTHING


def _run(result: Result) -> str:
    environment, sections = result["environment"], result["sections"]
    packages = environment["packages"]
    commit = environment["commit"] or "unknown"
    lines = [
        f"**{environment['gpu']['name']}**, {environment['date'][:10]}, commit `{commit[:10]}`, "
        f"torch {packages['torch']}, Triton {packages['triton']}. "
        + " ".join(f"{name.replace('_', ' ')}: {s['status']}." for name, s in sections.items()),
        "",
        "| stage | case | variant | ms (p10 - p90) | x floor | speedup |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in sections.get("kernels", {}).get("rows", []):
        if row["status"] == "ok":
            time_ms = _quantiles(row["replay_ms"] or row["latency_ms"], digits=4)
            ratios = " | ".join(_ratio(row[key]) for key in ("over_floor", "speedup"))
            what = f"{row['benchmark']} | {row['case']['name']} | {row['variant']}"
            lines.append(f"| {what} | {time_ms} | {ratios} |")
    end_to_end = [
        row for row in sections.get("end_to_end", {}).get("rows", []) if row["status"] == "ok"
    ]
    if end_to_end:
        lines += [
            "",
            "| model, random weights | frames | batch | method | first token, ms (p10 - p90)"
            " | speedup | ms/token |",
            "|---|---:|---:|---|---:|---:|---:|",
        ]
    for row in end_to_end:
        cells = [
            f"{row['model']}, {row['dtype']}, {row['attention']}",
            str(row["frames"]),
            str(row["batch"]),
            row["method"],
            _quantiles(row["first_token_ms"], digits=2),
            _ratio(row["speedup"]),
            f"{row['ms_per_token']['median']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def serving_tables(folder: Path) -> str:
    """Markdown: every committed run of ``prunevid bench serve``, with what it ran on."""
    parts = []
    for path in sorted(folder.glob("serve-*.json")):
        result = json.loads(path.read_text())
        environment = result["environment"]
        machine = environment["gpu"]["name"] if environment["gpu"] else environment["cpu"]
        engine = ", ".join(f"{name} {number}" for name, number in result["engine"].items())
        parts.append(
            f"**{result['model']}**, {environment['date'][:10]}, commit "
            f"`{environment['commit'][:10]}`, {machine}, threads: {environment['cpu_threads']}, "
            f"load of the machine before: {result['load_average']:.1f}, {engine}.\n\n"
            + serve_table(result)
        )
    return "\n".join(parts)


def accuracy_table(folder: Path) -> str:
    """Markdown: every method's answers to generated questions at equal shares of the tokens, from
    the report of its runs; the methods that cannot be told a share in a sentence."""
    report = json.loads((folder / REPORT).read_text())
    (environment,) = report["environments"]
    order = list(METHODS)
    rows = sorted(report["shares"], key=lambda row: order.index(_name(row)))
    asked = {row["score"]["questions"] for row in rows}
    count = f"{min(asked):,}" if len(asked) == 1 else f"{min(asked):,} to {max(asked):,}"
    shares = sorted({row["asked"] for row in rows} - {None})
    timed = shares[(len(shares) - 1) // 2]
    told: dict[str, dict[float, str]] = {}
    times: dict[str, str] = {}
    untold = []
    for row in rows:
        if row["asked"] is None:
            facts = f"{_answers(row)}, {row['kept']:.0%} kept, {row['first_token_ms'][1]:.0f} ms"
            untold.append(f"`{_name(row)}` {facts}")
            continue
        told.setdefault(row["method"], {})[row["asked"]] = _answers(row)
        if row["asked"] == timed:
            times[row["method"]] = f"{row['first_token_ms'][1]:.0f}"
    clocks = {row["clock"] for row in rows}
    clock = "processor time of one thread" if clocks == {"processor"} else "time that passed"
    lines = [
        f"{count} questions, {environment['date'][:10]}, commit "
        f"`{environment['commit'][:10]}`, torch {environment['packages']['torch']}. Right answers,"
        " % (95% interval), where so much of the visual tokens is kept, the mean over layers; *: "
        "the method keeps another share, by more than 1 %. ms: to the first token, median,"
        f" {clock}.",
        "",
        f"| method | {' | '.join(f'{share:.0%}' for share in shares)} | ms at {timed:.0%} |",
        f"|---|{'---:|' * (len(shares) + 1)}",
    ]
    for method, cells in told.items():
        own = " | ".join(cells.get(share, "-") for share in shares)
        lines.append(f"| {method} | {own} | {times.get(method, '-')} |")
    lines += ["", f"As they are: {'; '.join(untold)}."]
    lines += [f"\n{note}" for note in report["notes"] if "not finished" in note]
    return "\n".join(lines) + "\n"


def _name(row: dict[str, Any]) -> str:
    return str(row["score"]["method"])


def _answers(row: dict[str, Any]) -> str:
    """The score of a row of :class:`.shares.ShareRow` with its interval."""
    score, (low, high) = row["score"]["score"], row["score"]["interval"]
    is_off = row["asked"] is not None and abs(row["kept"] - row["asked"]) > TOLERANCE
    return f"{score:.1f} ({low:.1f} - {high:.1f}){'*' * is_off}"


def answers_in_short(folder: Path) -> str:
    """Markdown: every method's right answers at one share of the tokens, in a sentence."""
    report = json.loads((folder / REPORT).read_text())
    rows = [row for row in report["shares"] if row["asked"] == SHORT_SHARE]
    (full,) = [row for row in report["shares"] if _name(row) == "full"]
    rows.sort(key=lambda row: -row["score"]["score"])
    told = ", ".join(f"`{row['method']}` {_answers(row)}" for row in rows)
    return (
        f"At {SHORT_SHARE:.0%} of the visual tokens, right answers in % (95% interval): {told}. "
        f"Unpruned: {_answers(full)}. *: the method keeps another share, by more than 1 %.\n"
    )


def config_table() -> str:
    """Markdown: the fields of the config, from their docstrings.

    Raises:
        ValueError: a field whose docstring does not end in the values that it takes, where its type
            does not say them.
    """
    hints = get_type_hints(PruneVidConfig)
    described = _entries(inspect.getdoc(PruneVidConfig) or "")
    lines = ["| field | default | values | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(PruneVidConfig):
        meaning, values = described[field.name], ""
        if get_origin(hints[field.name]) is Literal:
            values = " or ".join(f"`{json.dumps(value)}`" for value in get_args(hints[field.name]))
        elif hints[field.name] is bool:
            values = "`True` or `False`"
        else:
            meaning, end, last = meaning.rpartition(". ")
            if not end or not last.startswith(("In ", "At least ")):
                raise ValueError(f"{field.name}: its docstring must end in its range, got {last!r}")
            meaning, values = meaning + ".", last[0].lower() + last.removesuffix(".")[1:]
        default = f"`{json.dumps(field.default)}`" if field.default is not None else "`None`"
        default = {"`true`": "`True`", "`false`": "`False`"}.get(default, default)
        lines.append(f"| `{field.name}` | {default} | {values} | {meaning} |")
    return "\n".join(lines) + "\n"


def _entries(docstring: str) -> dict[str, str]:
    """name -> text of the section ``Args`` of a docstring, as Markdown."""
    _, _, rest = docstring.partition("Args:\n")
    entries: dict[str, str] = {}
    name = ""
    for line in rest.splitlines():
        if not line.startswith("    "):
            break
        if head := re.match(r"    (\w+): (.*)", line):
            name, text = head.groups()
            entries[name] = text
        else:
            entries[name] += " " + line.strip()
    return {name: text.replace("``", "`") for name, text in entries.items()}


def family_table() -> str:
    """Markdown: every family, and what of the method runs in it, from the table of families."""
    lines = ["| model | sizes known by name | merge | select |", "|---|---|---|---|"]
    for family in FAMILIES.values():
        sizes = ", ".join(f"`{size.name}`" for size in family.sizes)
        lines.append(f"| {family.title} | {sizes} | yes | {'yes' if family.selects else 'no'} |")
    return "\n".join(lines) + "\n"


def _quantiles(value: dict[str, float], digits: int) -> str:
    median, p10, p90 = (f"{value[key]:.{digits}f}" for key in ("median", "p10", "p90"))
    return f"{median} ({p10} - {p90})"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def replaced(page: str, name: str, block: str) -> str:
    """``page`` with ``block`` between the markers of ``name``.

    Raises:
        ValueError: the markers are missing or in the wrong order.
    """
    first, last = BEGIN.format(name=name), END.format(name=name)
    begin, end = page.find(first), page.find(last)
    if begin < 0 or end < begin:
        raise ValueError(f"the page must hold the lines {first!r} and {last!r}, in this order")
    return page[: begin + len(first)] + "\n\n" + block + "\n" + page[end:]


def updated(root: Path) -> dict[str, str]:
    """Every page of :data:`PAGES` of a checkout with its blocks as they should be."""
    results = root / "benchmarks" / "results"
    blocks = {
        "accuracy": accuracy_table(results),
        "answers": answers_in_short(results),
        "config": config_table(),
        "families": family_table(),
        "measurements": tables(measured_results(results)),
        "serving": serving_tables(results),
    }
    pages = {}
    for page, names in PAGES.items():
        text = (root / page).read_text(encoding="utf-8")
        for name in names:
            text = replaced(text, name, blocks[name])
        pages[page] = text
    return pages


def main(root: Path = ROOT) -> int:
    """Rewrite the pages of a checkout."""
    for page, text in updated(root).items():
        (root / page).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(description="Write tables into the README and docs/.").parse_args()
    sys.exit(main())
