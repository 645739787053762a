"""What the work costs at least, and ``prunevid bench kernels``: tables, JSON, plot, command."""

from __future__ import annotations

import json

import pytest
import torch
from doubling import BASELINE, CEILINGS, CPU, QUICK, check_doubled, doubling
from typer.testing import CliRunner

from prunevid_kernels import PruneVidConfig, merge_video
from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.cost.ceilings import H200_DATASHEET, Cost, measure_ceilings
from prunevid_kernels.benchmarks.cost.harness import Variant, measure
from prunevid_kernels.benchmarks.cost.kernels import bench as kernels
from prunevid_kernels.benchmarks.cost.kernels.cases import (
    FRAMES,
    MODELS,
    REDUCED,
    Case,
    video_features,
)
from prunevid_kernels.benchmarks.cost.kernels.costs import GroupTokens, merge_cost
from prunevid_kernels.benchmarks.cost.kernels.report import kernels_markdown, plot
from prunevid_kernels.benchmarks.cost.kernels.stages import stage_benchmarks


def test_ceilings_are_measured():
    ceilings = measure_ceilings(CPU, runs=3)
    assert ceilings.copy_bytes_per_s > 1e8 and ceilings.matmul_flops_per_s > 1e8
    assert ceilings.source.startswith("measured")


def test_groups_of_a_layout_are_the_tokens_before_clustering():
    x = video_features(9, 40, 16, seed=0)
    layout = merge_video(x, PruneVidConfig(), impl="reference").layout
    groups = GroupTokens.of_layout(layout)
    static = layout.static_mask()
    assert len(groups.static) == layout.num_segments and len(groups.dynamic) == 9
    assert sum(groups.dynamic) == int((~static).sum())
    ratio = 0.5
    sizes = torch.tensor([size if size <= 14 else int(size * ratio) for size in groups.dynamic])
    assert torch.equal(layout.group_sizes[~layout.group_is_static], sizes)


@pytest.mark.parametrize("model", MODELS)
def test_merge_cost_is_linear_in_the_frames(model):
    """512 frames need at most 18 times as much as 32 at the least."""

    def cost(frames):
        case = Case(MODELS[model], frames, "bf16")
        return merge_cost(case, case.merged_tokens, GroupTokens.expected(case))

    short, long = cost(32), cost(512)
    assert long.num_bytes <= 18 * short.num_bytes
    assert long.floor_ms(H200_DATASHEET) <= 18 * short.floor_ms(H200_DATASHEET)


def test_floor_is_the_larger_of_bytes_and_operations():
    assert Cost("x", 2e9, 1e9).floor_ms(CEILINGS) == pytest.approx(2000)
    assert Cost("x", 1e9, 3e9).floor_ms(CEILINGS) == pytest.approx(3000)


def test_every_floor_of_every_real_case_is_modelled():
    cases = [Case(model, count, "bf16") for model in MODELS.values() for count in FRAMES]
    floors = kernels.modelled_floors(cases, ("merge", "score", "compact"))
    assert len(floors) == 3 * len(cases)
    assert all(cost.num_bytes > 0 for _, cost in floors)
    by_name = {(name, cost.name): cost for name, cost in floors}
    onevision = by_name["llava-onevision-7b 32x196x3584 bf16", "merge"]
    # 45 MB of features in, 0.4 of that out.
    assert onevision.num_bytes == pytest.approx(1.4 * 32 * 196 * 3584 * 2, rel=1e-3)


def test_stages_have_known_names():
    with pytest.raises(ValueError, match="stage must be one of merge, score, compact, got 'x'"):
        list(stage_benchmarks(Case(REDUCED, 8, "fp32"), CPU, stages=("x",)))


def test_markdown_has_a_line_for_every_row_and_every_reason():
    def fail(x):
        raise RuntimeError("a | b")

    bad = Variant("wrong", lambda x: x, check_doubled)
    variants = (BASELINE, bad, Variant("failing", fail, check_doubled))
    text = kernels_markdown(list(measure(doubling(*variants), CPU, QUICK, CEILINGS)))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 4  # the header's and three
    assert lines[1].startswith("| add (baseline) |")
    assert "**incorrect**; not doubled" in lines[2]
    assert "**failed**; RuntimeError: a \\| b" in lines[3]
    assert all(line.replace("\\|", "").count("|") == 11 for line in lines)


def test_plot_is_a_picture(tmp_path):
    rows = list(measure(doubling(BASELINE), CPU, QUICK, CEILINGS))
    plot(rows, CEILINGS, tmp_path / "plot.png", title="a test")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_bench_kernels_without_a_gpu_says_so_and_writes_everything(tmp_path):
    lines: list[str] = []
    results = kernels.bench_kernels(
        models=("pllava-7b",),
        with_compile=False,
        settings=QUICK,
        out=tmp_path,
        progress=lines.append,
    )
    assert json.loads((tmp_path / "kernels.json").read_text()) == results
    assert not results["is_gpu"] and not kernels.has_failures(results)
    names = {row["variant"] for row in results["rows"]}
    assert {"eager loops", "vectorised eager", "full eager attention"} <= names
    assert {"EVS, as in vLLM", "VidCom2, as in vLLM", "prunevid_kernels, reference"} <= names
    assert "prunevid_kernels" not in names
    assert all(row["status"] == "ok" and row["device"] == "cpu" for row in results["rows"])
    assert len(lines) == len(results["rows"])
    text = (tmp_path / "kernels.md").read_text()
    assert kernels.NO_GPU in text and "data sheet, not measured" in text
    assert "as released, with plain torch.cdist" in text
    assert "keeps tokens, averages none; cosines in the features' dtype" in text
    # A CPU's time is held against no floor: not in a line, not in a row, not in a picture.
    assert not any("floor" in line for line in lines)
    assert all(row["floor_ms"] is row["over_floor"] is None for row in results["rows"])
    assert results["ceilings"] is None and not (tmp_path / "kernels.png").exists()
    assert "prunevid bench estimate" in text


def test_command_prints_tables_and_json_last(tmp_path):
    options = ["bench", "kernels", "--no-compile", "--stage", "compact", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "# Kernel benchmarks: CPU, reduced shapes"
    summary = json.loads(lines[-1])
    assert not summary["is_gpu"] and summary["results"] == str(tmp_path / "kernels.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--model", "gpt"], "model must be one of llava-onevision-7b", id="model"),
        pytest.param(["--stage", "sort"], "stage must be one of merge", id="stage"),
        pytest.param(["--frames", "0"], "frames must be at least 1, got 0", id="frames"),
        pytest.param(["--dtype", "int8"], "dtype must be one of bf16", id="dtype"),
    ],
)
def test_command_refuses_unknown_names(tmp_path, options, message):
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["bench", "kernels", "--out", str(out), *options])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"prunevid: error: {message}")
    assert not out.exists()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param({"status": "ok", "variant": "x"}, False, id="fine"),
        pytest.param({"status": "incorrect", "variant": "x"}, True, id="incorrect"),
        pytest.param({"status": "failed", "variant": "torch.compile"}, False, id="theirs"),
        pytest.param({"status": "failed", "variant": "prunevid_kernels"}, True, id="ours"),
    ],
)
def test_failures_are_wrong_results_and_kernels_that_do_not_run(row, expected):
    assert kernels.has_failures({"rows": [row]}) is expected
