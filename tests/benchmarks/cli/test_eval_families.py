"""``prunevid eval`` with a folder of each family: every method, and how each family is asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datas_tree as tree
import pytest
import tiny_folders
import tiny_pllava
from typer.testing import CliRunner

from prunevid_kernels.adapters.families import FAMILIES
from prunevid_kernels.adapters.families.grid_processor import GridFrameProcessor
from prunevid_kernels.adapters.families.processor import FrameProcessor
from prunevid_kernels.adapters.methods.registry import METHODS
from prunevid_kernels.benchmarks.accuracy.run_log import read_run
from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.report.published import published_rows

pytestmark = pytest.mark.one_version

FRAME_BY_FRAME = ("llava_next_video", "internvl", "smolvlm", "video_llama_3")


@pytest.fixture(scope="module")
def datas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree.all_benchmarks(tmp_path_factory.mktemp("DATAS"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    published = root / "published"
    shutil.copytree(tiny_pllava.PUBLISHED, published)
    tiny_folders.write_pllava_tokenizer(published, image_id=150, vocab_size=160)
    return {
        "pllava": tiny_folders.write_pllava(root / "a"),
        "pllava-lora": published,
        "st_llm": tiny_folders.write_st_llm(root / "b"),
        "st_llm-residual": tiny_folders.write_st_llm(root / "c", residual_size=4),
        "qwen2_5_vl": tiny_folders.write_grid(root / "d", "qwen2_5_vl"),
        "qwen3_vl": tiny_folders.write_grid(root / "e", "qwen3_vl"),
        **{name: tiny_folders.WRITERS[name](root / name) for name in FRAME_BY_FRAME},
    }


@pytest.fixture
def evaluate(tmp_path: Path, datas: Path, folders: dict[str, Path]):
    """The outcome of ``prunevid eval DATASET`` with one of the folders and short answers."""

    def evaluate(dataset: str, folder: str, *arguments: str) -> Any:
        given = ["eval", dataset, "--model", str(folders[folder]), "--data-root", str(datas)]
        given += ["--out", str(tmp_path / "runs"), "--max-new-tokens", "2", *arguments]
        return CliRunner().invoke(app, given)

    return evaluate


def record_of(outcome: Any) -> dict[str, Any]:
    assert outcome.exit_code == 0, outcome.stderr
    return json.loads(outcome.stdout.splitlines()[-1])


def settings_of(record: dict[str, Any]) -> dict[str, Any]:
    return read_run(Path(record["runs"][0])).settings


@pytest.mark.parametrize("family", ["pllava", "st_llm"])
def test_every_method_has_its_row(evaluate, family, request) -> None:
    """Without --full, of other papers' merging methods a sample."""
    left_out = {"evs", "dycoke", "fastvid", "holitom", "visionzip", "fewer_frames"}
    if request.config.getoption("--full"):
        left_out = set()
    if family == "st_llm":
        left_out.add("downsample")  # its tokens are no grid
    names = [name for name in METHODS if name not in left_out]
    arguments = ("--method", ",".join(names), "--limit", "1", "--config", "layer=1")
    record = record_of(evaluate("egoschema", family, *arguments))
    rows = {row["method"]: row for row in record["rows"]}
    assert list(rows) == names
    for name, row in rows.items():
        published = published_rows().get((family, name))
        assert row["published"] == (published and published.egoschema_subset)
        assert (row["family"], row["questions"], row["skipped"]) == (family, 1, 0)
        assert (row["retained"] == 1) == (name in ("full", "look_m")), name
        assert (row["flops_ratio"]["paper"] == 1) == (name in ("full", "look_m")), name
        assert (row["cached_ratio"] == 1) == (name == "full"), name
    assert rows["random_drop"]["retained"] == rows["prunevid"]["retained"]
    assert settings_of(record)["sampling"] == FAMILIES[family].sampling
    assert settings_of(record)["frames"] == 16


def test_st_llm_takes_the_frames_of_pllava_on_mvbench(evaluate) -> None:
    """Bounds and folders of frames included: every task has its question answered."""
    record = record_of(evaluate("mvbench", "st_llm", "--frames", "4", "--config", "layer=1"))
    (row,) = record["rows"]
    assert (row["questions"], row["skipped"], len(row["tasks"])) == (20, 0, 20)
    assert settings_of(record)["sampling"] == "half_segments"


def test_st_llm_answers_open_questions_with_beams_over_64_frames(evaluate) -> None:
    arguments = ("--limit", "1", "--config", "layer=1")
    record = record_of(evaluate("vcgbench", "st_llm-residual", *arguments))
    settings = settings_of(record)
    assert (settings["sampling"], settings["frames"]) == ("between_borders", 64)
    assert settings["generation"] == {
        "max_new_tokens": 2,
        "num_beams": 5,
        "repetition_penalty": 1.5,
    }
    answered = read_run(Path(record["runs"][0])).answered
    # The prompt counts once, not for each beam.
    assert [item.tokens_before for item in answered] == [4 * 32] * 3
    assert all(0 < item.cached_ratio < 1 for item in answered)


@pytest.mark.parametrize(("dataset", "layer"), [("egoschema", 10), ("vcgbench", 5)])
def test_pllava_selects_where_its_authors_do(evaluate, dataset, layer) -> None:
    """The tiny model is not deep enough for either, and says so."""
    outcome = evaluate(dataset, "pllava")
    assert outcome.exit_code == 2
    message = f"layer must be less than the model's 5 decoder layers, got {layer}"
    assert message in outcome.stderr


def test_lora_alpha_belongs_to_the_run(evaluate) -> None:
    given = ("egoschema", "pllava-lora", "--config", "layer=1")
    assert "lora_alpha" in evaluate(*given).stderr
    record = record_of(evaluate(*given, "--lora-alpha", "14"))
    assert settings_of(record)["lora_alpha"] == 14
    other = evaluate(*given, "--lora-alpha", "4", "--resume")
    assert "was started with lora_alpha = 14.0, not 4.0" in other.stderr


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_families_with_grids_are_told_the_time(evaluate, monkeypatch, family) -> None:
    """Frames that are taken 0.75 seconds apart are not said to be half a second apart."""
    seen = []
    monkeypatch.setattr(
        GridFrameProcessor,
        "token_seconds",
        lambda self, clip: seen.append(list(clip.seconds)) or [0.0] * (len(clip.frames) // 2),
    )
    arguments = ("--method", "full,prunevid", "--limit", "1", "--frames", "4")
    config = ("--config", "layer=2", "--config", "min_cluster_tokens=4")
    record = record_of(evaluate("egoschema", family, *arguments, *config))
    assert [row["method"] for row in record["rows"]] == ["full", "prunevid"]
    assert [row["skipped"] for row in record["rows"]] == [0, 0]
    assert record["rows"][1]["retained"] < 1
    assert seen and all(len(times) == 4 and times[-1] > 1.0 for times in seen)


def test_a_method_without_its_place_in_a_family_says_so(evaluate) -> None:
    outcome = evaluate("egoschema", "qwen3_vl", "--method", "prumerge", "--limit", "1")
    assert outcome.exit_code != 0
    assert "no attention on its vision side" in outcome.stderr


@pytest.mark.parametrize(
    ("family", "frames"),
    [
        pytest.param("llava_next_video", 32, marks=pytest.mark.full),
        ("internvl", 16),
        pytest.param("smolvlm", 48, marks=pytest.mark.full),
        ("video_llama_3", 12),
    ],
)
def test_families_that_see_frames_one_by_one(evaluate, folders, monkeypatch, family, frames):
    """At their own number of frames, of a clip of 12 in two seconds; VideoLLaMA3, which takes 180,
    at fewer."""
    if family == "video_llama_3":  # as published, 128 tokens a frame at least
        size = {"shortest_edge": 4 * 64, "longest_edge": 12 * 16 * 64}
        (folders[family] / "video_preprocessor_config.json").write_text(
            json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": size})
        )
    seen: list[Any] = []
    plain = FrameProcessor.__call__

    def noting(self, pixels, question, **options):
        seen.append((len(pixels), options["seconds"]))
        return plain(self, pixels, question, **options)

    monkeypatch.setattr(FrameProcessor, "__call__", noting)
    arguments = ["--method", "full,prunevid", "--limit", "1", "--config", "layer=1"]
    arguments += ["--frames", "12"] if family == "video_llama_3" else []
    record = record_of(evaluate("egoschema", family, *arguments))
    full, pruned = record["rows"]
    assert (full["questions"], full["skipped"], full["retained"]) == (1, 0, 1)
    assert (pruned["questions"], pruned["skipped"], pruned["family"]) == (1, 0, family)
    assert 0 < pruned["retained"] < 1 and 0 < pruned["flops_ratio"]["exact"] < 1
    for count, seconds in seen:
        assert count == len(seconds) == frames
        assert seconds[0] < 0.2 and 1.6 < seconds[-1] < 2.0
