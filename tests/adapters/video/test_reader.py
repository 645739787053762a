"""Video files and frame folders: the right frames, the same from both libraries, clear errors."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

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

FPS = 24
HEIGHT, WIDTH = 62, 98  # even, as yuv420p demands, and otherwise ugly
COUNT = 37


def scene(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Frame ``index``: a smooth background, a block that moves, and the index as bars of light."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([90 + x, 200 - 2 * y, 60 + y + x], axis=-1).clip(0, 255).astype(np.uint8)
    image[10:30, 2 * index : 2 * index + 20] = (220, 40, 30)
    for bit in range(6):
        image[-16:, bit * 16 : bit * 16 + 16] = 255 * ((index >> bit) & 1)
    return image


def index_in(frame: np.ndarray) -> int:
    """Read the bars of ``scene`` back."""
    return sum(int(frame[-8, bit * 16 + 8].mean() > 127) << bit for bit in range(6))


def encode(
    path: Path,
    codec: str,
    *,
    count: int = COUNT,
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (HEIGHT, WIDTH),
    container: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=FPS, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = pixel_format
        for index in range(count):
            image = av.VideoFrame.from_ndarray(scene(index, *size), format="rgb24")
            output.mux(stream.encode(image))
        output.mux(stream.encode())
    return path


FILES = [
    pytest.param("a.mp4", "libx264", {}, id="mp4-h264"),
    pytest.param("a.mp4", "libx264", {"container": {"movflags": "faststart"}}, id="mp4-faststart"),
    pytest.param("a.mp4", "libx264", {"options": {"bf": "3", "g": "12"}}, id="mp4-b-frames"),
    pytest.param("a.mp4", "mpeg4", {}, id="mp4-mpeg4"),
    pytest.param("a.mp4", "libx264", {"count": 1}, id="mp4-one-frame"),
    pytest.param("a.mov", "libx264", {}, id="mov"),
    pytest.param("a.mkv", "libx264", {}, id="mkv-h264"),
    pytest.param("a.mkv", "mjpeg", {"pixel_format": "yuvj420p"}, id="mkv-mjpeg-full-range"),
    pytest.param(
        "a.mkv", "libx264", {"pixel_format": "yuv444p", "size": (63, 97)}, id="mkv-odd-size"
    ),
    pytest.param("a.webm", "libvpx", {}, id="webm-vp8"),
    pytest.param("a.webm", "libvpx-vp9", {}, id="webm-vp9"),
    pytest.param("a.avi", "mpeg4", {}, id="avi"),
    pytest.param("a.avi", "mpeg4", {"options": {"bf": "2"}}, id="avi-b-frames"),
]


@pytest.mark.parametrize(("name", "codec", "how"), FILES)
def test_both_libraries_give_the_same_right_frames(
    tmp_path: Path, name: str, codec: str, how: dict
) -> None:
    path = encode(tmp_path / name, codec, **how)
    total = how.get("count", COUNT)
    videos = {reader: read_video(path, 9, reader=reader) for reader in ("decord", "av")}
    for video in videos.values():
        assert video.total_frames == total
        assert video.indices.tolist() == sample_indices(total, 9).tolist()
        assert video.frames.dtype == np.uint8 and video.frames.flags.c_contiguous
        assert video.frames.shape[1:] == (*how.get("size", (HEIGHT, WIDTH)), 3)
        assert [index_in(frame) for frame in video.frames] == video.indices.tolist()
        assert video.fps == pytest.approx(FPS)
        # Matroska and WebM store whole milliseconds.
        assert video.timestamps_s == pytest.approx(video.indices / FPS, abs=1.1e-3)
    np.testing.assert_array_equal(videos["decord"].frames, videos["av"].frames)


@pytest.mark.parametrize("reader", ["decord", "av"])
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4")])
def test_a_rule_chooses_frames_and_may_repeat_them(
    tmp_path: Path, name: str, codec: str, reader: Reader
) -> None:
    """It is told the number of frames and the clock."""
    path = encode(tmp_path / name, codec)
    chosen = [2, 2, 9, 30, 30, 30]
    asked = []

    def rule(total: int, *, fps: float | None) -> np.ndarray:
        asked.append((total, fps))
        return np.array(chosen)

    video = read_video(path, indices=rule, reader=reader)
    assert asked == [(COUNT, pytest.approx(FPS))]
    assert [index_in(frame) for frame in video.frames] == chosen == video.indices.tolist()
    assert video.timestamps_s == pytest.approx(np.array(chosen) / FPS, abs=1.1e-3)


def test_ten_bit_chroma_differs_slightly_between_the_libraries(tmp_path: Path) -> None:
    """decord carries an older scaler; the difference stays at chroma edges."""
    path = encode(tmp_path / "a.mkv", "libx264", pixel_format="yuv420p10le")
    one, other = (read_video(path, 5, reader=reader).frames for reader in ("decord", "av"))
    difference = np.abs(one.astype(int) - other.astype(int))
    assert difference.mean() < 3
    assert [index_in(f) for f in one] == [index_in(f) for f in other]


@pytest.mark.parametrize("turns", [1, 2, 3], ids=["90", "180", "270"])
@pytest.mark.parametrize("reader", ["decord", "av"])
def test_turned_recordings_come_upright(tmp_path: Path, turns: int, reader: str) -> None:
    path = encode(tmp_path / "a.mp4", "libx264")
    plain = read_video(path, 3, reader=reader).frames
    one, width, height = 65536, WIDTH * 65536, HEIGHT * 65536
    matrices = {
        1: (0, one, 0, -one, 0, 0, height, 0, 1 << 30),
        2: (-one, 0, 0, 0, -one, 0, width, height, 1 << 30),
        3: (0, -one, 0, one, 0, 0, 0, width, 1 << 30),
    }
    content = bytearray(path.read_bytes())
    matrix_at = content.find(b"tkhd") + 44
    content[matrix_at : matrix_at + 36] = struct.pack(">9i", *matrices[turns])
    path.write_bytes(content)
    turned = read_video(path, 3, reader=reader).frames
    np.testing.assert_array_equal(turned, np.rot90(plain, -turns, axes=(1, 2)))


def test_auto_reads_with_decord_or_without(monkeypatch: pytest.MonkeyPatch) -> None:
    with_decord = read_video(SAMPLE_CLIP, 4).frames
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "decord", None)  # an import now fails
    without = read_video(SAMPLE_CLIP, 4).frames
    np.testing.assert_array_equal(with_decord, without)


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


# ---- folders of frames


def write_frames(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for index, name in enumerate(names):
        Image.fromarray(scene(index)).save(folder / name)
    return folder


def test_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    names = ["1.png", "2.png", "3.png", "9.png", "10.png", "11.png", "100.png"]
    folder = write_frames(tmp_path / "frames", names)
    (folder / "notes.txt").write_text("not a frame")
    video = read_video(folder, 100)
    assert [index_in(frame) for frame in video.frames] == list(range(7))
    assert video.total_frames == 7
    assert video.fps is None and video.timestamps_s is None


def test_folder_is_sampled_like_a_file(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", [f"{index:05d}.jpg" for index in range(1, 12)])
    video = read_video(folder, 4)
    assert video.indices.tolist() == [0, 3, 6, 10]
    assert [index_in(frame) for frame in video.frames] == [0, 3, 6, 10]


def test_folder_with_gray_and_transparent_images_gives_rgb(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    gray = Image.fromarray(scene(0)).convert("L")
    gray.save(folder / "1.png")
    Image.fromarray(scene(1)).convert("RGBA").save(folder / "2.png")
    first, second = read_video(folder, 2).frames
    np.testing.assert_array_equal(first, np.repeat(np.asarray(gray)[..., None], 3, axis=2))
    np.testing.assert_array_equal(second, scene(1))


# ---- errors: one line, naming the file


def error_of(path: Path, reader: str = "auto") -> str:
    with pytest.raises(VideoError) as caught:
        read_video(path, 4, reader=reader)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_no_such_file(tmp_path: Path) -> None:
    assert error_of(tmp_path / "gone.mp4").endswith("gone.mp4: no such file")


def test_folder_without_images(tmp_path: Path) -> None:
    assert "the folder has no images" in error_of(tmp_path)


def test_folder_with_a_broken_image(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", ["1.png", "2.png"])
    (folder / "2.png").write_bytes(b"no picture")
    message = error_of(folder)
    assert "2.png: not a readable image" in message


def test_folder_with_a_cut_image(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", ["1.png", "2.png"])
    content = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(content[: len(content) // 2])
    assert "2.png: not a readable image" in error_of(folder)


def test_folder_with_images_of_different_sizes(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", ["1.png", "2.png"])
    Image.fromarray(scene(1)[:40]).save(folder / "2.png")
    assert "98x40 pixels, but the first frame of the folder has 98x62" in error_of(folder)


@pytest.mark.parametrize("reader", ["decord", "av"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param(b"hello, this is text\n" * 50, "not a video file", id="text"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(300), "not a video file", id="picture"),
    ],
)
def test_not_a_video(tmp_path: Path, reader: str, content: bytes, expected: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert expected in error_of(path, reader)


@pytest.mark.parametrize("reader", ["decord", "av"])
def test_file_with_sound_only(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=16000)
        silence = np.zeros((1, 1024), dtype=np.float32)
        sound = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        sound.rate = 16000
        output.mux(stream.encode(sound))
        output.mux(stream.encode())
    assert error_of(path, reader).endswith(": no video stream")


@pytest.mark.parametrize("reader", ["decord", "av"])
@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_file_without_frames(tmp_path: Path, reader: str, name: str) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        output.start_encoding()
    message = error_of(path, reader)
    expected = ("no video stream", "has no frames", "no frame can be decoded")
    assert any(text in message for text in expected)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("reader", ["decord", "av"])
@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        pytest.param("a.mp4", "libx264", {}, id="mp4"),
        pytest.param("a.mp4", "libx264", {"movflags": "faststart"}, id="mp4-faststart"),
        pytest.param("a.mkv", "libx264", {}, id="mkv"),
        pytest.param("a.webm", "libvpx", {}, id="webm"),
        pytest.param("a.avi", "mpeg4", {}, id="avi"),
    ],
)
def test_truncated_file(
    tmp_path: Path, name: str, codec: str, container: dict, reader: str, share: float
) -> None:
    path = encode(tmp_path / name, codec, container=container)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    message = error_of(path, reader)
    assert f"{name}: truncated: {int(len(content) * share)} bytes" in message


def test_mp4_without_index(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(
        struct.pack(">I4s8s", 16, b"ftyp", b"isom\0\0\0\0") + struct.pack(">I4s", 8, b"free")
    )
    assert "truncated or never finished: no index" in error_of(path)


@pytest.mark.parametrize("reader", ["decord", "av"])
def test_damaged_frames_are_an_error_with_its_cause(tmp_path: Path, reader: str) -> None:
    """The container is whole, the coded pictures are noise from the middle on."""
    path = encode(tmp_path / "a.mp4", "libx264", container={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, len(content), dtype=np.uint8).tobytes()
    start = content.find(b"mdat") + 4
    content[start:] = noise[start:]
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"a\.mp4: (truncated or damaged|no frame)") as caught:
        read_video(path, 8, reader=reader)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("name", "container"),
    [pytest.param("a.mkv", {"live": "1"}, id="live-mkv"), pytest.param("a.ts", {}, id="mpeg-ts")],
)
def test_what_decord_cannot_read_is_an_error_and_pyav_reads_it(
    tmp_path: Path, name: str, container: dict
) -> None:
    """Matroska of unknown length; a transport stream without an index."""
    path = encode(tmp_path / name, "libx264", container=container)
    assert "decord: " in error_of(path, "decord")
    video = read_video(path, 4, reader="av")
    assert video.total_frames == COUNT
    assert [index_in(frame) for frame in video.frames] == video.indices.tolist()


def test_trailing_bytes_after_an_mp4_are_ignored(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "libx264")
    path.write_bytes(path.read_bytes() + b"appended by another tool")
    assert read_video(path, 4).total_frames == COUNT


@pytest.mark.parametrize("frames_wanted", [0, -3])
def test_number_of_frames_must_be_positive(frames_wanted: int) -> None:
    with pytest.raises(ValueError, match="num_frames must be an integer >= 1"):
        read_video(SAMPLE_CLIP, frames_wanted)


def test_fewer_frames_than_asked_are_all_frames(tmp_path: Path) -> None:
    video: Video = read_video(encode(tmp_path / "a.mp4", "libx264", count=5), 32)
    assert video.total_frames == len(video.frames) == 5
