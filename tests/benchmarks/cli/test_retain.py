"""``prunevid eval --retain``: every method at the same share, by its own knob, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prunevid_kernels.adapters.methods.record import Terms
from prunevid_kernels.adapters.methods.registry import METHODS
from prunevid_kernels.benchmarks.accuracy.plan import Plan, PlanError
from prunevid_kernels.benchmarks.accuracy.run_log import read_run
from prunevid_kernels.benchmarks.accuracy.terms import at_shares, parse_shares
from prunevid_kernels.benchmarks.cli import app

pytestmark = pytest.mark.one_version


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retain") / "runs"
    arguments = "--methods full,evs,prunevid,dycoke --retain 0.3 --limit 1 --device cpu".split()
    done = CliRunner().invoke(app, ["eval", "synthetic", *arguments, "--out", str(folder)])
    assert done.exit_code == 0, done.stderr
    return folder, done


def test_each_method_keeps_the_share(runs):
    folder, done = runs
    found = {run.settings["method"]: run for run in map(read_run, folder.iterdir())}
    assert set(found) == {"full", "evs", "prunevid"}
    assert "left out: dycoke keeps 3 of 8 frames whole" in done.stderr
    assert found["evs"].settings["retain"] == found["prunevid"].settings["retain"] == 0.3
    assert "retain" not in found["full"].settings
    for name, run in found.items():
        for record in run.answered:
            assert abs(record.layers_ratio - (1.0 if name == "full" else 0.3)) <= 0.01
            assert record.first_token_ms > 0


def test_the_report_has_them_side_by_side(runs, tmp_path):
    folder, _ = runs
    done = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "report")])
    assert done.exit_code == 0, done.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    rows = {row["method"]: row for row in report["shares"]}
    assert list(rows) == ["full", "evs", "prunevid"]
    assert rows["full"]["asked"] is None and rows["full"]["kept"] == 1.0
    for name in ("evs", "prunevid"):
        assert rows[name]["asked"] == 0.3
        assert abs(rows[name]["kept"] - 0.3) <= 0.01
        assert rows[name]["against_unpruned"]["interval"][0] <= 0
        assert len(rows[name]["first_token_ms"]) == 3
    assert rows["evs"]["against_ours"]["first"].startswith("prunevid")
    assert rows["prunevid"]["against_ours"] is None
    assert rows["prunevid"]["entering"] > rows["evs"]["entering"]  # it drops more further in
    assert "## At equal shares" in done.stdout
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/png") == 2 and 'id="shares"' in page
    assert Path(tmp_path / "report" / "shares.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["", "0", "1.5", "0.1;0.2", "x"])
def test_shares_that_cannot_be(text):
    with pytest.raises(PlanError, match="--retain must be shares in"):
        parse_shares(text)
    assert parse_shares("0.3,0.1,0.3") == (0.1, 0.3)


def test_nothing_left_is_an_error():
    lines: list[str] = []
    with pytest.raises(PlanError, match="none of the methods can keep"):
        at_shares([Plan("dycoke", {})], (0.1,), num_layers=28, frames=32, tell=lines.append)
    (line,) = lines
    assert "dycoke keeps 9 of 32 frames whole, a share of 0.28; it cannot keep 0.1" in line


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.knob])
def test_every_knob_keeps_the_mean_over_layers(name):
    """By arithmetic on what the options say: the merge's share, then the selection's."""
    layers, frames, layer = 28, 32, 10
    share = 0.3 if name == "drop_all" else 0.45
    options = METHODS[name].knob(Terms(share, layers, frames, layer))
    assert set(options) <= set(METHODS[name].defaults)
    METHODS[name].build(**{**METHODS[name].defaults, **options})
    merged = options.get("budget", options.get("ratio", options.get("retain_ratio", 1.0)))
    if "retention_ratio" in options:
        merged = options["retention_ratio"] * options.get("expansion", 1.0)
    if name == "dycoke":
        merged = (9 + 23 * (1 - options["k"])) / 32
    kept, early = 1.0, layers
    if name in ("prunevid", "random_drop", "drop_all", "select_only"):
        kept = 0.0 if name == "drop_all" else options["keep_ratio"]
        early = options["layer"] + 1
    elif name == "fastv":
        kept, early = options["keep_ratio"], options["k"]
    elif name == "flashvid":
        kept, early = 0.3, options["layer"] + 1
    assert merged * (early + kept * (layers - early)) / layers == pytest.approx(share)


@pytest.mark.parametrize(
    ("name", "share", "message"),
    [
        (
            "prunevid",
            0.7,
            "prunevid keeps at most a share of 0.64 with its selection",
        ),
        ("random_drop", 0.7, "random_drop keeps at most a share of 0.64"),
        ("drop_all", 0.4, "drop_all keeps at most a share of 0.39"),
        ("select_only", 0.35, "select_only runs 11 of 28 layers on every token, a share of 0.39"),
        ("fastv", 0.03, "fastv runs 1 of 28 layers on every token, a share of 0.04; it cannot"),
    ],
)
def test_a_share_that_a_method_cannot_keep_is_refused(name, share, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name].knob(Terms(share, 28, 32, 10))


def test_the_report_tells_types_of_generated_questions_apart(runs):
    folder, _ = runs
    done = CliRunner().invoke(app, ["report", str(folder), "--out", str(folder.parent / "types")])
    page = (folder.parent / "types" / "report.md").read_text()
    section = page.split("## By type of question\n")[1].split("\n## ")[0]
    header, _, *rows = [line.split(" | ") for line in section.splitlines() if " | " in line]
    run = next(run for run in map(read_run, folder.iterdir()) if run.settings["method"] == "evs")
    right = {record.task: record.correct["word"] for record in run.answered}
    shown = dict(zip(header[1:], next(row for row in rows if "evs" in row[0])[1:], strict=True))
    assert {kind.strip(" |"): float(cell.strip(" |")) for kind, cell in shown.items()} == {
        kind: 100.0 * value for kind, value in right.items()
    }
    assert done.exit_code == 0
