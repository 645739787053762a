"""What ``read_video`` promises: who reads, which frames, and how they are chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numbered_video import FPS, encode, numbers_in

from prunevid_kernels.adapters.video.reader import (
    Reader,
    Video,
    VideoError,
    read_video,
    sample_indices,
)
from prunevid_kernels.benchmarks.embedded import sample_clip
from prunevid_kernels.benchmarks.embedded.sample_clip import SAMPLE_CLIP, frames

pytestmark = pytest.mark.one_version

COUNT = 30


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("clip") / "a.mp4", "h264", count=COUNT)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that decord reads wrongly."""
    return encode(tmp_path_factory.mktemp("stream") / "a.ts", "h264", count=COUNT)


@pytest.mark.parametrize("reader", ["auto", "decord", "pyav"])
def test_frames_with_their_indices_and_times(clip: Path, reader: Reader) -> None:
    video = read_video(clip, 9, reader=reader)
    assert video.total_frames == COUNT
    assert video.indices.tolist() == sample_indices(COUNT, 9).tolist()
    assert video.frames.dtype == np.uint8 and video.frames.flags.c_contiguous
    assert numbers_in(video.frames) == video.indices.tolist()
    assert video.fps == pytest.approx(FPS)
    assert video.timestamps_s == pytest.approx(video.indices / FPS)
    assert video.reader == ("pyav" if reader == "pyav" else "decord")
    assert video.reader_reason is None


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_a_single_frame(tmp_path: Path, reader: Reader) -> None:
    video = read_video(encode(tmp_path / "a.mp4", "h264", count=1), 4, reader=reader)
    assert numbers_in(video.frames) == [0] and video.timestamps_s.tolist() == [0]
    assert video.fps == pytest.approx(FPS)


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_a_rule_chooses_frames_and_may_repeat_them(clip: Path, reader: Reader) -> None:
    """It is told the number of frames and the clock."""
    chosen = [2, 2, 9, 28, 28, 28]
    asked = []

    def rule(total: int, *, fps: float | None) -> np.ndarray:
        asked.append((total, fps))
        return np.array(chosen)

    video = read_video(clip, indices=rule, reader=reader)
    assert asked == [(COUNT, pytest.approx(FPS))]
    assert numbers_in(video.frames) == chosen == video.indices.tolist()
    assert video.timestamps_s == pytest.approx(np.array(chosen) / FPS)


def test_auto_reads_with_decord_or_without(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_decord = read_video(clip, 4)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "decord", None)  # an import now fails
    without = read_video(clip, 4)
    np.testing.assert_array_equal(with_decord.frames, without.frames)
    assert (with_decord.reader, without.reader) == ("decord", "pyav")
    assert without.reader_reason == "decord is not installed"
    with pytest.raises(ImportError, match="decord"):
        read_video(clip, 4, reader="decord")


def test_auto_says_why_it_did_not_take_decord(stream: Path) -> None:
    video = read_video(stream, 5)
    assert numbers_in(video.frames) == sample_indices(COUNT, 5).tolist()
    assert video.reader == "pyav"
    assert video.reader_reason == "it does not seek rightly in mpegts"


def test_what_decord_reads_wrongly_it_does_not_read(stream: Path) -> None:
    with pytest.raises(VideoError, match=r"decord cannot be trusted.*mpegts; PyAV reads it"):
        read_video(stream, 5, reader="decord")


def test_where_decord_fails_auto_goes_on_with_pyav(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ffmpeg is older, so it may not know what the check lets pass."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("[03:53:29] /src/reader.cc:151: cannot find video stream\nstack trace")

    monkeypatch.setattr("decord.VideoReader", refuse)
    video = read_video(clip, 4)
    assert video.reader == "pyav" and numbers_in(video.frames) == video.indices.tolist()
    assert "(decord: cannot find video stream)" in str(video.reader_reason)
    with pytest.raises(VideoError, match="cannot find video stream"):
        read_video(clip, 4, reader="decord")


def test_decord_that_counts_other_frames_is_refused(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decord.VideoReader.__len__", lambda self: COUNT + 1)
    assert read_video(clip, 4).reader == "pyav"
    with pytest.raises(VideoError, match="decord counts 31 frames, but it has 30"):
        read_video(clip, 4, reader="decord")


def test_an_unknown_reader(clip: Path) -> None:
    with pytest.raises(ValueError, match="reader must be one of auto, decord, pyav, got 'av'"):
        read_video(clip, 4, reader="av")  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.full)])
def test_sample_clip_decodes_to_what_the_generator_draws(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sixth frame, since drawing is slow: the flash's first and its end are among them."""
    video = read_video(SAMPLE_CLIP, 10_000)
    monkeypatch.setattr(sample_clip, "FPS", sample_clip.FPS // step)
    assert video.total_frames == len(video.frames)
    assert SAMPLE_CLIP.stat().st_size < 300_000
    errors = [
        np.abs(decoded.astype(int) - drawn.astype(int)).mean()
        for decoded, drawn in zip(video.frames[::step], frames(), strict=True)
    ]
    # A wrong frame is off by ten and more; a scene by sixty.
    assert max(errors) < 5


# ---- sampling


@pytest.mark.parametrize(
    ("total", "n", "expected"),
    [
        pytest.param(10, 4, [0, 3, 6, 9], id="even"),
        pytest.param(10, 3, [0, 4, 9], id="cut-not-rounded"),
        pytest.param(192, 5, [0, 47, 95, 143, 191], id="long"),
        pytest.param(5, 1, [0], id="one"),
        pytest.param(5, 5, [0, 1, 2, 3, 4], id="all"),
        pytest.param(3, 8, [0, 1, 2], id="fewer-than-asked"),
        pytest.param(1, 8, [0], id="single-frame"),
    ],
)
def test_sample_indices(total: int, n: int, expected: list[int]) -> None:
    assert sample_indices(total, n).tolist() == expected


@pytest.mark.parametrize(("total", "n"), [(0, 4), (4, 0), (4, -1)])
def test_sample_indices_refuses_nothing(total: int, n: int) -> None:
    with pytest.raises(ValueError, match="must be an integer >= 1"):
        sample_indices(total, n)


@pytest.mark.parametrize("frames_wanted", [0, -3])
def test_number_of_frames_must_be_positive(frames_wanted: int) -> None:
    with pytest.raises(ValueError, match="num_frames must be an integer >= 1"):
        read_video(SAMPLE_CLIP, frames_wanted)


def test_fewer_frames_than_asked_are_all_frames(clip: Path) -> None:
    video: Video = read_video(clip, 32)
    assert video.total_frames == len(video.frames) == COUNT
