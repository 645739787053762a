"""Results files with values of another kind, at any place: a report, or one line that names it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prunevid_kernels.benchmarks.accuracy.run_log import (
    JUDGEMENTS,
    Judgement,
    Record,
    RunLogError,
    append_lines,
    open_run,
    read_run,
    samples_file,
)
from prunevid_kernels.benchmarks.cost.latency.stages import STAGES
from prunevid_kernels.benchmarks.report.page import report_markdown
from prunevid_kernels.benchmarks.report.table import ReportError, build_table
from prunevid_kernels.benchmarks.support.shapes import require_shape

pytestmark = pytest.mark.one_version

WRONG = [
    None,
    0,
    -1,
    True,
    "x",
    [],
    {},
    [1],
    {"a": 1},
    1.5,
    float("nan"),
    10**30,
    10**400,
    "\ud800",
]
TIMES = {"median": 10.0, "p10": 9.0, "p90": 12.0}
ENVIRONMENT = {"date": "2026-01-02", "packages": {"torch": "2"}, "device": "cuda", "gpu": None}
ROW: dict[str, Any] = {
    **{"model": "m", "method": "full", "options": {}, "features": "generated", "device": "cuda"},
    **{"dtype": "bf16", "attention": "sdpa", "frames": 4, "batch": 1, "output_tokens": 8},
    **{"status": "ok", "reason": None, "text_tokens": 4, "visual_tokens": 64, "runs": 5},
    **{"merged_tokens": [32], "kept_tokens": [16], "cold_ms": 9.0, "read_ms": TIMES},
    **{"stages": dict.fromkeys(STAGES, TIMES), "first_token_ms": TIMES, "ms_per_token": TIMES},
    **{"tokens_per_s": 77.0, "peak_memory_bytes": 10, "kv_bytes": 10, "flops": {"paper": 1.0}},
    "speedup": 1.0,
}


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Path]:
    """One file of each kind, all of them whole."""
    settings = {"model": "m", "family": "pllava", "method": "full", "options": {}, "questions": 2}
    record = Record("action/0", "action", "A", "A", {"strict": "A"}, {"strict": True}, 64, 32, 16)
    open_run(tmp_path / "a", settings | {"benchmark": "mvbench"}, ENVIRONMENT, resume=False)
    open_run(tmp_path / "b", settings | {"benchmark": "vcgbench"}, ENVIRONMENT, resume=False)
    with append_lines(samples_file(tmp_path / "a", 0)) as log:
        log.write(record)
    with append_lines(tmp_path / "b" / JUDGEMENTS) as log:
        log.write(Judgement("CI/generic/0", "CI", 4.0, "fine"))
    latency = {"kind": "latency", "environment": ENVIRONMENT, "rows": [ROW]}
    (tmp_path / "latency.json").write_text(json.dumps(latency))
    return {
        "settings": tmp_path / "a" / "settings.json",
        "samples": samples_file(tmp_path / "a", 0),
        "judgements": tmp_path / "b" / JUDGEMENTS,
        "latency": tmp_path / "latency.json",
    }


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*before, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*before, key))


def change(text: str, place: tuple[Any, ...], value: Any) -> str:
    content = json.loads(text)
    parent = content
    for step in place[:-1]:
        parent = parent[step]
    parent[place[-1]] = value
    return json.dumps(content) + "\n"


@pytest.mark.parametrize("name", ["settings", "samples", "judgements", "latency"])
def test_values_of_another_kind(results, tmp_path, name):
    file, draw, refused = results[name], random.Random(name), 0
    whole, paths = file.read_text(), [tmp_path / "a", tmp_path / "b", results["latency"]]
    assert "full" in report_markdown(build_table(paths, "strict"))
    for place in draw.choices(list(places(json.loads(whole))), k=120):
        value = draw.choice(WRONG)
        file.write_text(change(whole, place, value))
        try:
            report_markdown(build_table(paths, "strict"))
        except (ReportError, RunLogError) as error:
            refused += 1
            assert str(file.parent) in str(error) and "\n" not in str(error), (place, value)
    assert refused > 30


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"score": 7}, "judgement.score must be from 0 to 5, got 7"),
        ({"score": "4"}, "judgement.score must be null or a number from 0, got '4'"),
        ({"reply": None}, "judgement.reply must be a string, got None"),
    ],
    ids=str,
)
def test_lines_that_would_be_believed(results, line, expected):
    file = results["judgements"]
    file.write_text(json.dumps(json.loads(file.read_text()) | line) + "\n")
    with pytest.raises(RunLogError, match=expected):
        read_run(file.parent)


def test_deep_json_in_a_line_and_in_a_file(results, tmp_path):
    results["samples"].write_text("[" * 10**5 + "]" * 10**5 + "\n")
    with pytest.raises(RunLogError, match="samples.0.jsonl:1: .*nested too deeply"):
        read_run(tmp_path / "a")
    results["latency"].write_text("[" * 10**5)
    with pytest.raises(ReportError, match="latency.json: .*nested too deeply"):
        build_table([results["latency"]], "strict")


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (1.5, int),
        (True, int),
        (-1, float),
        (float("inf"), float),
        (None, str),
        ([1, "x"], [int]),
        ({"a": 1}, {"b": int}),
        ({"a": "x"}, {str: int}),
        ({"a": {"b": None}}, {"a": (None, {"b": str})}),
    ],
)
def test_what_does_not_fit_a_shape(value, shape):
    with pytest.raises(ValueError, match="^it"):
        require_shape(value, shape, "it")


def test_what_fits_a_shape():
    shape = {"a": (None, {"b": [float]}), "c": {str: object}}
    require_shape({"a": {"b": [1, 2.5]}, "c": {"x": [[]]}, "more": 1}, shape, "it")
    require_shape({"a": None, "c": {}}, shape, "it")
