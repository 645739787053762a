"""Files that are no video, or a damaged one: one line that names the file, and never a hang."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_video import HEIGHT, WIDTH, encode, numbers_in
from PIL import Image

from prunevid_kernels.adapters.video.containers import check_container
from prunevid_kernels.adapters.video.reader import Reader, VideoError, read_video

pytestmark = pytest.mark.one_version

EITHER = pytest.mark.parametrize("reader", ["decord", "pyav"])


def error_of(path: Path, reader: Reader = "auto") -> str:
    with pytest.raises(VideoError) as caught:
        read_video(path, 4, reader=reader)
    message = str(caught.value)
    assert "\n" not in message
    message.encode()
    return message


# ---- names


def test_no_such_file(tmp_path: Path) -> None:
    assert error_of(tmp_path / "gone.mp4") == f"{tmp_path}/gone.mp4: no such file"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("a" * 300 + ".mp4", "File name too long", id="long-name"),
        pytest.param("a/" * 5000, "File name too long", id="long-path"),
        pytest.param("\ud800.mp4", "\\ud800.mp4: cannot be read: not the name of", id="surrogate"),
        pytest.param("a\0.mp4", "\\x00.mp4: cannot be read: not the name of a file", id="null"),
        pytest.param("\x1b[31m\n.mp4", "/\\x1b[31m\\n.mp4: no such file", id="control-characters"),
    ],
)
def test_names_that_no_file_has(tmp_path: Path, name: str, expected: str) -> None:
    message = error_of(tmp_path / name)
    assert expected in message and len(message) < 600


def test_a_file_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    assert error_of(tmp_path / "a" / "b.mp4").endswith("cannot be read: Not a directory")


def test_a_link_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.symlink_to(path)
    assert error_of(path).endswith("cannot be read: Too many levels of symbolic links")


def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    assert error_of(tmp_path / "a.mp4").endswith("neither a file nor a folder")


# ---- other files


@EITHER
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param(b"hello, this is text\n" * 50, "not a video file", id="text"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(300), "not a video file", id="picture"),
        pytest.param(b"#EXTM3U\nhttp://a/b.ts\n" * 30, "not a video file", id="playlist"),
        pytest.param(b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video", id="concat"),
        pytest.param(b"G" * 900, "no frame can be decoded|no video stream", id="letters-g"),
        pytest.param(b"\0\0\1" + bytes(900), "no frame can be decoded|no video", id="start-code"),
    ],
)
def test_not_a_video(tmp_path: Path, reader: Reader, content: bytes, expected: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert any(text in error_of(path, reader) for text in expected.split("|"))


def write_sound(path: Path, cover: Path | None = None) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=16000)
        picture = None
        if cover is not None:
            picture = output.add_stream("png", rate=1)
            picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
        silence = np.zeros((1, 1024), dtype=np.float32)
        sound = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        sound.rate = 16000
        if picture is not None:
            output.mux(picture.encode(av.VideoFrame.from_image(Image.open(cover))))
            output.mux(picture.encode())
        output.mux(stream.encode(sound))
        output.mux(stream.encode())
    return path


@EITHER
def test_sound_only(tmp_path: Path, reader: Reader) -> None:
    assert error_of(write_sound(tmp_path / "a.mp4"), reader).endswith(": no video stream")


def test_the_cover_of_a_song_is_no_video(tmp_path: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "cover.png")
    path = write_sound(tmp_path / "a.mp4", tmp_path / "cover.png")
    with av.open(str(path)) as file:
        assert len(file.streams.video) == 1
    assert error_of(path).endswith(": no video stream")


@EITHER
@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_no_frames(tmp_path: Path, reader: Reader, name: str) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=24)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        output.start_encoding()
    message = error_of(path, reader)
    expected = ("no video stream", "has no frames", "no frame can be decoded")
    assert any(text in message for text in expected)


# ---- truncated and damaged files


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        pytest.param("a.mp4", "h264", {}, id="mp4"),
        pytest.param("a.mp4", "h264", {"movflags": "faststart"}, id="mp4-faststart"),
        pytest.param("a.mkv", "h264", {}, id="mkv"),
        pytest.param("a.webm", "vp8", {}, id="webm"),
        pytest.param("a.avi", "mpeg4", {}, id="avi"),
    ],
)
def test_truncated_file(tmp_path: Path, name: str, codec: str, container: dict[str, str]) -> None:
    path = encode(tmp_path / name, codec, muxer=container)
    content = path.read_bytes()
    for share in (0.2, 0.6, 0.95):
        path.write_bytes(content[: int(len(content) * share)])
        expected = f"{name}: truncated: {int(len(content) * share)} bytes"
        for reader in ("auto", "decord", "pyav"):
            assert expected in error_of(path, reader)


def test_mp4_without_index(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(
        struct.pack(">I4s8s", 16, b"ftyp", b"isom\0\0\0\0") + struct.pack(">I4s", 8, b"free")
    )
    assert "truncated or never finished: no index" in error_of(path)


@pytest.mark.parametrize("kind", [b"emsg", b"prft", b"meta", b"ssix", b"pdin", b"abcd"])
def test_boxes_before_the_index_are_passed_over(tmp_path: Path, kind: bytes) -> None:
    content = encode(tmp_path / "a.mp4", "h264", muxer={"movflags": "faststart"}).read_bytes()
    start = content.find(b"moov") - 4
    box = struct.pack(">I4s", 40, kind) + bytes(32)
    path = tmp_path / "b.mp4"
    path.write_bytes(content[:start] + box + content[start:])
    assert check_container(path) == "mp4"
    # Elsewhere the index has the frames' places in the file, which have moved; fragments do not.
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    content = encode(tmp_path / "c.mp4", "h264", muxer=fragments).read_bytes()
    start = content.find(b"moov") - 4
    path.write_bytes(content[:start] + box + content[start:])
    assert numbers_in(read_video(path, 4).frames) == [0, 9, 18, 27]


def test_trailing_bytes_after_an_mp4_are_ignored(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "h264")
    path.write_bytes(path.read_bytes() + b"appended by another tool")
    assert numbers_in(read_video(path, 4).frames) == [0, 9, 18, 27]


@EITHER
def test_noise_for_pictures_is_an_error_with_its_cause(tmp_path: Path, reader: Reader) -> None:
    """The container is whole, the coded pictures are noise."""
    path = encode(tmp_path / "a.mp4", "h264", muxer={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, len(content), dtype=np.uint8).tobytes()
    start = content.find(b"mdat") + 4
    content[start:] = noise[start:]
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"a\.mp4: no frame can be decoded") as caught:
        read_video(path, 8, reader=reader)
    assert caught.value.__cause__ is not None


def test_a_picture_that_is_damaged_in_the_middle(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "h264", options={"g": "100"})
    content = bytearray(path.read_bytes())
    start = content.find(b"mdat") + 1400
    content[start : start + 40] = b"\x9d" * 40
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"damaged: frame \d+ of 28"):
        read_video(path, 28, reader="pyav")


def test_an_index_that_lists_more_than_there_is(tmp_path: Path) -> None:
    """The size of one frame leads out of the file; reading ends there."""
    path = encode(tmp_path / "a.mp4", "h264", muxer={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    table = content.find(b"stsz") + 4
    content[table + 40 : table + 44] = struct.pack(">I", 0x7FFFFFF)  # of the eighth frame
    path.write_bytes(content)
    assert "damaged: its index lists 28 frames, it has 8" in error_of(path)


def test_a_duration_of_ages_does_not_end_the_process(tmp_path: Path) -> None:
    """decord makes room for duration times rate before it counts, and aborts without memory."""
    path = encode(
        tmp_path / "a.mp4", "h264", muxer={"movflags": "frag_keyframe+empty_moov"}, count=20
    )
    content = bytearray(path.read_bytes())
    content[content.rfind(b"tfdt") + 8] = 1  # the highest byte of the last fragment's start
    path.write_bytes(content)
    video = read_video(path, 4)
    assert video.reader_reason == "its index and its frames are at odds"
    assert numbers_in(video.frames) == [0, 6, 12, 19]


def test_frames_too_large_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "a.mp4", "h264", count=2)
    monkeypatch.setattr("prunevid_kernels.adapters.video.probe.MAX_PIXELS", 10_000)
    assert error_of(path).endswith("frames of 18432 pixels, above the limit of 10000")


BASES = {
    "a.mp4": ("h264", {}),
    "b.mkv": ("vp8", {}),
    "c.ts": ("mpeg2", {}),
    "d.avi": ("mpeg4", {}),
    "e.webm": ("vp9", {}),
}


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, 400), marks=pytest.mark.full)])
@pytest.mark.parametrize("name", BASES)
def test_damage_anywhere_gives_frames_or_one_error(tmp_path: Path, name: str, seeds: range) -> None:
    codec, muxer = BASES[name]
    content = encode(tmp_path / name, codec, muxer=muxer, count=16).read_bytes()
    for seed in seeds:
        rng = random.Random(f"{name} {seed}")
        damaged = bytearray(content)
        if seed % 3 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        for _ in range(rng.choice([1, 3, 30])):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path = tmp_path / f"damaged-{name}"
        path.write_bytes(damaged)
        try:
            video = read_video(path, 4)
        except VideoError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        else:
            assert video.frames.ndim == 4 and len(video.frames) == len(video.indices) > 0
            assert video.indices[-1] == video.total_frames - 1
