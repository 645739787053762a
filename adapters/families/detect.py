"""Which family a checkpoint folder is of, and its shape; no weight is read.

``model_type`` alone does not tell: published configs borrow other models' names. So each family's
record says how it is recognised, and whoever gets a folder from a user asks here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.files import (
    CheckpointError,
    no_such_folder,
    open_checkpoint,
    read_json,
    refusing,
    require_int,
)
from . import FAMILIES, Family
from .shape import ModelShape


def detect_family(folder: Path) -> Family:
    """The family of a checkpoint folder, by its config.json, or else by its keys.

    Raises:
        CheckpointError: no folder, no config.json, one with impossible values, or a model of no
            family.
    """
    config = _read_config(folder)
    keys = cache(lambda: open_checkpoint(folder).tensors.keys())
    for family in FAMILIES.values():
        if family.recognises(config, keys):
            return family
    raise CheckpointError(
        f"{folder}: must hold {', '.join(family.title for family in FAMILIES.values())}, "
        f"got model_type {config.get('model_type')!r} with "
        f"architectures {config.get('architectures') or []}"
    )


def read_shape(folder: Path) -> ModelShape:
    """The shape of a checkpoint folder.

    Raises:
        CheckpointError: no such folder, a model of no family, or an unreadable config.
    """
    family = detect_family(folder)
    with refusing(folder):
        return family.shape(family.read_config(folder))


def _read_config(folder: Path) -> dict[str, Any]:
    """config.json, its kind and its sizes checked: classes that are built from it would divide by
    a size of zero, or build layers until memory ends."""
    try:
        is_folder, file = folder.is_dir(), folder / "config.json"
        if is_folder and not file.exists():
            raise CheckpointError(f"{folder}: not a checkpoint folder, it has no config.json")
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise CheckpointError(f"{str(folder):.200}: {error.strerror or error}") from error
    if not is_folder:
        raise no_such_folder(folder)
    config = read_json(file)
    kind, architectures = config.get("model_type"), config.get("architectures")
    if not isinstance(kind, str | None):
        raise CheckpointError(f"{file}: model_type must be a string, got {kind!r:.80}")
    if architectures is not None and not _are_strings(architectures):
        raise CheckpointError(
            f"{file}: architectures must be a list of strings, got {architectures!r:.80}"
        )
    for name in ("dtype", "torch_dtype"):
        dtype = config.get(name)
        if dtype is not None and not _is_dtype(dtype):
            raise CheckpointError(f"{file}: {name} must name a dtype of torch, got {dtype!r:.80}")
    for name, values in (("", config), *config.items()):
        if isinstance(values, dict):
            _require_sizes(f"{file}: {name + '.' if name else ''}", values)
    return config


def _are_strings(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _is_dtype(name: object) -> bool:
    if not isinstance(name, str):
        return False
    found = getattr(torch, name.removeprefix("torch."), None)
    return name == "auto" or isinstance(found, torch.dtype)


def _require_sizes(place: str, values: dict[str, Any]) -> None:
    for name, most in _MOST.items():
        value = values.get(name)
        # Sides may be (height, width), which transformers judges; None stands for a default.
        if value is not None and not isinstance(value, (list, dict)):
            require_int(f"{place}{name}", value, 1, most)


# Sizes of a model and of its parts; no published one is near these.
_MOST = {
    "num_hidden_layers": 2**10,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "hidden_size": 2**20,
    "intermediate_size": 2**22,
    "vocab_size": 2**24,
    "image_size": 2**14,
    "patch_size": 2**14,
}
