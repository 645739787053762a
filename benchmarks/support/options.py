"""Options that several commands share: what the user typed, turned into values that can be used.

Cheap to import: torch is loaded only where a device is asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

if TYPE_CHECKING:
    from prunevid_kernels.adapters.video.reader import Reader

from prunevid_kernels.adapters.checkpoint.json_text import parse_json, read_bytes
from prunevid_kernels.adapters.families import SIZES

PAPER_LAYER = 10


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line."""


def parse_config(items: Sequence[str]) -> dict[str, Any]:
    """Config values from ``key=value`` pairs and JSON files; a later one replaces an earlier one.

    Args:
        items: ``"key=value"``, where the value is JSON or a bare word, or the path of a
            ``.json`` file that holds an object.

    Raises:
        InputError: an item that is neither, an unreadable file, a file without a JSON object.
    """
    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if item.endswith(".json"):
            values.update(_read_config_file(Path(item)))
        elif equals and key:
            values[key.strip()] = parse_value(text)
        else:
            raise InputError(f"--config must be key=value or a .json file, got {item!r}")
    return values


def parse_value(text: str) -> Any:
    """A value as JSON reads it; what is no JSON is a bare word, such as ``rope``."""
    try:
        return parse_json(text)
    except ValueError:
        return text.strip()


def unknown_model(name: str) -> str:
    """The error about a model that is neither a published size nor a folder, after the option's
    name."""
    from prunevid_kernels.adapters.checkpoint.files import folder_hint

    near = get_close_matches(name, SIZES, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else folder_hint(Path(name))
    return f"must be one of {', '.join(SIZES)}, or a checkpoint folder, got {name!r}{hint}"


def default_layer(num_layers: int) -> int:
    """The layer of the selection: the paper's, or as far into a decoder that is not so deep."""
    return PAPER_LAYER if num_layers > PAPER_LAYER else num_layers // 3


def no_such_layer(layer: int, num_layers: int) -> str:
    """What to tell a user whose model has fewer layers than the selection's default asks for."""
    return (
        f"layer {layer} does not exist, the decoder has layers 0 to {num_layers - 1}; choose one"
        f" with --config layer=N, such as layer={default_layer(num_layers)} (the paper's is a third"
        " of the way through the decoder)"
    )


def resolve_device(name: str) -> str:
    """A torch device by name; ``"auto"`` is CUDA where there is one, otherwise the CPU.

    Raises:
        InputError: a device that this torch does not know or this machine does not have.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"--device: {name!r} cannot be used: {str(error).splitlines()[0]}"
        ) from error
    return name


def require_reader(name: str) -> Reader:
    """What is to read video files, by its name.

    Raises:
        InputError: an unknown one, or one that is not installed.
    """
    from prunevid_kernels.adapters.video.reader import Reader

    if name not in get_args(Reader):
        raise InputError(f"--reader must be one of {', '.join(get_args(Reader))}, got {name!r}")
    if name == "decord" and importlib.util.find_spec(name) is None:
        raise InputError("--reader: decord is not installed; it has wheels for x86-64 only")
    return cast("Reader", name)


def _read_config_file(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(read_bytes(path))
    except OSError as error:
        raise InputError(f"--config: {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"--config: {path}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"--config: {path}: must hold a JSON object, got {type(values).__name__}")
    return values
