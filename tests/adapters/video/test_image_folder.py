"""Folders of images: their order, their pixels as they are shown, and what is no frame."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from numbered_video import numbers_in, picture
from PIL import Image, PngImagePlugin

from prunevid_kernels.adapters.video.reader import VideoError, read_video

pytestmark = pytest.mark.one_version


def write_frames(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(picture(number)).save(folder / name)
    return folder


def error_of(folder: Path) -> str:
    with pytest.raises(VideoError) as caught:
        read_video(folder, 4)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    names = ["1.png", "2.png", "3.png", "9.png", "10.png", "11.png", "100.png"]
    folder = write_frames(tmp_path / "frames", names)
    (folder / "notes.txt").write_text("not a frame")
    video = read_video(folder, 100)
    assert numbers_in(video.frames) == list(range(7))
    assert video.total_frames == 7
    assert video.fps is None and video.timestamps_s is None
    assert video.reader == "images" and video.reader_reason is None


def test_folder_is_sampled_like_a_file(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", [f"{index:05d}.jpg" for index in range(1, 12)])
    video = read_video(folder, 4)
    assert video.indices.tolist() == [0, 3, 6, 10]
    assert numbers_in(video.frames) == [0, 3, 6, 10]


def test_files_that_begin_with_a_dot_are_no_frames(tmp_path: Path) -> None:
    """macOS leaves ._1.jpg beside 1.jpg on foreign disks."""
    folder = write_frames(tmp_path / "frames", ["1.jpg", "2.jpg"])
    (folder / "._1.jpg").write_bytes(b"\0\5\x16\7Mac OS X")
    video = read_video(folder, 4)
    assert video.total_frames == 2 and numbers_in(video.frames) == [0, 1]


def test_gray_and_transparent_images_give_rgb(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    gray = Image.fromarray(picture(0)).convert("L")
    gray.save(folder / "1.png")
    Image.fromarray(picture(1)).convert("RGBA").save(folder / "2.png")
    first, second = read_video(folder, 2).frames
    np.testing.assert_array_equal(first, np.repeat(np.asarray(gray)[..., None], 3, axis=2))
    np.testing.assert_array_equal(second, picture(1))


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    """Not clipped at 255: depth maps and medical images come so."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, level in enumerate([0, 8000, 16000, 24000, 32000, 65535]):
        Image.fromarray(np.full((40, 60), level, np.uint16)).save(folder / f"{index}.png")
    levels = read_video(folder, 6).frames
    assert levels.shape == (6, 40, 60, 3)
    assert levels.mean((1, 2, 3)).tolist() == [0, 31, 62, 93, 125, 255]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_shown_as_their_exif_says(tmp_path: Path, orientation: int, suffix: str) -> None:
    """By the table of the EXIF standard: where row 0 and column 0 of what is stored are shown."""
    shown = picture(3)
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.transpose(1, 0, 2),
        6: np.rot90(shown, 1),
        7: shown[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(shown, -1),
    }[orientation]
    folder = tmp_path / "frames"
    folder.mkdir()
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(folder / f"1.{suffix}", exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    (frame,) = read_video(folder, 1).frames
    assert frame.shape == shown.shape
    assert np.abs(frame.astype(int) - shown.astype(int)).mean() < 3


def test_folder_without_images(tmp_path: Path) -> None:
    assert "the folder has no images" in error_of(tmp_path)


def test_a_broken_image(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", ["1.png", "2.png"])
    (folder / "2.png").write_bytes(b"no picture")
    assert error_of(folder).endswith("2.png: not a readable image: no PNG, JPEG or WebP")


def test_a_cut_image(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", ["1.png", "2.png"])
    content = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(content[: len(content) // 2])
    assert "2.png: not a readable image" in error_of(folder)


def test_images_of_different_sizes(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", ["1.png", "2.png"])
    Image.fromarray(picture(1)[:40]).save(folder / "2.png")
    assert "192x40 pixels, but the first frame of the folder has 192x96" in error_of(folder)


def test_postscript_never_reaches_ghostscript(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "1.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
    )
    started: list[object] = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: started.append(a))
    assert error_of(folder).endswith("no PNG, JPEG or WebP")
    assert not started


def test_a_bomb_is_an_error(tmp_path: Path) -> None:
    """A header that declares 40000 x 40000 pixels, in a file of some bytes."""
    folder = write_frames(tmp_path / "frames", ["1.png"])
    content = bytearray((folder / "1.png").read_bytes())
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (folder / "1.png").write_bytes(content)
    assert "1.png: not a readable image: Image size (1600000000 pixels)" in error_of(folder)


def test_text_that_unpacks_to_gigabytes_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "0" * 3_000_000, zip=True)
    Image.fromarray(picture(0)).save(folder / "1.png", pnginfo=text)
    assert "1.png: not a readable image" in error_of(folder)


def test_pipes_and_folders_are_no_images_and_nobody_waits_for_them(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", ["1.png"])
    os.mkfifo(folder / "2.png")
    assert error_of(folder) == f"{folder}/2.png: not a file"
    os.unlink(folder / "2.png")
    (folder / "2.png").mkdir()
    assert error_of(folder) == f"{folder}/2.png: not a file"


def test_a_link_to_itself(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", ["1.png"])
    (folder / "2.png").symlink_to(folder / "2.png")
    assert "2.png: not a readable image: Too many levels of symbolic links" in error_of(folder)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", ["1.png", "2.png"])
    odd = folder / os.fsdecode(b"2\xff.png")
    (folder / "2.png").rename(odd)
    assert numbers_in(read_video(folder, 2).frames) == [0, 1]
    odd.write_bytes(b"no picture")
    message = error_of(folder)
    assert message.endswith("2\\udcff.png: not a readable image: no PNG, JPEG or WebP")
    message.encode()
