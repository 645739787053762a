"""The same tokens from more frames: ``prunevid eval --more-frames``, its curves in the report, and
runs that are told apart by frames and shares."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from prunevid_kernels.benchmarks.accuracy.plan import Plan, PlanError
from prunevid_kernels.benchmarks.accuracy.run_log import read_run
from prunevid_kernels.benchmarks.accuracy.terms import parse_multiples, with_more_frames
from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.report.published import published_score, published_shares

pytestmark = pytest.mark.one_version


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames") / "runs"
    given = "--methods full,evs,prumerge --retain 0.5 --frames 2 --more-frames 2 --limit 1".split()
    given += ["--out", str(folder), "--report", str(folder.parent / "report")]
    done = CliRunner().invoke(app, ["eval", "synthetic", *given])
    assert done.exit_code == 0, done.stderr
    return folder, done


def test_more_frames_keep_the_number_of_tokens(runs):
    folder, done = runs
    found = {}
    for run in map(read_run, folder.iterdir()):
        settings = run.settings
        tokens = {round(r.layers_ratio * r.tokens_before) for r in run.answered}
        found[settings["method"], settings["frames"], settings.get("retain")] = tokens
    prumerge = found.pop(("prumerge", 2, None))  # without a knob: once, as it is
    assert prumerge and found == {
        ("full", 2, None): {72},
        ("full", 4, None): {144},
        ("evs", 2, 0.5): {36},
        ("evs", 4, 0.25): {36},
    }
    assert "evs at 0.25 against full" in done.stdout


def test_the_report_has_the_curves(runs, tmp_path):
    """And one command writes it with the runs."""
    folder, evaluated = runs
    out = tmp_path / "report"
    done = CliRunner().invoke(app, ["report", str(folder), "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    assert str(folder.parent / "report" / "report.html") in evaluated.stdout
    assert {path.name for path in (folder.parent / "report").iterdir()} == {
        path.name for path in out.iterdir()
    }
    report = json.loads((out / "report.json").read_text())
    curves = [
        (row["method"], row["frames"], row["share"], row["budget"]) for row in report["curves"]
    ]
    assert curves == [
        ("full", 2, 1.0, None),
        ("full", 4, 1.0, None),
        ("evs", 2, 0.5, 1.0),
        ("evs", 4, 0.25, 1.0),
    ]
    first, second = report["curves"][2:]
    assert first["against_fewest"] is None and second["against_fewest"]["first"] == "evs at 0.5"
    assert first["tokens"] == second["tokens"] == 36.0
    # Each is compared with the unpruned run of as many frames, and named with its frames.
    lines = {(line["method"], line["frames"]): line for line in report["lines"]}
    compared = lines["evs", 4]["entries"]["synthetic"]["against_unpruned"]
    score = {key: line["entries"]["synthetic"]["row"]["score"] for key, line in lines.items()}
    assert compared["difference"] == pytest.approx(score["evs", 4] - score["full", 4])
    assert "| evs at 0.25, 4 frames |" in done.stdout and "| full, 2 frames |" in done.stdout
    assert "## The same tokens from more frames" in done.stdout
    page = (out / "report.html").read_text()
    assert 'id="frames"' in page and "4 frames</small>" in page
    assert (out / "frames.png").read_bytes().startswith(b"\x89PNG")


def test_without_more_frames_there_are_no_curves(runs, tmp_path):
    folder, _ = runs
    one = [str(path) for path in folder.iterdir() if read_run(path).settings["frames"] == 2]
    done = CliRunner().invoke(app, ["report", *one, "--out", str(tmp_path / "report")])
    assert done.exit_code == 0, done.stderr
    assert "more frames" not in done.stdout and "2 frames" not in done.stdout
    assert not (tmp_path / "report" / "frames.png").exists()


@pytest.mark.parametrize("text", ["", "1", "2.5", "2;4", "x", "-2"])
def test_multiples_that_cannot_be(text):
    with pytest.raises(PlanError, match="--more-frames must be whole numbers from 2"):
        parse_multiples(text)
    assert parse_multiples("4,2,4") == (2, 4)


def test_more_frames_need_a_share(tmp_path):
    arguments = ["eval", "synthetic", "--more-frames", "2", "--out", str(tmp_path / "runs")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2 and "--more-frames needs --retain" in done.stderr


def test_a_share_that_more_frames_make_possible_is_kept():
    """DyCoke keeps 3 of 8 frames whole but 5 of 16: less of more frames."""
    lines: list[str] = []
    terms = {"num_layers": 28, "frames": 8, "tell": lines.append}
    (plan,) = with_more_frames([Plan("dycoke", {})], (0.7,), (2,), **terms)
    assert (plan.frames, plan.retain) == (16, 0.35) and not lines
    assert plan.name.startswith("dycoke-retain=0.35-frames=16-k=")


# ---- what was published stands beside a run of the same model, method, benchmark and share


def settings_of(method, **changes):
    settings = {
        "benchmark": "mvbench",
        "model": "Qwen3-VL-8B-Instruct",
        "checkpoint": "/models/Qwen3-VL-8B-Instruct",
        "family": "qwen3_vl",
        "method": method,
        "frames": 32,
        **changes,
    }
    return settings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (settings_of("vidcom2", retain=0.25), 67.0),
        (settings_of("vidcom2", retain=0.25, benchmark="videomme"), 62.4),
        (settings_of("full"), 68.6),
        (settings_of("vidcom2", retain=0.2), None),
        (settings_of("vidcom2"), None),
        (settings_of("vidcom2", retain=0.25, frames=16), None),
        (settings_of("vidcom2", retain=0.25, checkpoint="/models/qwen3-vl-2b"), None),
        (settings_of("vidcom2", retain=0.25, checkpoint=None), None),
        (settings_of("vidcom2", retain=0.25, benchmark="egoschema"), None),
        (settings_of("prunevid", family="pllava", frames=16), 47.6),
        (settings_of("prunevid", family="pllava", frames=16, retain=0.162), None),
    ],
)
def test_published_numbers_are_of_the_same_run(settings, expected):
    """The paper's rows are of the methods' own options, which a share replaces."""
    assert published_score(settings) == expected


def test_every_published_share_says_whose_it_is():
    assert all(row.source and 0 < row.share <= 1 and row.scores for row in published_shares())
