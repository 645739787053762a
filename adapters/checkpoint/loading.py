"""Weights of a published checkpoint into a model whose tensors are named and shaped otherwise.

A loader that skips what does not fit leaves layers at random, and nobody is told. This one plans
first: every tensor of the checkpoint has to have a place, every tensor of the model a source of
the right shape, and the plan, made from headers alone, is a report that can be read before anything
is loaded (``prunevid models check``). Only then does it read, one file after the other, one tensor
at a time, straight to its dtype and device: beside the model itself, host memory holds one file's
tensors at most.

What goes where is data, a list of :class:`Recipe`. The model is built without memory for its
parameters (:func:`empty_weights`). Tied weights are not known here: models that load this way have
none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from .files import Checkpoint, CheckpointError, StoredTensor

__all__ = [
    "CheckpointError",
    "LoadReport",
    "Mismatch",
    "Recipe",
    "check_weights",
    "choose_attention",
    "empty_weights",
    "load_weights",
    "rename",
    "require_finite",
]

_SHOWN = 8


@dataclass(frozen=True)
class Recipe:
    """How a tensor of the model is made from tensors of the checkpoint.

    Attributes:
        sources: a regular expression for the whole key of each tensor that is needed, all with the
            same groups.
        target: the model's key; ``\\1`` and so on stand for the groups.
        combine: makes the tensor from those of ``sources``, in that order and in their stored
            dtype; on the meta device as well, where its shape is checked. It raises RuntimeError
            for shapes that do not go together. Not needed for one source.
    """

    sources: tuple[str, ...]
    target: str
    combine: Callable[..., Tensor] | None = None

    def make(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0] if self.combine is None else self.combine(*parts)


def rename(source: str, target: str) -> Recipe:
    """A tensor that only has another name in the checkpoint."""
    return Recipe((source,), target)


@dataclass(frozen=True)
class Mismatch:
    """A tensor of the model, and what the checkpoint has in its place."""

    key: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.key}: the model has {self.expected}, the checkpoint {self.found}"


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint is to a model. Loadable: all but ``loaded`` and ``ignored`` are empty.

    Attributes:
        loaded: tensors of the model that the checkpoint gives.
        missing: those that it does not give; they would be random.
        unexpected: tensors of the checkpoint that the model has no place for.
        mismatched: those of another shape, or another kind of number.
        ambiguous: tensors of the model that several tensors of the checkpoint claim.
        ignored: tensors of the checkpoint that are known and not needed.
    """

    loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    ambiguous: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def is_loadable(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched or self.ambiguous)

    def require_loadable(self, folder: Path, model: str) -> None:
        """Refuse what cannot be loaded.

        Args:
            folder: the checkpoint.
            model: what its weights were to go into.

        Raises:
            CheckpointError: anything missing, unexpected, mismatched or ambiguous.
        """
        if not self.is_loadable:
            raise CheckpointError(
                f"{folder}: the checkpoint does not fit {model}: {self.text(limit=_SHOWN)}"
            )

    def __str__(self) -> str:
        return self.text()

    def text(self, limit: int | None = None) -> str:
        """The report in lines; of each kind of problem at most ``limit`` are spelled out."""
        lines = [f"{self.loaded} tensors of the model found, {len(self.ignored)} ignored"]
        for kind in ("missing", "unexpected", "mismatched", "ambiguous"):
            problems = getattr(self, kind)
            shown = problems[:limit]
            lines += [f"{kind} ({len(problems)}):"] if problems else []
            lines += ["  " + " ".join(str(problem).split()) for problem in shown]
            if len(shown) < len(problems):
                lines.append(f"  and {len(problems) - len(shown)} more")
        return "\n".join(lines)


def choose_attention(config: Any) -> None:
    """Leave the attention implementation of a model and its parts to transformers: fused where the
    class has it, eager elsewhere. A checkpoint's own word would be followed as far as fetching a
    kernel from the network and running it.

    Args:
        config: a transformers config; changed in place.
    """
    config._attn_implementation = None  # the setter reaches every part's config


def require_finite(folder: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor of the model that is no finite numbers, as stored or after its conversion.

    Args:
        folder: the checkpoint, for the message.
        name: of the tensor.
        tensor: any; without data, or of integers, it passes.

    Raises:
        CheckpointError: NaN or infinity.
    """
    if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
        return
    # The extremes are NaN if one value is; no copy of the tensor is made.
    if not all(math.isfinite(float(extreme)) for extreme in torch.aminmax(tensor.detach())):
        raise CheckpointError(
            f"{folder}: {name} holds NaN or infinity in {str(tensor.dtype).removeprefix('torch.')}"
        )


@contextmanager
def empty_weights() -> Iterator[None]:
    """Models built inside have their parameters on the meta device, and their buffers for real:
    some, such as rotary frequencies, are in no checkpoint."""
    with init_empty_weights(include_buffers=False):
        yield


def check_weights(
    model: nn.Module,
    stored: Mapping[str, StoredTensor],
    recipes: Sequence[Recipe],
    *,
    ignore: Sequence[str] = (),
) -> LoadReport:
    """Compare a checkpoint with a model; reads and changes nothing.

    Args:
        model: on any device, the meta device included.
        stored: the checkpoint's tensors.
        recipes: of those that match a key, the first counts.
        ignore: regular expressions for whole keys that are not needed; looked at before recipes.
    """
    return _plan(model, stored, recipes, ignore).report


def load_weights(
    model: nn.Module,
    checkpoint: Checkpoint,
    recipes: Sequence[Recipe],
    *,
    ignore: Sequence[str] = (),
    dtype: torch.dtype | None,
    device: torch.device | str,
) -> LoadReport:
    """Fill a model from a checkpoint, and put it on ``device`` in eval mode.

    Args:
        model: built under :func:`empty_weights`.
        checkpoint: where the weights are.
        recipes: see :func:`check_weights`.
        ignore: see :func:`check_weights`.
        dtype: of the model's floating-point tensors; None keeps each as it is stored.
        device: of the model.

    Raises:
        CheckpointError: anything missing, unexpected, mismatched or ambiguous; NaN or infinity.
    """
    plan = _plan(model, checkpoint.tensors, recipes, ignore)
    plan.report.require_loadable(checkpoint.folder, type(model).__name__)
    waiting: dict[str, dict[str, Tensor]] = {}
    for file in checkpoint.files:
        for key, tensor in checkpoint.read(file, plan.target_of.keys()):
            name = plan.target_of[key]
            parts = waiting.setdefault(name, {})
            parts[key] = tensor
            target = plan.targets[name]
            if len(parts) == len(target.keys):
                made = target.recipe.make([parts[k] for k in target.keys if k])
                wanted = dtype if made.is_floating_point() else None
                # copy: nothing of the model may live on in a file's mapping
                value = made.to(device=device, dtype=wanted, copy=True).contiguous()
                require_finite(checkpoint.folder, name, value)
                _assign(model, name, value)
                del waiting[name]
        # What waits for a later file must not keep this one in memory.
        for parts in waiting.values():
            parts.update({key: tensor.clone() for key, tensor in parts.items()})
    return _finish(model, plan.report, device)


def _finish(model: nn.Module, report: LoadReport, device: torch.device | str) -> LoadReport:
    model.to(device)  # the buffers that are in no checkpoint
    model.eval()
    return report


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._parameters:
        old = module.get_parameter(leaf)
        module.register_parameter(leaf, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        module.register_buffer(leaf, value)


# ---- the plan


@dataclass
class _Target:
    """A tensor of the model: its recipe, and the keys it is made from, None where not found."""

    recipe: Recipe
    keys: list[str | None]


@dataclass
class _Plan:
    report: LoadReport = field(default_factory=lambda: LoadReport(0))
    targets: dict[str, _Target] = field(default_factory=dict)
    target_of: dict[str, str] = field(default_factory=dict)


def _plan(
    model: nn.Module,
    stored: Mapping[str, StoredTensor],
    recipes: Sequence[Recipe],
    ignore: Sequence[str],
) -> _Plan:
    wanted = model.state_dict(keep_vars=True)
    plan = _Plan()
    unexpected, ignored, ambiguous = [], [], []
    for key in stored:
        if any(re.fullmatch(pattern, key) for pattern in ignore):
            ignored.append(key)
            continue
        place = _place_of(key, recipes)
        if place is None or place[0] not in wanted:
            unexpected.append(key)
            continue
        name, recipe, position = place
        target = plan.targets.setdefault(name, _Target(recipe, [None] * len(recipe.sources)))
        if target.recipe is not recipe or target.keys[position] is not None:
            ambiguous.append(f"{name}: {key} and {next(k for k in target.keys if k)}")
            continue
        target.keys[position] = key
        plan.target_of[key] = name
    missing, mismatched, loaded = [], [], 0
    for name, tensor in wanted.items():
        if name not in plan.targets:
            missing.append(name)
            continue
        target = plan.targets[name]
        absent = [s for s, key in zip(target.recipe.sources, target.keys, strict=True) if not key]
        if absent:
            missing.append(f"{name} (nothing matches {', '.join(absent)})")
            continue
        mismatch = _mismatch(name, tensor, target, stored)
        if mismatch is None:
            loaded += 1
        else:
            mismatched.append(mismatch)
    plan.report = LoadReport(
        loaded=loaded,
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        mismatched=tuple(mismatched),
        ambiguous=tuple(ambiguous),
        ignored=tuple(ignored),
    )
    return plan


def _place_of(key: str, recipes: Sequence[Recipe]) -> tuple[str, Recipe, int] | None:
    """The model's key, the recipe and the number of the source that a checkpoint key is for."""
    for recipe in recipes:
        for position, pattern in enumerate(recipe.sources):
            match = re.fullmatch(pattern, key)
            if match is not None:
                return match.expand(recipe.target), recipe, position
    return None


def _mismatch(
    name: str, tensor: Tensor, target: _Target, stored: Mapping[str, StoredTensor]
) -> Mismatch | None:
    """Whether the recipe gives the model's shape, tried without data."""
    parts = [stored[key] for key in target.keys if key is not None]
    shapes = " and ".join(str(list(part.shape)) for part in parts)
    try:
        value = target.recipe.make(
            [torch.empty(part.shape, dtype=part.dtype, device="meta") for part in parts]
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return Mismatch(name, str(list(tensor.shape)), f"{shapes} ({reason})")
    if value.shape != tensor.shape:
        return Mismatch(name, str(list(tensor.shape)), shapes)
    if value.is_floating_point() != tensor.is_floating_point():
        return Mismatch(name, str(tensor.dtype), " and ".join(str(part.dtype) for part in parts))
    return None


def require_device(device: torch.device | str) -> torch.device:
    """The device that a model is to be loaded on.

    Raises:
        CheckpointError: no such device, or no GPU.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise CheckpointError(f"device must be a torch device, got {device!r}") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device {str(found)!r} was asked for, but no GPU was found")
    return found
