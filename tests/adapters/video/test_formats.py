"""Containers, codecs and ways of recording: the frames that a player shows, whoever reads them.

Every file's frames carry their number, so the right ones are known without a second decoder. decord
has to give the same, or to be refused: then with a reason, and ``auto`` reads with PyAV.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_video import (
    BITS,
    ENCODERS,
    FPS,
    HEIGHT,
    MATRICES,
    WIDTH,
    cut,
    encode,
    numbers_in,
    picture,
    set_matrix,
    shown_with,
)
from paths import DATA

from prunevid_kernels.adapters.video import pyav_reader
from prunevid_kernels.adapters.video.reader import Reader, VideoError, read_video

pytestmark = pytest.mark.one_version

COUNT = 28
CODECS_OF = {
    "mp4": ("h264", "h264-open", "hevc", "vp9", "av1", "mpeg2", "mpeg4"),
    "mov": ("h264", "h264-open", "hevc", "mpeg2", "mpeg4"),
    "mkv": ("h264", "h264-open", "hevc", "vp8", "vp9", "av1", "mpeg2", "mpeg4"),
    "webm": ("vp8", "vp9", "av1"),
    "ts": ("h264", "h264-open", "hevc", "mpeg2", "mpeg4"),
    "m2ts": ("h264", "h264-open", "hevc", "mpeg2", "mpeg4"),
    "avi": ("h264", "mpeg2", "mpeg4", "vp8"),
    "flv": ("h264",),
    "ogv": ("vp8",),
    "gif": ("gif",),
}
VARIANTS = ("plain", "variable-rate", "late-start", "cut")
# What the regular run reads: every container, codec and variant at least once, and each case in
# which a reader was once wrong.
SAMPLE = {
    ("mp4", "h264", "plain"),
    ("mp4", "h264", "cut"),
    ("mp4", "h264-open", "plain"),
    ("mp4", "hevc", "cut"),
    ("mp4", "mpeg4", "variable-rate"),
    ("mov", "mpeg2", "late-start"),
    ("mkv", "h264", "late-start"),
    ("mkv", "hevc", "plain"),
    ("mkv", "h264-open", "cut"),
    ("webm", "vp8", "variable-rate"),
    ("webm", "vp9", "cut"),
    ("webm", "av1", "plain"),
    ("ts", "h264", "plain"),
    ("ts", "mpeg2", "cut"),
    ("m2ts", "h264", "late-start"),
    ("avi", "mpeg4", "plain"),
    ("flv", "h264", "cut"),
    ("ogv", "vp8", "plain"),
    ("gif", "gif", "plain"),
}


def cases() -> list[Any]:
    found = []
    for container, codecs in CODECS_OF.items():
        for codec in codecs:
            for variant in VARIANTS:
                # What a muxer does not write: gaps in AVI, times of 1/24 s in GIF, and cuts that
                # lose the parameters which open groups and these containers keep at the start.
                if container in ("avi", "gif", "ogv") and variant != "plain":
                    continue
                if variant == "cut" and (codec == "av1" or (container, codec) in LOST_HEADERS):
                    continue
                marks = () if (container, codec, variant) in SAMPLE else pytest.mark.full
                name = f"{container}-{codec}-{variant}"
                found.append(pytest.param(container, codec, variant, id=name, marks=marks))
    return found


LOST_HEADERS = {("ts", "h264-open"), ("m2ts", "h264-open")}


def write(folder: Path, container: str, codec: str, variant: str) -> Path:
    """The file of a case."""
    path = folder / f"{variant}.{container}"
    how: dict[str, Any] = {"count": COUNT}
    if codec == "gif":
        how["pixel_format"] = "rgb8"
    if container == "m2ts":
        how["muxer"] = {"mpegts_m2ts_mode": "1"}
    if variant == "variable-rate":
        how["times"] = [number + number // 3 for number in range(COUNT)]
    if variant == "late-start":
        how["times"] = [number + 5 * FPS for number in range(COUNT)]
    if variant != "cut":
        return encode(path, codec, **how)
    whole = encode(folder / f"whole.{container}", codec, **how)
    return cut(whole, path, 11, muxer=how.get("muxer"))


def read_by_all(path: Path, expected: list[int], total: int) -> str | None:
    """Hold that PyAV, auto, and decord unless it is refused, give the frames of those numbers.

    Returns:
        Why decord was refused.
    """
    count = len(expected)
    video = read_video(path, count, reader="pyav")
    assert (video.total_frames, video.reader, video.reader_reason) == (total, "pyav", None)
    assert numbers_in(video.frames) == expected
    auto = read_video(path, count)
    assert auto.total_frames == total
    np.testing.assert_array_equal(auto.frames, video.frames)
    assert auto.timestamps_s == pytest.approx(video.timestamps_s, abs=1.1e-3)
    if auto.reader == "decord":
        assert auto.reader_reason is None
        named = read_video(path, count, reader="decord")
        np.testing.assert_array_equal(named.frames, video.frames)
    else:
        assert auto.reader_reason
        with pytest.raises(VideoError, match="decord"):
            read_video(path, count, reader="decord")
    return auto.reader_reason


@pytest.mark.parametrize(("container", "codec", "variant"), cases())
def test_frames_are_those_that_a_player_shows(
    tmp_path: Path, container: str, codec: str, variant: str
) -> None:
    path = write(tmp_path, container, codec, variant)
    video = read_video(path, 10_000)
    numbers = numbers_in(video.frames)
    assert numbers == list(range(numbers[0], COUNT)) and video.total_frames == len(numbers)
    if variant == "cut":
        # An edit list begins at the frame itself, a cut without one at a keyframe before it.
        assert numbers[0] == 11 if container in ("mp4", "mov") else 7 <= numbers[0] <= 11
    else:
        assert numbers[0] == 0
    times = [n + n // 3 for n in numbers] if variant == "variable-rate" else numbers
    expected_s = (np.array(times) - times[0]) / FPS
    precision_s = 0.011 if container == "gif" else 2e-3
    assert video.timestamps_s == pytest.approx(expected_s, abs=precision_s)
    if variant != "variable-rate":
        assert video.fps == pytest.approx(FPS, rel=0.05)
    chosen = np.linspace(0, len(numbers) - 1, 9).astype(int)
    reason = read_by_all(path, [numbers[i] for i in chosen], len(numbers))
    trusted = container in ("mp4", "mov", "mkv", "webm") and codec in ("h264", "vp8")
    if trusted and variant != "cut":
        assert reason is None


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        pytest.param("a.mp4", "h264-open", id="h264-open"),
        pytest.param("a.mkv", "hevc", id="hevc"),
        pytest.param("a.webm", "vp9", id="vp9"),
        pytest.param("a.webm", "av1", id="av1"),
        pytest.param("a.ts", "mpeg2", id="mpeg2-ts"),
    ],
)
def test_frames_by_their_times_are_those_in_order(
    tmp_path: Path, name: str, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only groups with wanted frames are decoded, and the pixels are the same: frames before and
    behind keyframes, repeated, the last one."""
    path = encode(tmp_path / name, codec, count=90)
    chosen = np.array([0, 33, 33, 39, 40, 41, 65, 89])
    found = read_video(path, indices=lambda total, fps: chosen, reader="pyav")
    assert numbers_in(found.frames) == chosen.tolist()
    assert found.timestamps_s == pytest.approx(chosen / FPS, abs=1e-3)
    calls = []
    monkeypatch.setattr(pyav_reader, "_by_time", lambda *arguments: calls.append(arguments))
    in_order = read_video(path, indices=lambda total, fps: chosen, reader="pyav")
    assert len(calls) == 1
    np.testing.assert_array_equal(found.frames, in_order.frames)
    assert found.timestamps_s == pytest.approx(in_order.timestamps_s, abs=1e-6)


def test_few_frames_of_a_long_video_do_not_need_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / "a.mkv", "hevc", count=120)
    decoded = []
    packets_of = pyav_reader.shown_packets

    class Counted:
        def __init__(self, packet):
            self.packet = packet

        def __getattr__(self, name):
            return getattr(self.packet, name)

        def decode(self):
            decoded.append(self.packet)
            return self.packet.decode()

    monkeypatch.setattr(
        pyav_reader,
        "shown_packets",
        lambda *a, **k: ((Counted(packet), shown) for packet, shown in packets_of(*a, **k)),
    )
    video = read_video(path, 2, reader="pyav")
    assert numbers_in(video.frames) == [0, 119]
    assert len(decoded) < 60


@pytest.mark.parametrize(
    ("name", "expected", "total"),
    [
        pytest.param("gop_a.mp4", [132, 175, 218, 261, 304, 347, 390, 435], 302, id="edit-list"),
        pytest.param("vp9_2pass.webm", [0, 17, 34, 51, 68, 85, 102, 119], 120, id="vp9-two-pass"),
        pytest.param("plain.ogv", [0, 17, 34, 51, 68, 85, 102, 119], 120, id="theora"),
    ],
)
def test_files_of_the_ffmpeg_program(name: str, expected: list[int], total: int) -> None:
    """Made by ``ffmpeg -ss 4.4 -t 10 -c copy`` and by encoders that PyAV does not bring."""
    assert read_by_all(DATA / "video" / name, expected, total) is not None


def test_bounds_in_seconds_rest_on_the_frames_that_are_shown() -> None:
    """Second 2 of a clip whose edit list hides 132 frames is frame 60 of those that are left."""
    asked = []

    def rule(total: int, *, fps: float | None) -> np.ndarray:
        asked.append((total, fps))
        return np.array([60, 90])

    video = read_video(DATA / "video" / "gop_a.mp4", indices=rule)
    assert asked == [(302, pytest.approx(30))]
    assert numbers_in(video.frames) == [192, 222]
    assert video.timestamps_s == pytest.approx([2, 3])


@pytest.mark.parametrize("reader", ["auto", "pyav", "decord"])
def test_frames_of_a_later_size_come_in_the_first_one(reader: Reader) -> None:
    video = read_video(DATA / "video" / "reschange.mkv", 8, reader=reader)
    assert video.frames.shape == (8, 128, 192, 3)
    assert numbers_in(video.frames) == [0, 34, 68, 102, 16, 50, 84, 119]


@pytest.mark.parametrize("container", ["mp4", pytest.param("mov", marks=pytest.mark.full)])
@pytest.mark.parametrize("name", MATRICES)
def test_frames_are_turned_and_mirrored_as_the_file_says(
    tmp_path: Path, container: str, name: str
) -> None:
    path = encode(tmp_path / f"a.{container}", "h264", count=6)
    stored = read_video(path, 3, reader="pyav").frames
    set_matrix(path, name)
    video = read_video(path, 3)
    np.testing.assert_array_equal(video.frames, shown_with(name, stored))
    assert video.frames.flags.c_contiguous
    assert video.reader_reason == "the video is stored turned or mirrored"


@pytest.mark.parametrize("reader", ["auto", "pyav", "decord"])
def test_a_turn_by_another_angle_is_an_error(tmp_path: Path, reader: Reader) -> None:
    path = set_matrix(encode(tmp_path / "a.mp4", "h264", count=4), "", (0.8, 0.6, -0.6, 0.8))
    with pytest.raises(VideoError, match="cannot be shown.*no quarter turn or mirror image"):
        read_video(path, 2, reader=reader)


@pytest.mark.parametrize(
    ("name", "codec", "how"),
    [
        pytest.param("a.mp4", "h264", {"pixel_format": "yuv420p10le"}, id="10-bit-h264"),
        pytest.param("a.mkv", "hevc", {"pixel_format": "yuv420p10le"}, id="10-bit-hevc"),
        pytest.param("a.webm", "vp8", {"size": (95, 191)}, id="odd-vp8"),
        pytest.param(
            "a.mp4", "h264", {"size": (95, 191), "pixel_format": "yuv444p"}, id="odd-h264-444"
        ),
        pytest.param("a.mov", "png", {"pixel_format": "rgba"}, id="alpha-png"),
        pytest.param("a.avi", "mjpeg", {"pixel_format": "yuvj420p"}, id="full-range-mjpeg"),
        pytest.param(
            "a.mp4", "h264", {"muxer": {"movflags": "frag_keyframe+empty_moov"}}, id="fragments"
        ),
        pytest.param("a.mkv", "h264", {"muxer": {"live": "1"}}, id="live-matroska"),
        pytest.param("wrong.avi", "h264", {"muxer_name": "mp4"}, id="wrong-suffix"),
        pytest.param("10:30 news.mp4", "h264", {}, id="colon-in-the-name"),
        pytest.param("100%d of it.png", "h264", {"muxer_name": "mp4"}, id="percent-in-the-name"),
    ],
)
def test_other_files(tmp_path: Path, name: str, codec: str, how: dict[str, Any]) -> None:
    if "muxer_name" in how:
        path = encode(tmp_path / "right.mp4", codec, count=12).rename(tmp_path / name)
    else:
        path = encode(tmp_path / name, codec, count=12, **how)
    read_by_all(path, [0, 3, 7, 11], 12)


@pytest.mark.parametrize("size", [(16, 16), (24, 24), (34, 48)], ids=["16", "24", "48"])
def test_small_frames(tmp_path: Path, size: tuple[int, int], monkeypatch) -> None:
    """Frames of one grey each; decord cannot copy some of these widths."""
    monkeypatch.setattr(
        "numbered_video.picture", lambda number, h, w: np.full((h, w, 3), 20 * number, np.uint8)
    )
    path = encode(tmp_path / "a.mp4", "h264", count=10, size=size)
    video = read_video(path, 4)
    assert video.frames.shape == (4, *size, 3)
    assert video.frames.mean((1, 2, 3)) == pytest.approx([0, 60, 120, 180], abs=4)
    assert video.reader_reason == f"it cannot copy frames {size[1]} pixels wide"


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    encode(tmp_path / "a.mp4", "h264", count=4).rename(odd)
    video = read_video(odd, 4)
    assert numbers_in(video.frames) == [0, 1, 2, 3]
    assert video.reader_reason == "its file name is not UTF-8"


def test_pictures_tell_their_number() -> None:
    for number in (0, 1, 5, 1000, 2**BITS - 1):
        assert numbers_in(picture(number)[None]) == [number]
    assert picture(0).shape == (HEIGHT, WIDTH, 3)
    assert set(CODECS_OF["mkv"]) < set(ENCODERS)
