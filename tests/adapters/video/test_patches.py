"""Sizes and patches of frames: the numbers of transformers' own video processors, whose functions
are taken out of their files, because the files import torchvision."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from prunevid_kernels.adapters.video.patches import (
    capped_frame_size,
    capped_video_size,
    flatten_patches,
    frame_size,
    resized_pixels,
    video_size,
)

MODELS = Path(transformers.__file__).parent / "models"
FILES = {
    "frame": MODELS / "qwen2_vl" / "video_processing_qwen2_vl.py",
    "video": MODELS / "qwen3_vl" / "video_processing_qwen3_vl.py",
}


def theirs(kind: str, name: str) -> Any:
    """One function, or method, of transformers."""
    tree = ast.parse(FILES[kind].read_text())
    found = next(
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name
    )
    names: dict[str, Any] = {"math": math, "torch": torch}
    exec(compile(ast.Module([found], []), name, "exec"), names)  # noqa: S102
    return names[name]


SIZES = [(360, 640), (720, 1280), (1080, 1920), (64, 48), (333, 777), (28, 28), (14, 900), (31, 57)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_size_of_a_frame(size):
    bounds = {"min_pixels": 128 * 28 * 28, "max_pixels": 768 * 28 * 28}
    assert frame_size(*size, block_px=28, **bounds) == theirs("frame", "smart_resize")(
        *size, 28, **bounds
    )


@pytest.mark.parametrize("frames", [2, 3, 5, 32, 768])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_size_of_a_videos_frames(size, frames):
    bounds = {"min_pixels": 4096, "max_pixels": 25165824}
    expected = theirs("video", "smart_resize")(frames, *size, 2, 32, **bounds)
    assert video_size(frames, *size, group=2, block_px=32, **bounds) == expected


def test_long_videos_get_smaller_frames_and_short_ones_no_larger():
    bounds = {"group": 2, "block_px": 28, "min_pixels": 128 * 28**2, "max_pixels": 768 * 28**2}
    short, long = (capped_frame_size(count, 1080, 1920, **bounds) for count in (32, 768))
    assert math.prod(short) <= 768 * 28**2 and math.prod(long) <= 2 * 115_200 * 28**2 // 768
    assert math.prod(long) < math.prod(short)
    bounds = {"group": 2, "block_px": 32, "min_pixels": 4096, "max_pixels": 25165824}
    for frames in (1, 2, 32, 768):
        height, width = capped_video_size(frames, 1080, 1920, **bounds)
        assert height * width <= 768 * 32**2
        assert frames * height * width <= 25165824


@pytest.mark.parametrize("frames", [1, 4, 5])
@pytest.mark.parametrize("merge", [1, 2])
def test_patches_are_theirs(frames, merge):
    pixels = torch.randn(frames, 3, 16 * merge, 8 * merge, generator=torch.manual_seed(0))
    patches, grid = flatten_patches(pixels, patch_px=4, merge=merge, group=2)
    flat, *expected = theirs("frame", "patchify")(None, pixels[None], 4, merge, 2)
    if frames % 2 == 0 or len(expected) == 3:
        assert torch.equal(patches, flat[0]) and grid == tuple(expected)
    assert len(patches) == math.prod(grid)


def test_pixels_are_resized_and_normalised():
    frames = np.full((2, 30, 50, 3), 255, np.uint8)
    frames[1] = 0
    pixels = resized_pixels(frames, (8, 16), (0.5, 0.4, 0.3), (0.2, 0.3, 0.5))
    assert pixels.shape == (2, 3, 8, 16) and pixels.dtype == torch.float32
    assert pixels[0, :, 3, 3].tolist() == pytest.approx([2.5, 2.0, 1.4])
    assert pixels[1, :, 3, 3].tolist() == pytest.approx([-2.5, -4 / 3, -0.6])


def test_a_frame_that_is_a_line_is_refused():
    message = "at most 200 times the shorter, got 10 x 2010"
    with pytest.raises(ValueError, match=message):
        frame_size(10, 2010, block_px=28, min_pixels=1, max_pixels=10**6)
