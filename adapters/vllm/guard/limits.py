"""What a request may ask for, checked where it comes in.

Behind the front end an error is the engine's: its worker dies and takes everybody's requests with
it. So whatever the worker would trip over is looked at here, in the processed data in host memory,
and answered with a ValueError, which the server turns into a 400. Each message begins with the
field's name. What nobody can know before the features exist (a tower that overflows) is dealt with
in :mod:`..merging`.

Nothing here needs vLLM, so that every rule is tested without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Frames of a video, and tokens of a frame, that the kernels can cluster at once.
MAX_POINTS = 4096
# Positions that two bytes tell apart, see positions.py.
POSITIONS = 1 << 16
# A rotary table for three-dimensional positions has so many rows for each of the config's.
ROWS_PER_POSITION = 4
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
EMBEDDINGS = {"image": "image_embeds", "video": "video_embeds"}
GRIDS = {"image": "image_grid_thw", "video": "video_grid_thw"}
SECONDS = "second_per_grid_ts"


def check_media(data: Mapping[str, Any], config: Any) -> None:
    """Processed pixels, embeddings, grids and seconds are what the model's tower takes.

    Args:
        data: a processor's output. Grids are [videos, 3] integers (time, rows, columns); pixels of
            models with grids [patches, values of a patch], of others [pictures, 3, height, width]
            for each video or image; embeddings [tokens, C].
        config: the model's, with ``vision_config`` and ``text_config``.

    Raises:
        ValueError: names the field, what it must be and what came.
    """
    for kind, grid_field in GRIDS.items():
        for field in (PIXELS[kind], EMBEDDINGS[kind]):
            _check_finite(field, data.get(field))
        if grid_field in data:
            _check_grids(data, kind, config)
        else:
            _check_pictures(PIXELS[kind], data.get(PIXELS[kind]), config.vision_config)
    if EMBEDDINGS["video"] in data and GRIDS["video"] not in data:
        raise ValueError(
            f"{EMBEDDINGS['video']} must come with {GRIDS['video']}, which only models with grids "
            "take: send this model the video itself"
        )
    if (seconds := data.get(SECONDS)) is not None:
        _check_seconds(seconds, len(data[GRIDS["video"]]))


def check_size(frames: int, tokens_per_frame: int) -> None:
    """A video that is to be merged fits the kernels.

    Raises:
        ValueError: too many frames or tokens a frame.
    """
    for name, count in (("frames", frames), ("tokens a frame", tokens_per_frame)):
        if count > MAX_POINTS:
            raise ValueError(
                f"video must have at most {MAX_POINTS} {name} to be merged, got {count}: send "
                "fewer or smaller frames, or keep all"
            )


def check_positions(
    frames: Sequence[int], seconds: Sequence[float], per_second: float, limit: int
) -> None:
    """Each video's last frame has a position below ``limit``.

    Args:
        frames: of each video, counted as the tower puts them out.
        seconds: from one of them to the next, for each video.
        per_second: positions a second takes.
        limit: positions a video may take, of :func:`positions_of_a_video`.

    Raises:
        ValueError: a video that lasts too long.
    """
    for count, step in zip(frames, seconds, strict=True):
        if (taken := (count - 1) * step * per_second + 1) > limit:
            hours = limit / per_second / 3600
            raise ValueError(
                f"{SECONDS}: a video must last at most {hours:.1f} h ({limit} positions at "
                f"{per_second:g} a second), got {count} frames {step:g} s apart ({taken:.0f})"
            )


def check_timestamps(timestamps: Any, frames: Sequence[int]) -> None:
    """Each video has a timestamp, in seconds, for each of its frames.

    Raises:
        ValueError: another number, or none; NaN, infinite or negative.
    """
    counts = [len(one) for one in (() if timestamps is None else timestamps)]
    if counts != list(frames):
        raise ValueError(
            f"timestamps must be as many as the videos' frames, {list(frames)}, got {counts}"
        )
    for one in timestamps:
        seconds = torch.as_tensor(one, dtype=torch.float64).flatten()
        if not (seconds.isfinite() & (seconds >= 0)).all():
            raise ValueError(
                f"timestamps must be finite and not negative, in seconds, got {seconds.tolist()}"
            )


def positions_of_a_video(videos: int, rows: int, prompt: int) -> int:
    """Positions that each of a prompt's videos may take, so that all fit the model's table.

    Args:
        videos: in the prompt.
        rows: of the table of rotary embeddings.
        prompt: the longest prompt with its answer; images and text take at most one each.
    """
    return min(POSITIONS, max(0, rows - prompt) // max(1, videos))


def _check_finite(field: str, values: Any) -> None:
    # Lists hold one tensor a video. Integers are always finite.
    for tensor in values if isinstance(values, (list, tuple)) else [values]:
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
            low, high = tensor.aminmax()  # NaN if there is one; half the time of isfinite
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ValueError(f"{field} must be finite, got values from {low:g} to {high:g}")


def _check_grids(data: Mapping[str, Any], kind: str, config: Any) -> None:
    field, grids = GRIDS[kind], data[GRIDS[kind]]
    vision = config.vision_config
    merge = vision.spatial_merge_size
    if not isinstance(grids, Tensor) or grids.ndim != 2 or grids.shape[1] != 3:
        raise ValueError(f"{field} must be [items, 3], got {_shape(grids)}")
    if grids.is_floating_point() or grids.is_complex() or grids.dtype == torch.bool:
        raise ValueError(f"{field} must hold integers, got {grids.dtype}")
    patches = 0
    for time, rows, columns in grids.tolist():
        if min(time, rows, columns) < 1 or rows % merge or columns % merge:
            raise ValueError(
                f"{field} must hold frames >= 1 and rows and columns in multiples of {merge}, "
                f"got {[time, rows, columns]}"
            )
        patches += time * rows * columns  # Python's integers: no overflow
    if PIXELS[kind] in data:
        channels = getattr(vision, "in_channels", None) or vision.in_chans
        width = channels * vision.temporal_patch_size * vision.patch_size**2
        _check_rows(PIXELS[kind], data[PIXELS[kind]], patches, width)
    if EMBEDDINGS[kind] in data:
        planes = 1 + len(getattr(vision, "deepstack_visual_indexes", None) or ())
        width = planes * config.get_text_config().hidden_size
        values = data[EMBEDDINGS[kind]]
        _check_rows(EMBEDDINGS[kind], values, patches // merge**2, width)
        if not values.is_floating_point():
            raise ValueError(f"{EMBEDDINGS[kind]} must hold floats, got {values.dtype}")


def _check_rows(field: str, values: Any, rows: int, width: int) -> None:
    if not isinstance(values, Tensor) or values.shape != (rows, width):
        raise ValueError(
            f"{field} must be [{rows}, {width}], as the grids say, got {_shape(values)}"
        )


def _check_pictures(field: str, items: Any, vision: Any) -> None:
    for pictures in () if items is None else items:
        side = vision.image_size
        if pictures.ndim != 4 or not len(pictures) or pictures.shape[1:] != (3, side, side):
            raise ValueError(
                f"{field} must be [pictures, 3, {side}, {side}], as the vision tower takes them, "
                f"got {_shape(pictures)}"
            )


def _check_seconds(seconds: Any, videos: int) -> None:
    values = torch.as_tensor(seconds, dtype=torch.float64).flatten()
    if len(values) != videos:
        raise ValueError(f"{SECONDS} must have one entry a video ({videos}), got {seconds}")
    if not (values.isfinite() & (values > 0)).all():
        raise ValueError(f"{SECONDS} must be positive and finite, got {values.tolist()}")


def _shape(values: Any) -> str:
    return str(list(values.shape)) if isinstance(values, Tensor) else type(values).__name__
