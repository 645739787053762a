"""What a checkpoint folder says of its preprocessing: pixel normalisation, sizes, chat template.

A value that is not written down is an error and never a guess: the defaults of processor classes
are another model's.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeGuard

from .files import read_json, require_int

_FILES = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")


def num_frames(folder: Path) -> int | None:
    """Frames of a video, where a preprocessor file says it.

    Raises:
        ValueError: it says no number of frames.
    """
    found = _preprocessing(folder)
    if found is None or found[1].get("num_frames") is None:
        return None
    name, values = found
    require_int(f"{name}: num_frames", values["num_frames"], 1, 2**14)
    return int(values["num_frames"])


def normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the pixels, from the first preprocessor file that the folder has.

    Raises:
        ValueError: there is none, or one that does not say it.
    """
    found = _preprocessing(folder)
    if found is None:
        raise ValueError(f"none of {', '.join(_FILES)}")
    name, values = found
    mean, std = values.get("image_mean"), values.get("image_std")
    if not _are_channels(mean) or not _are_channels(std) or min(std) <= 0:
        raise ValueError(
            f"{name}: no valid image_mean and image_std: must be three numbers each, the latter"
            f" above 0, got {mean!r:.80} and {std!r:.80}"
        )
    return tuple(map(float, mean)), tuple(map(float, std))


def max_video_frames(folder: Path) -> int | None:
    """Frames that a checkpoint takes of a video at most, where its files have a sampling rule; None
    where they have none.

    Raises:
        ValueError: a number of frames that is none.
    """
    found = _preprocessing(folder)
    sampling = None if found is None else found[1].get("video_sampling")
    if found is None or not isinstance(sampling, dict):
        return None
    require_int(f"{found[0]}: video_sampling.max_frames", sampling.get("max_frames"), 1, 2**14)
    return int(sampling["max_frames"])


def video_pixels(folder: Path) -> tuple[int, int] | None:
    """Bounds on a video's pixels, least and most, where the folder has a file about videos; None
    where it has none.

    Raises:
        ValueError: one that does not say them.
    """
    name = _FILES[0]
    if not (folder / name).is_file():
        return None
    size = read_json(folder / name).get("size")
    if not isinstance(size, dict):
        raise ValueError(f"{name}: no size with shortest_edge and longest_edge, got {size!r:.80}")
    least: Any = size.get("shortest_edge")
    most: Any = size.get("longest_edge")
    require_int(f"{name}: longest_edge", most, 1, 2**40)
    require_int(f"{name}: shortest_edge", least, 1, most)
    return least, most


def chat_template(folder: Path, tokenizer: Any) -> str:
    """The processor's template, which knows about videos, before the tokenizer's, which may not.

    Raises:
        ValueError: there is none.
    """
    jinja, legacy = folder / "chat_template.jinja", folder / "chat_template.json"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    if legacy.is_file():
        template = read_json(legacy).get("chat_template")
        if not isinstance(template, str):
            raise ValueError(f"chat_template.json: no valid chat_template, got {template!r:.80}")
        return template
    if isinstance(tokenizer.chat_template, str):
        return str(tokenizer.chat_template)
    raise ValueError("no chat template")


def _preprocessing(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """The first preprocessor file that a folder has, and what it says of videos."""
    for name in _FILES:
        if (folder / name).is_file():
            values = read_json(folder / name)
            values = values.get("video_processor", values)
            if not isinstance(values, dict):
                raise ValueError(f"{name}: video_processor must be an object, got {values!r:.80}")
            return name, values
    return None


def _are_channels(values: Any) -> TypeGuard[list[float]]:
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(isinstance(x, (int, float)) and math.isfinite(x) for x in values)
    )
