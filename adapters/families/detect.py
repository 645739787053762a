"""Which family a checkpoint folder is of, and its shape; no weight is read.

``model_type`` alone does not tell: published configs borrow other models' names. So each family's
record says how it is recognised, and whoever gets a folder from a user asks here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..checkpoint.files import CheckpointError, open_checkpoint, read_json
from . import FAMILIES, Family
from .shape import ModelShape


def detect_family(folder: Path) -> Family:
    """The family of a checkpoint folder, by its config.json, or else by its keys.

    Raises:
        CheckpointError: no config.json, or a model of no family.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such model folder")
    config = read_json(folder / "config.json")
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
    return family.shape(family.read_config(folder))
