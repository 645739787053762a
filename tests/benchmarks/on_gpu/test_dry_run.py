"""The GPU entry takes its whole way without a GPU, claims no measurement, and survives a cut."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from prunevid_kernels.benchmarks.cost.kernels.cases import REDUCED, Case
from prunevid_kernels.benchmarks.cost.timing import Quantiles
from prunevid_kernels.benchmarks.on_gpu import checks as gpu_checks
from prunevid_kernels.benchmarks.on_gpu import command as on_gpu
from prunevid_kernels.benchmarks.on_gpu import golden as gpu_golden
from prunevid_kernels.benchmarks.on_gpu import sanitizer as gpu_sanitizer
from prunevid_kernels.benchmarks.on_gpu import stress
from prunevid_kernels.benchmarks.on_gpu.checks import Check, Outcome
from prunevid_kernels.benchmarks.on_gpu.modelled import _compare
from prunevid_kernels.benchmarks.support.environment import ROOT

if torch.cuda.is_available():
    pytest.skip("a dry run is for machines without a GPU", allow_module_level=True)


CPU = torch.device("cpu")
COMMIT = "0123456789abcdef"


def command(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)  # the command has to switch it on itself
    return subprocess.run(
        [sys.executable, "-m", "prunevid_kernels.benchmarks.on_gpu", *options],
        capture_output=True,
        text=True,
        env=environment,
    )


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """(stdout lines, results file's content) of one dry run, in this process: kernels are
    interpreted in half the time here."""
    out = tmp_path_factory.mktemp("results")
    # Time for everything, however busy the machine is: what finds none is left out of the report.
    minutes = ("--minutes", "1000")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = on_gpu.main(["--dry-run", *minutes, "--out", str(out), "--commit", COMMIT])
    assert status == 0, printed.getvalue()
    return printed.getvalue().splitlines(), results_in(out)


def results_in(folder):
    (path,) = folder.iterdir()
    assert path.name.startswith("dry-run-") and path.name.endswith(f"-cpu-{COMMIT[:10]}.json")
    return json.loads(path.read_text())


def test_a_process_of_its_own_switches_the_interpreter_on(tmp_path):
    """Without time for a check: all are counted as cut, and that is no failure."""
    result = command("--dry-run", "--minutes", "1e-9", "--out", str(tmp_path), "--commit", COMMIT)
    assert result.returncode == 0, result.stderr
    results = results_in(tmp_path)
    assert results["environment"]["triton_interpreter"]
    statuses = [section["status"] for section in results["sections"].values()]
    assert statuses == ["cut"] * 5 + ["skipped"] * 2


def test_every_section_runs_and_passes(dry_run):
    sections = dry_run[1]["sections"]
    assert {name: section["status"] for name, section in sections.items()} == {
        "stress": "passed",
        "correctness": "passed",
        "kernels": "passed",
        "modelled": "passed",
        "end_to_end": "passed",
        "serving": "skipped",
        "sanitizer": "skipped",
    }
    assert list(sections)[0] == "stress"  # the most valuable first
    stress = [row["group"] for row in sections["stress"]["rows"]]
    assert list(dict.fromkeys(stress)) == ["repeat", "order", "graph", "wait", "massive"]
    assert list(sections).index("modelled") < list(sections).index("end_to_end")
    assert all("vision_share" in row for row in sections["end_to_end"]["rows"])
    groups = Counter(row["group"] for row in sections["correctness"]["rows"])
    assert set(groups) == {
        "merge", "budget", "score", "compact", "launches", "batch", "repeat", "shape", "error",
        "golden",
    }  # fmt: skip
    assert all(row["decisions"] > 0 for row in sections["correctness"]["rows"])
    kernels = {(row["benchmark"], row["variant"]) for row in sections["kernels"]["rows"]}
    assert {(stage, "prunevid_kernels") for stage in ("merge", "score", "compact")} <= kernels


def test_launches_of_the_stages_are_those_of_the_design(dry_run):
    launches = {
        (row["benchmark"], row["variant"]): row["launches"]
        for row in dry_run[1]["sections"]["kernels"]["rows"]
        if row["variant"].startswith("prunevid_kernels")
    }
    nothing = {"torch": 0, "host_copies": 0, "device_copies": 0}
    assert launches == {
        ("merge", "prunevid_kernels"): nothing | {"triton": 10, "host_copies": 1},
        ("merge", "prunevid_kernels, budget"): nothing | {"triton": 10},
        ("score", "prunevid_kernels"): nothing | {"triton": 2},
        ("compact", "prunevid_kernels"): nothing | {"triton": 2},
    }


def test_a_dry_run_claims_no_measurement(dry_run):
    lines, results = dry_run
    assert not results["is_measured"] and results["is_dry_run"]
    assert results["environment"]["gpu"] is None and results["ceilings"] is None
    assert results["environment"]["triton_interpreter"]
    assert lines[-2] == "dry run: nothing was timed, and this says nothing about a GPU"
    for section in results["sections"].values():
        for row in section["rows"]:
            named = [key for key in row if key.endswith(("_ms", "_us", "_per_s", "_per_token"))]
            assert not [key for key in named if row[key] is not None]


def test_modelled_times_stand_beside_those_that_a_gpu_will_measure(dry_run):
    rows = dry_run[1]["sections"]["modelled"]["rows"]
    assert {row["work"] for row in rows} == {"score", "compact"}
    assert all(row["modelled"] > 0 and row["measured_us"] is None for row in rows)
    assert {row["status"] for row in rows} == {"not timed"}
    kernels = {row["kernel"] for row in rows}
    assert {"log_sum", "max_probability"} <= kernels and len(rows) == len(kernels) > 2


def test_launches_of_one_kernel_are_added_up():
    def launch(kernel, time_s):
        return {"kernel": kernel, "time_s": time_s, "gap_s": 1e-6, "bound": "latency"}

    launches = [launch("gram", 5e-6), launch("means", 3e-6), launch("gram", 7e-6)]
    rows = list(_compare(Case(REDUCED, 4, "bf16"), "merge", launches, CPU))
    assert [(row["kernel"], row["modelled"], row["modelled_launches"]) for row in rows] == [
        ("gram", 10.0, 2),
        ("means", 2.0, 1),
    ]


def test_vision_share_is_of_the_time_to_the_first_token():
    stages = {"vision": Quantiles(2.0, 1.0, 3.0), "first_token": Quantiles(8.0, 7.0, 9.0)}
    assert on_gpu.vision_share(stages) == 0.25
    assert on_gpu.vision_share({}) is None


def test_a_run_that_differs_once_is_found(monkeypatch):
    """The check of repeated runs fails where one segment of one run is another."""
    calls = []

    def segments(*arguments, **options):
        calls.append(1)
        result = real(*arguments, **options)
        return result + 1 if len(calls) == 3 else result

    real = stress.segment_frames
    monkeypatch.setattr(stress, "segment_frames", segments)
    outcome = stress._repeat((4, 9, 48), CPU, runs=3)
    assert outcome.status == "failed"
    assert outcome.reason == "of 3 runs, other than in the first: segments in 1"


def test_the_last_line_is_the_summary(dry_run):
    summary = json.loads(dry_run[0][-1])
    assert summary["sections"]["correctness"] == "passed"
    assert summary["environment"]["commit"] == COMMIT
    assert not summary["is_measured"]


def test_schema_is_the_documented_one(dry_run):
    """Every key of every row stands in results/README.md."""
    text = (ROOT / "benchmarks" / "results" / "README.md").read_text()
    results = dry_run[1]
    assert f"Schema, version {results['schema_version']}" in text
    keys = set(results) | {
        key
        for name, section in results["sections"].items()
        for row in section["rows"]
        for key in (*row, name)
    }
    assert not [key for key in sorted(keys) if f"`{key}`" not in text]


def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    result = command("--out", str(tmp_path))
    assert result.returncode == 2
    expected = "on_gpu: error: torch sees no GPU; --dry-run works without one"
    assert result.stderr.splitlines() == [expected]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("minutes", ["0", "-1", "nan"])
def test_time_has_to_be_positive(minutes, capsys):
    with pytest.raises(SystemExit) as end:
        on_gpu.main(["--minutes", minutes, "--dry-run"])
    assert end.value.code == 2
    assert "--minutes must be more than 0" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------
# Cuts and failures
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def report(tmp_path):
    return on_gpu.Report(tmp_path / "results.json", {"sections": {}})


def saved(report):
    return json.loads(report.path.read_text())["sections"]


def test_rows_are_saved_as_they_come(report):
    def rows():
        yield {"status": "passed", "name": "first"}
        assert saved(report)["s"]["rows"] == [{"status": "passed", "name": "first"}]
        assert saved(report)["s"]["status"] == "running"
        yield {"status": "passed", "name": "second"}

    report.section("s", rows())
    assert saved(report)["s"]["status"] == "passed"
    assert len(saved(report)["s"]["rows"]) == 2


def test_a_killed_run_leaves_what_it_had(report):
    def rows():
        yield {"status": "passed", "name": "first"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report.section("s", rows())
    assert saved(report)["s"]["status"] == "running"
    assert len(saved(report)["s"]["rows"]) == 1


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        pytest.param(RuntimeError("out of registers"), "failed", "out of registers", id="failure"),
        pytest.param(ImportError("no transformers"), "skipped", "no transformers", id="missing"),
    ],
)
def test_a_section_that_breaks_keeps_its_rows_and_its_reason(report, error, status, reason):
    def rows():
        yield {"status": "passed", "name": "first"}
        raise error

    report.section("s", rows())
    assert saved(report)["s"]["status"] == status
    assert reason in saved(report)["s"]["reason"]
    assert len(saved(report)["s"]["rows"]) == 1


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        pytest.param(["passed", "ok", "not timed"], "passed", id="good"),
        pytest.param(["passed", "failed"], "failed", id="failed"),
        pytest.param(["ok", "incorrect"], "failed", id="incorrect"),
        pytest.param(["ok", "incorrect replay"], "failed", id="incorrect-replay"),
        pytest.param(["passed", "cut"], "cut", id="cut"),
        pytest.param([], "cut", id="no-row"),
        pytest.param(["skipped"], "skipped", id="skipped"),
    ],
)
def test_status_of_a_section(statuses, expected):
    assert on_gpu._status([{"status": status} for status in statuses]) == expected


def test_what_others_cannot_do_is_no_failure():
    rows = [{"status": "ok", "variant": on_gpu.OURS}]
    rows.append({"status": "failed", "variant": "vectorised, torch.compile"})
    assert on_gpu._status(rows) == "passed"
    rows.append({"status": "failed", "variant": f"{on_gpu.OURS}, budget"})
    assert on_gpu._status(rows) == "failed"


def test_without_the_golden_cases_the_other_checks_run(monkeypatch, tmp_path):
    def absent():
        raise FileNotFoundError("not here")

    monkeypatch.setattr(gpu_golden, "require_data", absent)
    rows = on_gpu.correctness_rows(CPU, True, on_gpu.Clock(1e-9))
    assert next(rows) == {"status": "skipped", "group": "golden", "reason": "not here"}
    assert next(rows)["status"] == "cut"


def test_checks_that_find_no_time_are_counted():
    clock = on_gpu.Clock(1e-9)
    (row,) = on_gpu.correctness_rows(CPU, True, clock)
    assert row["status"] == "cut" and "checks were not run" in row["reason"]
    assert not list(on_gpu.kernel_rows(CPU, True, clock, {}))


def test_each_section_has_a_later_end_than_the_one_before():
    shares = list(on_gpu.SHARES.values())
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_a_check_that_raises_has_failed():
    def fault():
        raise RuntimeError("an illegal memory access\nwas encountered")

    record = Check("merge", "a", "bf16", fault).record()
    assert record["status"] == "failed"
    assert record["reason"] == "RuntimeError: an illegal memory access was encountered"
    assert Check("merge", "a", "bf16", lambda: Outcome(decisions=3)).record()["decisions"] == 3


def test_missing_golden_data_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="come with a checkout"):
        gpu_golden.require_data(tmp_path)


def test_every_golden_case_is_a_check_in_every_dtype():
    index = json.loads((gpu_golden.FOLDER / "index.json").read_text())
    expected = len(index["dpc_units"]) + 2 * len(index["stage2"])
    expected += sum(len(case["runs"]) for case in index["stage1"])
    for dtype in ("fp32", "bf16", "fp16"):
        checks = list(gpu_golden.golden_checks(CPU, dtype, is_tiny=False))
        assert len(checks) == len({check.name for check in checks}) == expected


def test_a_wrong_kernel_fails_the_golden_checks(monkeypatch):
    def wrong(features, config, *, impl):
        merged = gpu_golden_merge(features, config, impl="reference")
        merged.tokens[0] += 0.1
        return merged

    gpu_golden_merge = gpu_golden.merge_video
    monkeypatch.setattr(gpu_golden, "merge_video", wrong)
    checks = [
        check
        for check in gpu_golden.golden_checks(CPU, "fp32", is_tiny=True)
        if check.name.startswith("merge")
    ]
    assert checks and all(check.record()["status"] == "failed" for check in checks)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        pytest.param(f"echo {gpu_sanitizer.DONE}; echo ERROR SUMMARY: 0 errors", "passed", id="ok"),
        pytest.param("echo ERROR SUMMARY: 3 errors; exit 86", "failed", id="errors"),
        pytest.param("echo ERROR SUMMARY: 0 errors", "failed", id="kernels-did-not-run"),
        pytest.param(f"echo {gpu_sanitizer.DONE}", "failed", id="no-summary"),
        pytest.param("sleep 5", "cut", id="too-slow"),
    ],
)
def test_sanitizer_is_believed_only_when_it_saw_every_kernel(
    tmp_path: Path, monkeypatch, script, status
):
    program = tmp_path / "compute-sanitizer"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpu_sanitizer.run_sanitizer("memcheck", 1.0)["status"] == status


def test_sanitizer_target_launches_every_kernel(capsys):
    gpu_sanitizer.exercise_kernels(CPU)
    assert capsys.readouterr().out.strip() == gpu_sanitizer.DONE


def test_stress_is_in_the_order_of_its_value():
    """At the sizes of a GPU: up to 16 of something; graphs after 100 other shapes."""
    checks = list(stress.stress_checks(CPU, is_tiny=False))
    groups = [check.group for check in checks]
    assert list(dict.fromkeys(groups)) == ["repeat", "order", "graph", "wait", "massive"]
    assert groups == sorted(groups, key=list(dict.fromkeys(groups)).index)  # none comes back
    assert all(min(shape[:2]) <= 16 for shape in stress.FEW)
    assert groups.count("repeat") == groups.count("order") == len(stress.FEW)
    assert [check.name for check in checks if check.group == "graph"] == [
        "replayed after 100 other shapes"
    ]


def test_one_launch_more_than_the_design_s_is_found(monkeypatch):
    monkeypatch.setattr(gpu_checks, "MERGE_LAUNCHES", gpu_checks.MERGE_LAUNCHES - 1)
    (check,) = (
        check for check in gpu_checks.random_checks(CPU, is_tiny=True) if check.group == "launches"
    )
    record = check.record()
    assert record["status"] == "failed" and "merge: " in record["reason"]
