"""Whatever a user can get wrong: one line on stderr, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from paths import DATA
from typer.testing import CliRunner

from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.run import page as report

pytestmark = pytest.mark.one_version

ASK = ("--question", "What moves?")


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path: Path):
    yield
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith((".prunevid", "out"))]
    assert left == []


# ---- video


def test_no_such_video(prunevid, tmp_path: Path) -> None:
    assert prunevid("--video", tmp_path / "gone.mp4", *ASK).error.endswith("gone.mp4: no such file")


def test_video_that_is_text(prunevid, tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("not a video")
    assert "notes.mp4: not a video file" in prunevid("--video", path, *ASK).error


def test_truncated_video(prunevid, tmp_path: Path, clip: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip.read_bytes()[:1500])
    assert "cut.mp4: truncated: 1500 bytes" in prunevid("--video", path, *ASK).error


def test_reader_that_does_not_exist(prunevid, clip: Path) -> None:
    error = prunevid("--video", clip, "--reader", "opencv", *ASK).error
    assert error.endswith("--reader must be one of auto, decord, pyav, got 'opencv'")


def test_reader_that_would_read_wrongly(prunevid) -> None:
    video = DATA / "video" / "gop_a.mp4"
    error = prunevid("--video", video, "--reader", "decord", *ASK).error
    assert "132 frames of the file are not shown; PyAV reads it" in error


def test_reader_that_is_not_installed(
    prunevid, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = prunevid("--video", clip, "--reader", "decord", *ASK).error
    assert "--reader: decord is not installed" in error


def test_video_without_a_video_stream(prunevid, tmp_path: Path) -> None:
    """An MP4 with an index in which there is no track."""
    path = tmp_path / "empty.mp4"
    movie_header = struct.pack(">I4s", 108, b"mvhd") + bytes(100)
    moov = struct.pack(">I4s", 8 + len(movie_header), b"moov") + movie_header
    path.write_bytes(struct.pack(">I4s8s", 16, b"ftyp", b"isom\0\0\0\0") + moov)
    assert "empty.mp4: no video stream" in prunevid("--video", path, *ASK).error


def test_folder_without_frames(prunevid, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    assert "frames: the folder has no images" in prunevid("--video", folder, *ASK).error


def test_no_decoder_makes_noise_about_a_bad_video(
    prunevid, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """They write past Python, to the process's own stderr."""
    path = tmp_path / "notes.mp4"
    path.write_text("not a video")
    assert len(prunevid("--video", path, *ASK).stderr.splitlines()) == 1
    assert capfd.readouterr() == ("", "")


# ---- question and numbers


@pytest.mark.parametrize("question", [(), ("--question", ""), ("--question", "  \n")])
def test_video_without_a_question(prunevid, clip: Path, question: tuple[str, ...]) -> None:
    assert "no question" in prunevid("--video", clip, *question).error


def test_empty_question_for_the_sample_clip(prunevid) -> None:
    assert "no question" in prunevid("--question", "").error


@pytest.mark.parametrize("token", ["<video>", "<image>"])
def test_question_with_a_placeholder(prunevid, clip: Path, token: str) -> None:
    outcome = prunevid("--video", clip, "--frames", "2", "--question", f"What is {token}?")
    assert outcome.exit_code == 2
    assert f"must not contain the placeholder '{token}'" in outcome.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", ["0", "-4"])
@pytest.mark.parametrize("option", ["--frames", "--max-new-tokens"])
def test_numbers_below_one(prunevid, option: str, number: str) -> None:
    assert f"{option} must be an integer >= 1, got {number}" in prunevid(option, number).error


def test_number_that_is_a_word() -> None:
    result = CliRunner().invoke(app, ["run", "--frames", "many"])
    assert result.exit_code == 2
    assert "--frames" in result.stderr and "Traceback" not in result.stderr


def test_unknown_device(prunevid) -> None:
    assert "--device: 'abacus' cannot be used" in prunevid("--device", "abacus").error


# ---- config


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        pytest.param("tua=0.8", "unknown config key 'tua'; known keys: tau,", id="unknown-key"),
        pytest.param("tau=2", "tau must be in (0, 1], got 2", id="out-of-range"),
        pytest.param("tau=high", "tau must be a number in (0, 1], got 'high'", id="wrong-type"),
        pytest.param("tau", "must be key=value or a .json file, got 'tau'", id="no-value"),
        pytest.param("=1", "must be key=value or a .json file", id="no-key"),
        pytest.param(
            "layer=5", "layer 5 does not exist, the decoder has layers 0 to 4", id="layer"
        ),
        pytest.param("gone.json", "gone.json: No such file", id="no-file"),
    ],
)
def test_bad_config(prunevid, item: str, expected: str) -> None:
    assert expected in prunevid("--config", item).error


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("{tau: 1}", "not valid JSON", id="not-json"),
        pytest.param("[0.8]", "must hold a JSON object, got list", id="not-an-object"),
        pytest.param('{"alpha": 0.4}', "unknown config key 'alpha'", id="unknown-key"),
    ],
)
def test_bad_config_file(prunevid, tmp_path: Path, content: str, expected: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(content)
    assert expected in prunevid("--config", file).error


# ---- checkpoint


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights[next(key for key in weights if "layers.3.mlp.up_proj" in key)]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(name: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | values))

    return change


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


CLIP_MEAN = [0.481, 0.458, 0.408]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        pytest.param(cut_weights, "truncated or damaged", id="truncated-weights"),
        pytest.param(write("model.safetensors", "junk"), "truncated or damaged", id="junk-weights"),
        pytest.param(remove("model.safetensors"), "no weights", id="no-weights"),
        pytest.param(drop_a_weight, "missing (1): ", id="missing-weight"),
        pytest.param(write("config.json", "{"), "not valid JSON", id="broken-config"),
        pytest.param(remove("config.json"), "has no config.json", id="no-config"),
        pytest.param(
            write("config.json", '{"model_type": "llama"}'),
            "got model_type 'llama'",
            id="another-model",
        ),
        pytest.param(write("tokenizer.json", "{}"), "cannot be loaded", id="broken-tokenizer"),
        pytest.param(remove("preprocessor_config.json"), "none of video_pre", id="no-preprocessor"),
        pytest.param(write("preprocessor_config.json", "{}"), "no valid image_mean", id="no-mean"),
        pytest.param(
            change_json("preprocessor_config.json", image_mean=CLIP_MEAN),
            "image_mean and image_std must be 0.5 for a SigLIP tower",
            id="clip-mean",
        ),
    ],
)
def test_bad_checkpoint(prunevid, tmp_path: Path, checkpoint: Path, damage, expected: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    damage(folder)
    message = prunevid("--model", folder, "--config", "layer=2").error
    assert str(folder) in message and expected in message


def test_no_such_checkpoint(prunevid, tmp_path: Path) -> None:
    assert "gone: no such model folder" in prunevid("--model", tmp_path / "gone").error


def test_default_layer_is_too_deep_for_a_small_checkpoint(prunevid, checkpoint: Path) -> None:
    message = prunevid("--model", checkpoint).error
    assert "layer 10 does not exist, the decoder has layers 0 to 4" in message
    assert "--config layer=N, such as layer=1" in message


# ---- report folder


def test_out_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    result = CliRunner().invoke(app, ["run", "--out", str(tmp_path / "taken")])
    assert result.exit_code == 2
    assert result.stderr == f"prunevid: error: --out: {tmp_path / 'taken'} is not a folder\n"
    assert (tmp_path / "taken").read_text() == "mine"


def test_out_below_a_file(prunevid, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    arguments = ["run", "--frames", "2", "--out", str(tmp_path / "taken" / "deeper")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "prunevid: error: --out: " in result.stderr.splitlines()[-1]


def test_a_disk_that_fills_up_leaves_nothing(
    prunevid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(files: dict[str, bytes], folder: Path) -> None:
        original({"first.png": b"1"} | {"gone/second.png": b"2"}, folder)

    original = report._write_all
    monkeypatch.setattr(report, "_write_all", full)
    outcome = prunevid("--frames", "2")
    assert outcome.exit_code == 2
    assert "prunevid: error: --out: " in outcome.stderr.splitlines()[-1]


def test_a_question_that_is_no_text(prunevid) -> None:
    message = prunevid("--question", "what\udcff", "--frames", "2").error
    assert "--question: the question must be text, got the lone surrogate U+DCFF" in message
