"""What a checkpoint folder says of its preprocessing: pixel normalisation, sizes, chat template.

A value that is not written down is an error and never a guess: the defaults of processor classes
are another model's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FILES = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")


def normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the pixels, from the first preprocessor file that the folder has.

    Raises:
        ValueError: there is none, or one that does not say it.
    """
    for name in _FILES:
        if not (folder / name).is_file():
            continue
        try:
            values = json.loads((folder / name).read_text(encoding="utf-8"))
            values = values.get("video_processor", values)
            mean, std = values["image_mean"], values["image_std"]
            return tuple(float(x) for x in mean), tuple(float(x) for x in std)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{name}: no valid image_mean and image_std") from error
    raise ValueError(f"none of {', '.join(_FILES)}")


def video_pixels(folder: Path) -> tuple[int, int] | None:
    """Bounds on a video's pixels, least and most, where the folder has a file about videos; None
    where it has none.

    Raises:
        ValueError: one that does not say them.
    """
    name = _FILES[0]
    if not (folder / name).is_file():
        return None
    try:
        size = json.loads((folder / name).read_text(encoding="utf-8"))["size"]
        least, most = int(size["shortest_edge"]), int(size["longest_edge"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{name}: no valid size with shortest_edge and longest_edge") from error
    if not 0 < least <= most:
        raise ValueError(
            f"{name}: shortest_edge must be positive and at most longest_edge, got {least}, {most}"
        )
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
        try:
            return str(json.loads(legacy.read_text(encoding="utf-8"))["chat_template"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError("chat_template.json: no valid chat_template") from error
    if isinstance(tokenizer.chat_template, str):
        return str(tokenizer.chat_template)
    raise ValueError("no chat template")
